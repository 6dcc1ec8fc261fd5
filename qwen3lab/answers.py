"""Read what a model wrote: its thoughts, its text and its tool calls, whole or as a stream.

A tag is meant where a chat template would write it, and is only mentioned, so text, elsewhere:

- Thoughts begin with the answer: with `<think>`, or without it where the prompt holds that tag
  (`opened`). They end at the first `</think>` that begins or ends a line, or stands between two
  words without a space, quote or bracket. If there is none, then at the first that is not quoted.
- A call is `<tool_call>`, a JSON object with the name of a function that was offered and an object
  of arguments, `</tool_call>`. It begins or ends a line, and stands in no fenced code and no
  thoughts. A call that is anything else stays text, letter by letter.
- Nothing is lost: the pieces of an answer, joined, are what the model wrote. Only tags and the line
  breaks beside them, which the template writes, are neither thoughts nor text nor calls.

`Reader` gives the same pieces however the stream is cut. It holds back what may still be a tag: a
few characters, a call until it is complete, and what follows a `</think>` amid a line until another
one or the end has settled which of them was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

OPEN, CLOSE = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"
QUOTES = frozenset("`\"'“”‘’«»「」『』")
BRACKETS = frozenset("()[]{}<>（）【】《》")
BESIDE = {"id", "type", "index"}  # what a call may hold beside its name and arguments
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A piece of an answer, as the model wrote it.

    kind: thoughts, text, call, or mark for a tag and the line breaks beside it. call: the name and
    the arguments of a call.
    """

    kind: Literal["thoughts", "text", "call", "mark"]
    text: str
    call: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer: its thoughts, its text and its calls, dicts of "name" and "arguments"."""

    thoughts: str
    text: str
    calls: list[dict[str, Any]]


def read(
    text: str, opened: bool | None = None, tools: Sequence[Mapping[str, Any]] | None = None
) -> Answer:
    """Read a whole answer.

    Args:
        opened: whether the prompt ended inside the thoughts (`chat.Traits.opened`). None: not
            known; the text tells by a `</think>` that is meant and has no `<think>` before it.
        tools: the functions that were offered, as in a request. None: not known, any is taken.
    """
    reader = Reader(_unopened(text) if opened is None else opened, tools)
    return joined(reader.add(text, last=True))


def joined(pieces: Sequence[Piece]) -> Answer:
    """Join the pieces of a whole answer."""
    thoughts, said = (
        "".join(piece.text for piece in pieces if piece.kind == kind)
        for kind in ("thoughts", "text")
    )
    return Answer(thoughts, said, [piece.call for piece in pieces if piece.call is not None])


class Reader:
    """A reader of an answer that comes in pieces, cut anywhere.

    opened, tools: as in `read`; how a stream was opened has to be known.
    """

    def __init__(self, opened: bool = False, tools: Sequence[Mapping[str, Any]] | None = None):
        self.offered = None if tools is None else frozenset(filter(None, map(_name, tools)))
        self._opened, self._stage = opened, self._start
        self._held = ""  # what is not settled yet
        self._pieces: list[Piece] = []
        self._line = ""  # the line so far, up to what is held
        self._fence = ""  # the marks that opened the code around it
        self._breaks = ""  # line breaks that are the template's if a tag follows
        self._said, self._tagged = False, False  # text, or a tag, came before
        self._doubtful, self._seen = -1, 0  # places in what is held

    def add(self, text: str, *, last: bool = False) -> list[Piece]:
        """Read on, and return the pieces that are settled now; with `last`, all of them."""
        self._held += text
        while self._stage(last):
            pass
        if last:
            self._settle(self._stage == self._thoughts or self._tagged)
        pieces, self._pieces = self._pieces, []
        return pieces

    # A stage settles a part of what is held, and tells whether the next may go on.

    def _start(self, last: bool) -> bool:
        begin = self._held.lstrip()
        if begin.startswith(OPEN):
            self._mark(len(self._held) - len(begin) + len(OPEN))
            self._stage = self._thoughts
        elif not last and OPEN.startswith(begin):
            return False
        else:
            self._tagged = self._opened
            self._stage = self._thoughts if self._opened else self._text
        return True

    def _thoughts(self, last: bool) -> bool:
        ready = len(self._held) - (0 if last else _begun(self._held, CLOSE))
        while (place := self._held.find(CLOSE, self._seen)) >= 0:
            line = (self._line + self._held[:place]).rpartition("\n")[2]
            meant = _meant(line, self._held[place + len(CLOSE) :], last)
            if meant is None:  # what follows the tag decides
                ready = place
                break
            if meant:
                return self._close(place)
            if self._doubtful < 0 and not _quoted(line, self._held[place + len(CLOSE) :]):
                self._doubtful = place
            self._seen = place + len(CLOSE)
        if self._doubtful >= 0:
            if last:
                return self._close(self._doubtful)
            ready = self._doubtful
        self._say("thoughts", ready)
        return False

    def _close(self, place: int) -> bool:
        self._say("thoughts", place)
        self._mark(len(CLOSE))
        self._said, self._stage = False, self._text
        return True

    def _text(self, last: bool) -> bool:
        if self.offered == frozenset():
            place = -1
        else:
            place = self._held.find(CALL)
        if place < 0:
            wait = 0 if last or self.offered == frozenset() else _begun(self._held, CALL)
            self._say("text", len(self._held) - wait)
            return False
        self._say("text", place)
        self._stage, self._seen = self._call, len(CALL)
        return True

    def _call(self, last: bool) -> bool:
        """Read what is held from a `<tool_call>` on."""
        found, end = self._complete(last)
        if found is None:
            return False
        self._stage = self._text
        if not found:
            self._say("text", len(CALL))
            return True
        body = self._held[len(CALL) : end]
        self._mark(len(CALL) + len(body) - len(body.lstrip()))
        self._pieces.append(Piece("call", body.strip(), found))
        self._held = self._held[len(body.strip()) :]
        self._mark(len(body) - len(body.rstrip()) + len(CALLED))
        return True

    def _complete(self, last: bool) -> tuple[dict[str, Any] | None, int]:
        """Find the call and the place where its body ends: {} if it is none, None if unsettled."""
        begin = self._held[len(CALL) :].lstrip()
        if self._fence or _FENCE.match(self._line) or (begin and begin[0] != "{"):
            return {}, 0
        while (end := self._held.find(CALLED, self._seen)) >= 0:
            call, complete = _parsed(self._held[len(CALL) : end], self.offered)
            if call:
                meant = _alone(self._line, self._held[end + len(CALLED) :], last)
                return (None if meant is None else call if meant else {}), end
            if complete:
                return {}, end
            self._seen = end + len(CALLED)  # that tag was inside one of the call's texts
        if last:
            return {}, 0
        self._seen = max(self._seen, len(self._held) - len(CALLED) + 1)
        return None, 0

    # What is settled leaves what is held.

    def _say(self, kind: Literal["thoughts", "text"], size: int) -> None:
        text, self._held = self._held[:size], self._held[size:]
        self._doubtful, self._seen = max(-1, self._doubtful - size), max(0, self._seen - size)
        self._count(text)
        said = text.strip("\n")
        if not said:
            self._breaks += text
            return
        start = text.index(said)
        self._breaks += text[:start]
        self._settle(self._tagged and not self._said)
        self._pieces.append(Piece(kind, said))
        self._breaks, self._said, self._tagged = text[start + len(said) :], True, False

    def _mark(self, size: int) -> None:
        """Take a tag, with the line breaks before it."""
        tag, self._held = self._held[:size], self._held[size:]
        self._pieces.append(Piece("mark", self._breaks + tag))
        self._breaks, self._line, self._tagged = "", "", True
        self._doubtful, self._seen = -1, 0

    def _settle(self, marks: bool) -> None:
        if self._breaks:
            kind = "mark" if marks else "thoughts" if self._stage == self._thoughts else "text"
            self._pieces.append(Piece(kind, self._breaks))
        self._breaks = ""

    def _count(self, text: str) -> None:
        """Follow the lines of the text, and the code between fences."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            found = _FENCE.match(line)
            if found and not self._fence:
                self._fence = found[1]
            elif found and found[1].startswith(self._fence) and not found[2].strip():
                self._fence = ""


def _name(tool: Mapping[str, Any]) -> str | None:
    """Find the name of a function that is offered; OpenAI puts it one level down."""
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None


def _begun(text: str, tag: str) -> int:
    """Count the characters at the end of a text with which a tag may begin."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)


def _meant(line: str, after: str, last: bool) -> bool | None:
    """Tell whether a `</think>` is meant, by its line before and the text after it."""
    if not line.strip():
        return True
    rest = after.lstrip(" \t\r")
    if not rest:
        return True if last else None
    apart = QUOTES | BRACKETS
    return rest[0] == "\n" or not any(
        sign.isspace() or sign in apart for sign in (line[-1], after[0])
    )


def _quoted(line: str, after: str) -> bool:
    return line[-1:] in QUOTES and after[:1] in QUOTES


def _alone(line: str, after: str, last: bool) -> bool | None:
    """Tell whether a call begins or ends a line, where calls that follow each other count as one.

    None: what comes next decides.
    """
    if not line.strip():
        return True
    rest = after.lstrip(" \t\r")
    if not last and CALL.startswith(rest):
        return None
    return not rest or rest[0] == "\n" or rest.startswith(CALL)


def _parsed(body: str, offered: Collection[str] | None) -> tuple[dict[str, Any] | None, bool]:
    """Parse the body of a call; and tell whether it is complete, so that no more can mend it."""
    try:
        found = json.loads(body, parse_constant=_no_json)
        json.dumps(found, ensure_ascii=False).encode()  # half a character is no text
    except json.JSONDecodeError as error:
        return None, not error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return None, True
    call = found.get("function", found) if isinstance(found, dict) else None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return None, True
    given = [call[key] for key in ("arguments", "parameters") if call.get(key) not in (None, "")]
    others = (set(found) - {"function"} if call is not found else set()) | set(call)
    if others - BESIDE - {"name", "arguments", "parameters"} or len(given) > 1:
        return None, True
    arguments = given[0] if given else {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return None, True
    if not isinstance(arguments, dict) or (offered is not None and call["name"] not in offered):
        return None, True
    return {"name": call["name"], "arguments": arguments}, True


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unopened(text: str) -> bool:
    """Tell whether a text ends thoughts that it has not opened."""
    before, closed, after = text.partition(CLOSE)
    return bool(closed and OPEN not in before) and _meant(before.rpartition("\n")[2], after, True)
