"""Turn what an engine completes into OpenAI's chat answers, whole or piece by piece.

A whole reply is read like a stream of one event, so both give the same thoughts, text and calls.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from qwen3lab.answers import Piece, Reader, joined
from qwen3lab.serving import schemas
from qwen3lab.serving.openai_shapes import ChatRequest, Refused

NEVER = -9999.0  # OpenAI's log-probability of a token that cannot be drawn


class Completion:
    """The answers to one request, which events of the engine make longer.

    Args:
        request: the chat request.
        opened: whether the prompt ended inside the thoughts.
        name: the model's name in the answer.
    """

    def __init__(self, request: ChatRequest, opened: bool, name: str):
        self.request = request
        self.usage: dict[str, Any] | None = None
        self.choices = [_Choice(request, opened) for _ in range(request.n)]
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": name,
        }

    @property
    def ended(self) -> bool:
        """Tell whether the engine has ended every answer."""
        return all(choice.ended for choice in self.choices)

    def add(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Read an event of the engine, and return the chunks of a stream that it gives.

        Raises KeyError, TypeError or ValueError for an event that is no completion.
        """
        chunks = []
        for part in event["choices"]:
            place = part.get("index") or 0
            deltas = self.choices[place].add(part)
            chunks += [self.chunk(place, *delta) for delta in deltas]
        self._count(event)
        return chunks

    def chunk(
        self,
        place: int,
        delta: dict[str, Any],
        ended: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write a chunk of a stream."""
        choice: dict[str, Any] = {"index": place, "delta": delta, "finish_reason": ended}
        if logprobs:
            choice["logprobs"] = logprobs
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def first(self) -> list[dict[str, Any]]:
        """Write the chunks that begin a stream."""
        begin = {"role": "assistant", "content": ""}
        return [self.chunk(place, begin) for place in range(len(self.choices))]

    def last(self) -> list[dict[str, Any]]:
        """Write the chunk of the token counts, if the request asks for it."""
        options = self.request.stream_options
        if not (options and options.include_usage and self.usage):
            return []
        return [
            self._head | {"object": "chat.completion.chunk", "choices": [], "usage": self.usage}
        ]

    def whole(self) -> dict[str, Any]:
        """Write the answer as a whole."""
        choices = [{"index": place} | choice.whole() for place, choice in enumerate(self.choices)]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": self.usage}

    def _count(self, event: dict[str, Any]) -> None:
        """Add up the tokens: llama.cpp counts each answer of a stream, vLLM all at the end."""
        usage = event.get("usage")
        if not usage:
            return
        if self.usage and event["choices"]:
            answers = self.usage["completion_tokens"] + usage["completion_tokens"]
            total = usage["prompt_tokens"] + answers
            usage = usage | {"completion_tokens": answers, "total_tokens": total}
        self.usage = usage


class _Choice:
    """One answer, as far as it has come."""

    def __init__(self, request: ChatRequest, opened: bool):
        self.reader = Reader(opened, request.offered)
        self.pieces: list[Piece] = []
        self.logprobs: list[dict[str, Any]] | None = [] if request.logprobs else None
        self.ended: str | None = None
        self.calls: list[dict[str, Any]] = []
        self._most = None if request.parallel_tool_calls else 1
        self._top = request.top_logprobs or 0
        self._schema = request.schema_

    def add(self, part: dict[str, Any]) -> list[tuple]:
        """Read a part of the answer; returns deltas, with how it ended and log-probabilities.

        Raises Refused for an answer that does not hold to its schema.
        """
        reason = part.get("finish_reason")
        pieces = self.reader.add(part.get("text") or "", last=bool(reason))
        deltas: list[tuple] = []
        for piece in pieces:
            if self._most == len(self.calls):  # it was to end with this call
                break
            self.pieces.append(piece)
            if piece.kind == "call":
                self.calls.append(_call(piece))
                deltas.append(({"tool_calls": [{"index": len(self.calls) - 1} | self.calls[-1]]},))
            elif piece.kind != "mark":
                field = "content" if piece.kind == "text" else "reasoning_content"
                deltas.append(({field: piece.text},))
        if self.logprobs is not None:
            found = log_probabilities(part.get("logprobs"), self._top)
            self.logprobs += found
            if found:
                deltas.append(({}, None, {"content": found}))
        if reason == "stop" and self._schema:
            if not schemas.holds(joined(self.pieces).text, self._schema):
                raise Refused(
                    400, "The engine could not hold to this 'response_format'. Simplify the schema."
                )
        if reason:
            self.ended = "tool_calls" if self.calls and reason == "stop" else reason
            deltas.append(({}, self.ended))
        return deltas

    def whole(self) -> dict[str, Any]:
        answer = joined(self.pieces)
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.thoughts:
            message["reasoning_content"] = answer.thoughts
        if self.calls:
            message |= {"content": answer.text or None, "tool_calls": self.calls}
        choice: dict[str, Any] = {"message": message, "finish_reason": self.ended}
        return (
            choice if self.logprobs is None else choice | {"logprobs": {"content": self.logprobs}}
        )


def _call(piece: Piece) -> dict[str, Any]:
    arguments = json.dumps(piece.call["arguments"], ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex}",
        "type": "function",
        "function": {"name": piece.call["name"], "arguments": arguments},
    }


def log_probabilities(given: dict[str, Any] | None, top: int) -> list[dict[str, Any]]:
    """Write an engine's log-probabilities as OpenAI's chat answers have them.

    llama.cpp gives them nearly so; vLLM gives the lists of the older endpoint, which know a token's
    text and not its bytes.
    """
    if not given:
        return []
    if "content" in given:
        return [
            _likely(entry)
            | {"top_logprobs": [_likely(other) for other in (entry["top_logprobs"] or [])[:top]]}
            for entry in given["content"] or []
        ]
    rest: Sequence[dict[str, float] | None] = given.get("top_logprobs") or []
    found = []
    for place, (token, chance) in enumerate(zip(given["tokens"], given["token_logprobs"])):
        others = (rest[place] if place < len(rest) else None) or {}
        ranked = sorted(others.items(), key=lambda other: -other[1])[:top]
        found.append(
            _likely({"token": token, "logprob": chance})
            | {"top_logprobs": [_likely({"token": t, "logprob": p}) for t, p in ranked]}
        )
    return found


def _likely(entry: dict[str, Any]) -> dict[str, Any]:
    token, chance = entry["token"], entry["logprob"]
    spelled = entry.get("bytes") or list(token.encode(errors="replace"))
    return {"token": token, "logprob": NEVER if chance is None else chance, "bytes": spelled}
