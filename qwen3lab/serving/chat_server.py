"""Serve OpenAI's chat endpoint in front of an engine, with validation and safe tokenization.

Engines render a conversation with the chat template and tokenize the result, so `<|im_end|>` in a
user's text ends the user's turn. Here `chat.encode` makes the token ids, and the engine gets only
those, through its /v1/completions. llama.cpp and vLLM both accept ids there.

A request is answered or refused with an error of the 400s and a sentence (`openai_shapes`); what
the engine writes is read by `qwen3lab.answers`, the same whole and streamed. A client that leaves
or hangs ends its request, and the engine's work for it. Nothing is logged: messages are private.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.serving import llama_cpp
from qwen3lab.serving.completions import Completion
from qwen3lab.serving.openai_shapes import ChatRequest, Refused, read
from qwen3lab.serving.patience import PATIENCE, PatientProtocol, error_body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from transformers import PreTrainedTokenizerBase


Result = TypeVar("Result")
LARGEST = 1_000_000  # bytes of a request
# Bytes of a request that is read at once. With a thread for it, the two would wait for each other's
# turn at the interpreter, which takes longer than the few milliseconds of reading.
SMALL = 20_000
GRACE = 5  # seconds that answers under way have when the server is closed
GONE = 499  # the status, which nobody reads, of a request whose client left
# What the engines take under the same name, and what they do by themselves if it is not there.
PASSED_ON = (
    "seed stop presence_penalty frequency_penalty top_k min_p repetition_penalty logit_bias"
).split()


class Guard:
    """An OpenAI-compatible chat server in front of an engine, open as long as the `with` block.

    Args:
        engine: address of a server that has /v1/completions: `LlamaServer.address` or vLLM's.
        tokenizer: the tokenizer of the engine's model.
        context: tokens of prompt and answer together.
        name: the model's name in answers and at /v1/models.
        host, port: where to listen; by default on this machine alone, at a free port.
    Raises:
        Qwen3labError: nothing can listen there.
    """

    def __init__(
        self,
        engine: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int,
        name: str = "model",
        host: str = "127.0.0.1",
        port: int = 0,
    ):
        self.engine, self.tokenizer, self.context, self.name = engine, tokenizer, context, name
        self.encoding = threading.Lock()  # transformers' tokenizers are not thread-safe
        self._client: httpx.AsyncClient | None = None
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            raise Qwen3labError(
                f"Nothing can listen at {host}, port {port} ({error.strerror}). Choose another"
                " port, or end what listens there."
            ) from None
        where = f"[{host}]" if ":" in host else self._socket.getsockname()[0]
        # OpenAI's API is under /v1.
        self.address = f"http://{where}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                _app(self),
                http=PatientProtocol,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=int(PATIENCE),
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def __enter__(self) -> Guard:
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def translate(self, request: ChatRequest) -> dict[str, Any]:
        """Translate a chat request into a request for the engine's /v1/completions.

        Raises Refused for a conversation that the chat template cannot render, for a prompt that is
        too long, and for what cannot be had together.
        """
        try:
            with self.encoding:
                ids = chat.encode(
                    self.tokenizer,
                    [message.plain() for message in request.messages],
                    tools=request.offered or None,
                    thinking=request.chat_template_kwargs.enable_thinking,
                )
        except Qwen3labError as error:
            raise Refused(400, str(error)) from None
        except (
            Exception
        ) as error:  # the template is a program that runs on client input, the tools above all
            raise Refused(
                400, f"The chat template cannot write this conversation: {error}"
            ) from None
        room = self.context - len(ids)
        if room < 1:
            raise Refused(
                400,
                f"The prompt has {len(ids)} tokens, but the context is {self.context}. Shorten it.",
            )
        wanted = request.max_completion_tokens or request.max_tokens or room
        sent = {
            "prompt": ids,
            "model": self.name,
            "max_tokens": min(wanted, room),
            "temperature": request.temperature,
            "top_p": request.top_p,
            # llama.cpp counts the tokens of several answers in a stream alone.
            "stream": request.stream or request.n > 1,
        }
        for key in PASSED_ON:
            if (value := getattr(request, key)) is not None:
                sent[key] = value
        if request.repetition_penalty is not None:
            sent["repeat_penalty"] = request.repetition_penalty  # llama.cpp's name
        if request.n > 1:
            sent["n"] = request.n
        if request.logprobs:
            sent["logprobs"] = max(1, request.top_logprobs or 0)
        if request.schema_:
            if self.opened(request):
                raise Refused(
                    400,
                    "This model always thinks before it answers, and 'response_format' leaves no"
                    " room for thoughts. Ask without it.",
                )
            sent["json_schema"] = request.schema_  # of llama.cpp, which takes no other there
            sent["response_format"] = request.response_format.model_dump(
                by_alias=True, exclude_none=True
            )
        if sent["stream"]:
            sent["stream_options"] = {"include_usage": True}
        return sent

    def opened(self, request: ChatRequest) -> bool:
        """Tell whether the chat template's prompt leaves the engine inside the thoughts."""
        with self.encoding:
            return chat.traits(self.tokenizer).opened(request.chat_template_kwargs.enable_thinking)

    def prepare(self, body: bytes) -> tuple[Completion, dict[str, Any]]:
        """Read a request; returns its answers, none of them begun, and what the engine is asked."""
        request = read(body)
        return Completion(request, self.opened(request), self.name), self.translate(request)

    async def ask(
        self, body: dict[str, Any] | None, route: str = "/v1/completions"
    ) -> httpx.Response:
        """Send a request to the engine, and return its reply, of which only the head is read.

        Raises Refused with the engine's reason, or with status 502 if the engine does not answer.
        """
        method = "GET" if body is None else "POST"
        try:
            asked = self._client.build_request(method, self.engine.rstrip("/") + route, json=body)
            reply = await self._client.send(asked, stream=True)
            if reply.status_code == 200:
                return reply
            reason = (await reply.aread())[:2000].decode(errors="replace")
        except httpx.HTTPError as error:
            raise Refused(502, f"The engine does not answer ({_told(error)}).") from None
        status = reply.status_code if 400 <= reply.status_code < 500 else 502
        raise Refused(status, f"The engine refused: {_message(reason)}")

    async def answer(self, completion: Completion, sent: dict[str, Any]) -> dict[str, Any]:
        """Ask the engine for a whole answer. Raises Refused if it gives none."""
        reply = await self.ask(sent)
        try:
            async for event in _events(reply, streamed=sent["stream"]):
                _added(completion, event)
        finally:
            await reply.aclose()
        if not completion.ended:
            raise Refused(502, BROKEN_OFF)
        return completion.whole()

    async def stream(self, completion: Completion, reply: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the events of a streamed answer; one that breaks off ends with an error."""
        for chunk in completion.first():
            yield _event(chunk)
        try:
            async for event in _events(reply, streamed=True):
                for chunk in _added(completion, event):
                    yield _event(chunk)
            if not completion.ended:
                raise Refused(502, BROKEN_OFF)
        except Refused as refused:
            yield _event(error_body(refused.status, str(refused)))
            return
        for chunk in completion.last():
            yield _event(chunk)
        yield b"data: [DONE]\n\n"


TOO_LARGE = f"The body is too large. Send at most {LARGEST:,} bytes."
BROKEN_OFF = "The engine broke off in the middle of its answer. Ask again."


def _app(guard: Guard) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # A connection of its own for each request: closed, it tells the engine to stop; and kept
        # alive, it would occupy one of llama.cpp's threads.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx.Timeout(None, connect=10)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=timeout) as client:
            guard._client = client
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    @app.get("/health")
    async def health() -> dict[str, str]:
        await (await guard.ask(None, "/health")).aclose()
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": guard.name, "object": "model", "owned_by": "qwen3lab"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await _body(request)
        if len(body) > SMALL or guard.encoding.locked():
            completion, sent = await run_in_threadpool(guard.prepare, body)
        else:
            completion, sent = guard.prepare(body)
        if completion.request.stream:
            reply = await _while_there(request, guard.ask(sent))
            return _Stream(guard.stream(completion, reply), reply)
        return _json(200, await _while_there(request, guard.answer(completion, sent)))

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _json(error.status, error_body(error.status, str(error)))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]  # `request.url` also parses a client's Host, and may fail
        reason = f"There is nothing at {path}. The chat is at /v1/chat/completions."
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            reason = f"{request.method} does not work at {path}. Use {allowed}."
        return _json(error.status_code, error_body(error.status_code, reason), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(*_: Any) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        # Where it happened; an error's text could hold what a user wrote.
        print(*traceback.format_tb(error.__traceback__), type(error).__name__, file=sys.stderr)
        return _json(500, error_body(500, "The server has made a mistake. Report it."))

    return app


class _Stream(StreamingResponse):
    """A stream of events that closes the engine's reply, whatever ends it."""

    def __init__(self, events: AsyncIterator[bytes], reply: httpx.Response):
        super().__init__(events, media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self.reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.reply.aclose()


async def _body(request: Request) -> bytes:
    """Read the body of a request, within limits of size and time."""
    length = request.headers.get("Content-Length")
    if length is None and "Transfer-Encoding" not in request.headers:
        raise Refused(411, f"Say how long the body is (Content-Length), at most {LARGEST:,} bytes.")
    if length is not None and int(length) > LARGEST:
        raise Refused(413, TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST:
                    raise Refused(413, TOO_LARGE)
    except TimeoutError:
        raise Refused(
            408, f"The request took more than {PATIENCE:.0f} s to arrive. Send it again."
        ) from None
    return bytes(body)


async def _while_there(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work while the client is there. Raises ClientDisconnect when it has left."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, left = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({doing, left}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect()
        return doing.result()
    finally:
        for task in (doing, left):
            task.cancel()
        await asyncio.gather(doing, left, return_exceptions=True)


async def _events(reply: httpx.Response, *, streamed: bool) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of an engine's reply; a whole reply is one event.

    Raises Refused with status 502 for what is no completion, and where the engine breaks off.
    """
    try:
        if not streamed:
            yield _checked(await reply.aread())
            return
        rest = b""
        async for part in reply.aiter_bytes():
            *lines, rest = (rest + part).split(b"\n")  # a line of text may hold other line ends
            for line in lines:
                data = line.strip().removeprefix(b"data:").strip()
                if data.startswith(b"{"):
                    yield _checked(data)
    except httpx.HTTPError:
        raise Refused(502, BROKEN_OFF) from None


def _added(completion: Completion, event: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return completion.add(event)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Refused(
            502, f"The engine's answer cannot be read ({type(error).__name__}). Update the engine."
        ) from None


def _checked(data: bytes) -> dict[str, Any]:
    """Parse an event of an engine."""
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
        raise Refused(502, f"The engine gave no answer: {_message(data.decode(errors='replace'))}")
    return event


def _message(reason: str) -> str:
    """Find the sentence in an engine's error."""
    try:
        given = json.loads(reason)
        given = given.get("error", given)
        return str(given.get("message") or reason) if isinstance(given, dict) else str(given)
    except (ValueError, AttributeError):
        return reason[:2000]


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _event(content: dict[str, Any]) -> bytes:
    # In ASCII, because some clients take other line ends of Unicode for the end of an event.
    return f"data: {json.dumps(content)}\n\n".encode()


def _json(status: int, content: dict[str, Any], headers: Any = None) -> Response:
    text = json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")
    return Response(text, status, headers, "application/json")


def load_tokenizer(folder: str | Path, file: Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer with the chat template of the GGUF file.

    Serving then needs no trl. Raises Qwen3labError as `serving.check`, and if neither holds a
    template.
    """
    import gguf
    from transformers import AutoTokenizer

    llama_cpp.check(file)
    tokenizer = loading.call_loader(AutoTokenizer.from_pretrained, str(loading.resolve(folder)))
    written = gguf.GGUFReader(file).get_field("tokenizer.chat_template")
    if written is None and tokenizer.chat_template is None:
        raise Qwen3labError(
            f"{file.name!r} holds no chat template. Write it with qwen3lab.quantization.to_gguf()."
        )
    tokenizer.chat_template = written.contents() if written else tokenizer.chat_template
    return tokenizer


def main() -> None:
    """Serve a GGUF file with llama.cpp behind the chat guard until interrupted or terminated.

    Usage: `python -m qwen3lab.serving.chat_server FILE.gguf TOKENIZER_FOLDER`.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path, help="the model as GGUF")
    parser.add_argument("tokenizer", help="folder of the checkpoint that it was made from")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context", type=int, help="tokens of prompt and answer together")
    parser.add_argument(
        "--slots",
        type=int,
        default=8,
        help="answers that are written at the same time; others wait",
    )
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tokenizer = load_tokenizer(args.tokenizer, args.file)
    with (
        llama_cpp.LlamaServer(
            args.file, tokenizer, context=args.context, slots=args.slots
        ) as server,
        Guard(
            server.address,
            tokenizer,
            context=server.context,
            name=args.file.stem,
            host=args.host,
            port=args.port,
        ) as guard,
    ):
        print(f"{args.file.stem} answers at {guard.address}/v1", flush=True)
        stop.wait()


if __name__ == "__main__":
    try:
        main()
    except Qwen3labError as error:
        raise SystemExit(str(error)) from None
