"""Serve OpenAI's chat endpoint in front of an engine, with validation and safe tokenization.

Engines render a conversation with the chat template and tokenize the result, so `<|im_end|>` in a
user's text ends the user's turn. Here `chat.encode` makes the token ids, and the engine gets only
those, through its /v1/completions. llama.cpp and vLLM both accept ids there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.serving import llama_cpp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


LARGEST = 1_000_000  # bytes of a request
PATIENCE = 60  # seconds that a client may take to send its request
THINK = ("<think>", "</think>")


class _Strict(BaseModel):
    """A strict pydantic model: no "3" for 3, and no silently ignored fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TextPart(_Strict):
    """A text content part; this server reads no other kind."""

    type: Literal["text"]
    text: str


class Function(_Strict):
    """The function of a tool call; `arguments` is JSON as text in OpenAI's format."""

    name: str
    arguments: str | dict[str, Any]


class ToolCall(_Strict):
    """A tool call of an earlier turn."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(_Strict):
    """A chat message; the roles are those of Qwen's template."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def plain(self) -> dict[str, Any]:
        """Convert the message to the format that `chat.encode` takes."""
        return self.model_dump(
            exclude_none=True, include={"role", "content", "reasoning_content", "tool_calls"}
        )


class Template(_Strict):
    """Options of the chat template."""

    enable_thinking: bool = False


class Options(_Strict):
    """Stream options."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """A chat completion request: the part of OpenAI's that this server supports.

    Everything else is refused.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: Options | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: Template = Template()
    user: str | None = None


class Refused(Exception):
    """A refused request, answered with an HTTP status and one sentence."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def read(body: bytes) -> ChatRequest:
    """Parse and validate the body of a chat request. Raises Refused, with the invalid field."""
    try:
        given = json.loads(body)
        json.dumps(
            given, ensure_ascii=False
        ).encode()  # fails for a lone surrogate, which no tokenizer accepts
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Refused(
            400, f"{'.'.join(str(part) for part in first['loc']) or 'the body'}: {first['msg']}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no valid JSON: {error}") from None


class Sorter:
    """A streaming parser that separates reasoning from the answer, with tags split across chunks.

    The reasoning can begin only at the very start of the text, and only once. `opened`: the prompt
    has begun it already (`chat.Traits.opened`).
    """

    FIELDS = ("content", "reasoning_content", "content")  # before, in and after the thoughts

    def __init__(self, opened: bool = False):
        self.held, self.stage, self.said = "", int(opened), False

    def add(self, text: str, *, last: bool = False) -> Iterator[tuple[str, str]]:
        """Yield (field, text) pairs for the unambiguous text so far; with `last`, for all."""
        self.held += text
        if self.stage < 2:
            tag = THINK[self.stage]
            before, found, after = self.held.partition(tag)
            if found and (self.stage or not (self.said or before.strip())):
                yield from self._tell(before)
                self.held, self.said, self.stage = after, False, self.stage + 1
                yield from self.add("", last=last)
                return
        wait = (
            0
            if last or self.stage == 2
            else next(
                (size for size in range(len(tag) - 1, 0, -1) if self.held.endswith(tag[:size])), 0
            )
        )
        ready, self.held = self.held[: len(self.held) - wait], self.held[len(self.held) - wait :]
        yield from self._tell(ready)

    def _tell(self, text: str) -> Iterator[tuple[str, str]]:
        text = (
            text if self.said else text.lstrip("\n")
        )  # the template's line breaks around the thoughts
        if text:
            self.said = True
            yield self.FIELDS[self.stage], text


class Guard:
    """An OpenAI-compatible chat server in front of an engine, open as long as the `with` block.

    Args:
        engine: address of a server that has /v1/completions: `LlamaServer.address` or vLLM's.
        tokenizer: the tokenizer of the engine's model.
        context: tokens of prompt and answer together.
        name: the model's name in answers and at /v1/models.
        host, port: where to listen; by default on this machine alone, at a free port.
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
        self.engine, self.tokenizer, self.context, self.name = (
            urllib.parse.urlsplit(engine),
            tokenizer,
            context,
            name,
        )
        self._encoding = threading.Lock()  # transformers' tokenizers are not thread-safe
        self._http = _Server((host, port), type("Handler", (_Handler,), {"guard": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> Guard:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def address(self) -> str:
        """Return the address that it listens on; OpenAI's API is under /v1."""
        host, port = self._http.server_address[:2]
        return f"http://{host}:{port}"

    def translate(self, request: ChatRequest) -> dict[str, Any]:
        """Translate a chat request into a request for the engine's /v1/completions.

        Raises Refused for a conversation that the chat template cannot render, for a prompt that is
        too long, and for streaming with tools.
        """
        if request.stream and request.tools:
            raise Refused(
                400, "This server does not stream answers that may call tools. Ask without stream."
            )
        try:
            with self._encoding:
                ids = chat.encode(
                    self.tokenizer,
                    [message.plain() for message in request.messages],
                    tools=request.tools,
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
        options = {
            key: value for key in ("seed", "stop") if (value := getattr(request, key)) is not None
        }
        return {
            "prompt": ids,
            "model": self.name,
            "max_tokens": min(wanted, room),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": request.stream,
            **({"stream_options": {"include_usage": True}} if request.stream else {}),
            **options,
        }

    def opened(self, request: ChatRequest) -> bool:
        """Tell whether the chat template's prompt leaves the engine inside the thoughts."""
        with self._encoding:
            return chat.traits(self.tokenizer).opened(request.chat_template_kwargs.enable_thinking)

    def ask(
        self, body: dict[str, Any] | None, route: str = "/v1/completions"
    ) -> http.client.HTTPResponse:
        """Send a request to the engine.

        Raises Refused with the engine's reason, or with status 502 if the engine does not answer.
        """
        try:
            connection = http.client.HTTPConnection(self.engine.hostname, self.engine.port)
            method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, route, content, {"Content-Type": "application/json"})
            reply = connection.getresponse()
        except OSError as error:
            raise Refused(502, f"The engine does not answer ({error}).") from None
        if reply.status != 200:
            raise Refused(
                reply.status if 400 <= reply.status < 500 else 502,
                f"The engine refused: {reply.read(2000).decode(errors='replace')}",
            )
        return reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # waiting connections; the default, 5, rejects clients under load


class _Handler(BaseHTTPRequestHandler):
    guard: Guard
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    # Head and body are two writes; the second would wait 40 ms for the client's ACK of the first.
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Log nothing: users' messages are private."""

    def do_GET(self) -> None:
        try:
            if self.path == "/health":
                self.guard.ask(None, "/health").read()
                self._send(200, {"status": "ok"})
            elif self.path == "/v1/models":
                self._send(
                    200,
                    {
                        "object": "list",
                        "data": [
                            {"id": self.guard.name, "object": "model", "owned_by": "qwen3lab"}
                        ],
                    },
                )
            else:
                raise Refused(404, f"There is nothing at {self.path}.")
        except Refused as refused:
            self._refuse(refused)

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path != "/v1/chat/completions":
                raise Refused(404, f"There is nothing at {self.path}.")
            request = read(body)
            reply = self.guard.ask(self.guard.translate(request))
            if request.stream:
                self._stream(request, reply)
            else:
                self._answer(request, json.load(reply))
        except Refused as refused:
            self._refuse(refused)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client disconnected

    def _body(self) -> bytes:
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            length = -1
        if not 0 <= length <= LARGEST:
            self.close_connection = True  # the rest of this request would be read as the next one
            for _ in range(
                min(length, 20 * LARGEST) // LARGEST
            ):  # a client that is still sending would not see the answer
                self.rfile.read(LARGEST)
            raise Refused(
                411 if length < 0 else 413,
                f"Say how long the body is (Content-Length), at most {LARGEST:,} bytes.",
            )
        return self.rfile.read(length)

    def _answer(self, request: ChatRequest, reply: dict[str, Any]) -> None:
        choice = reply["choices"][0]
        thoughts, text = chat.split_thinking(choice["text"], self.guard.opened(request))
        calls = chat.extract_tool_calls(text)
        message: dict[str, Any] = {"role": "assistant", "content": text.strip()}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message |= {
                "content": text[: text.index("<tool_call>")].strip() or None,
                "tool_calls": [
                    {
                        "id": f"call_{uuid.uuid4().hex}",
                        "type": "function",
                        "function": {
                            "name": call["name"],
                            "arguments": json.dumps(call.get("arguments", {}), ensure_ascii=False),
                        },
                    }
                    for call in calls
                ],
            }
        choices = [
            {
                "index": 0,
                "message": message,
                "finish_reason": "tool_calls" if calls else choice["finish_reason"],
            }
        ]
        self._send(
            200, self._head("chat.completion") | {"choices": choices, "usage": reply["usage"]}
        )

    def _stream(self, request: ChatRequest, reply: http.client.HTTPResponse) -> None:
        self.send_response(200)
        for name, value in (
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-cache"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        head, usage = self._head("chat.completion.chunk"), None
        sorted_out = Sorter(self.guard.opened(request))

        def send(choices: list[dict[str, Any]], **more: Any) -> None:
            self.wfile.write(
                b"data: "
                + json.dumps(head | {"choices": choices} | more, ensure_ascii=False).encode()
                + b"\n\n"
            )

        send([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        with reply:  # closed if the client disconnects, and the engine stops generating
            for part in _events(reply):
                usage = part.get("usage") or usage
                for choice in part.get("choices", []):
                    ended = choice.get("finish_reason")
                    for field, text in sorted_out.add(choice.get("text") or "", last=bool(ended)):
                        send([{"index": 0, "delta": {field: text}, "finish_reason": None}])
                    if ended:
                        send([{"index": 0, "delta": {}, "finish_reason": ended}])
            if usage and request.stream_options and request.stream_options.include_usage:
                send([], usage=usage)
            self.wfile.write(b"data: [DONE]\n\n")

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.guard.name,
        }

    def _refuse(self, refused: Refused) -> None:
        self._send(
            refused.status,
            {
                "error": {
                    "message": str(refused),
                    "code": refused.status,
                    "type": "invalid_request_error" if refused.status < 500 else "server_error",
                }
            },
        )

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body, ensure_ascii=False).encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _events(reply: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Parse the JSON objects of a stream of server-sent events."""
    for line in reply:
        data = line.decode().strip().removeprefix("data:").strip()
        if data.startswith("{"):
            yield json.loads(data)


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
