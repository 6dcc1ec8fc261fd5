"""Speak HTTP with patience that ends: a connection whose client hangs is closed.

uvicorn waits for ever for the rest of a request's head, and for a client that reads nothing of what
it is sent. A few hundred such clients would use up the process's open files.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 60.0  # seconds that a client may take to send its request, or to take what it is sent


def error_body(status: int, reason: str) -> dict[str, Any]:
    """Write an error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": reason, "type": kind, "param": None, "code": status}}


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with an end to waiting, and errors in OpenAI's shape."""

    _request: asyncio.TimerHandle | None = None  # runs while a request's head is awaited
    _reading: asyncio.TimerHandle | None = None  # runs while the client takes nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are two writes; the second would wait 40 ms for the client's confirmation of
        # the first.
        line = transport.get_extra_info("socket")
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = self.loop.call_later(PATIENCE, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._request:
            self._request.cancel()
            self._request = None
        elif not answering and not self._request:
            self._request = self.loop.call_later(PATIENCE, self._give_up)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._reading:
            self._reading = self.loop.call_later(PATIENCE, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._request, self._reading):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer is on its way already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error_body(400, f"{msg} Send HTTP/1.1.")).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _give_up(self) -> None:
        self.transport.abort()
