"""Requests to the chat endpoint, and an engine that says what it is told to."""

from __future__ import annotations

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}
ADD = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def post(address: str, body: object, route: str = CHAT, **headers: str) -> tuple[int, dict]:
    """Status and JSON of one request; bytes are sent as they are."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", route, content, {"Content-Type": "application/json"} | headers)
    reply = connection.getresponse()
    found = reply.status, json.loads(reply.read())
    connection.close()
    return found


class Fake(BaseHTTPRequestHandler):
    """An engine that says what it is told to, in as many answers as it is asked for."""

    says: list[str] = []
    ended, status, mood = "stop", 200, "well"
    asked: dict = {}
    left = threading.Event()

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked, n = asked, asked.get("n", 1)
        usage = {
            "prompt_tokens": 1,
            "completion_tokens": len(self.says),
            "total_tokens": 1 + len(self.says),
        }
        if self.mood == "silent":  # as an engine whose slots are taken
            self.connection.settimeout(20)
            if self.connection.recv(1) == b"":
                self.left.set()
            return
        self.send_response(self.status)
        self.end_headers()
        if self.status != 200:
            self.wfile.write(json.dumps({"error": {"message": "no"}}).encode())
        elif not asked["stream"]:
            text = "".join(self.says)
            reply = {"choices": [{"text": text, "finish_reason": self.ended}], "usage": usage}
            self.wfile.write(b"no JSON" if self.mood == "mad" else json.dumps(reply).encode())
        else:
            try:
                for text in self.says:
                    for place in range(n):
                        self.event(choices=[{"index": place, "text": text}])
                while self.mood == "endless":
                    self.event(choices=[{"text": "more" * 1000, "finish_reason": None}])
            except OSError:
                self.left.set()
                return
            if self.mood == "broken":
                return
            if self.mood == "mad":
                self.event(error={"message": "out of memory", "code": 500})
                return
            for place in range(n):  # as llama.cpp counts
                end = {"index": place, "text": "", "finish_reason": self.ended}
                self.event(choices=[end], usage=usage)
            self.wfile.write(b"data: [DONE]\n\n")

    def event(self, **body):
        self.wfile.write(f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode())
