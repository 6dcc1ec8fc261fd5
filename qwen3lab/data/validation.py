"""Validation of conversations for training, and windowing of long ones.

Roles need not alternate strictly: an assistant may call several tools, their results follow, and it
may call again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from qwen3lab.chat import ROLES
from qwen3lab.errors import Qwen3labError
from qwen3lab.messages import arguments

# characters in a row: about 50,000 tokens of English, beyond the 40,960 positions of a Qwen3 model
LONGEST = 200_000
# Half of a surrogate pair: UTF-8 cannot encode it, and tokenizers refuse it.
_SURROGATE = re.compile("[\ud800-\udfff]")
# Which kind may follow which; everything else is refused. A call (an assistant's turn with
# tool_calls) is a kind of its own.
_FOLLOWS = {
    "user": {"assistant", "call"},
    "assistant": {"user"},
    "call": {"tool"},
    "tool": {"tool", "assistant", "call"},
}


def fault(messages: Sequence[Any], tools: Sequence[Any] | None = None) -> str | None:
    """Return why a conversation cannot be trained on, or None. `check` also says where."""
    found = check(messages, tools)
    return found[0] if found else None


def check(
    messages: Sequence[Any], tools: Sequence[Any] | None = None, longest: int = LONGEST
) -> tuple[str, str] | None:
    """Find the first fault of a conversation as (reason, detail), or None.

    The reason is one of a few fixed sentences, so that it can be counted; the detail names the
    message and what it holds.

    Args:
        messages: dicts of "role" and "content", an assistant's optionally with "tool_calls".
        tools: JSON schemas of the functions that may be called; None skips the check of the calls'
            names.
        longest: maximum number of characters in a row.
    """
    if not messages:
        return "no messages", "the list is empty"
    length = 0
    for number, message in enumerate(messages, start=1):
        found = _message_fault(message)
        if found:
            return found[0], f"message {number}: {found[1]}"
        length += len(message.get("content") or "")
    if length > longest:
        return "too long", f"{length:,} characters; at most {longest:,} fit"
    return _order_fault(messages) or _tool_fault(messages, tools) or check_coding([messages, tools])


def check_text(text: Any, longest: int = LONGEST) -> tuple[str, str] | None:
    """Find the fault of a plain text for continued pre-training as (reason, detail), or None."""
    if not isinstance(text, str):
        return "a content that is not text", f"of type {type(text).__name__}"
    if not text.strip():
        return "an empty message", "nothing but white space" if text else "no character"
    if len(text) > longest:
        return "too long", f"{len(text):,} characters; at most {longest:,} fit"
    return _text_fault(text)


def check_coding(thing: Any) -> tuple[str, str] | None:
    """Check that a whole row can be encoded as UTF-8; return (reason, detail), or None."""
    try:
        json.dumps(thing, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        return "half a character", "a lone surrogate outside the text"
    except (ValueError, RecursionError, TypeError):
        return "nested too deeply", "a tool or a call"
    return None


def check_weight(answer: dict[str, Any]) -> tuple[str, str] | None:
    """Check that an answer's weight, if it has one, lets it be trained; return (reason, detail).

    The loss counts every trained token alike: a weight of 1 is the same as none, and no other can
    be honoured.
    """
    weight = answer.get("weight")
    if weight is None or weight == 1:
        return None
    if weight == 0:
        return "an answer that is not to be trained", "the last message has the weight 0"
    return "a weight that the training cannot give", f"{short(weight)} instead of 0 or 1"


def window(messages: Sequence[dict[str, Any]], turns: int = 5) -> list[dict[str, Any]]:
    """Keep the system message, if any, and the last `turns` turns of a conversation.

    A turn is a user's message with everything that answers it, so the cut never falls between a
    question and its answer, nor between a tool call and its result.

    Raises:
        Qwen3labError: fewer than one turn.
    """
    if turns < 1:
        raise Qwen3labError(f"A window of {turns} turns holds nothing. Give turns=1 or more.")
    system = [message for message in messages[:1] if message["role"] == "system"]
    rest = list(messages[len(system) :])
    starts = [place for place, message in enumerate(rest) if message["role"] == "user"]
    return system + (rest[starts[-turns] :] if len(starts) > turns else rest)


def short(thing: Any, size: int = 40) -> str:
    """Abbreviate any value to its beginning, on one line."""
    try:
        text = thing if isinstance(thing, str) else repr(thing)
    except RecursionError:
        return "(nested too deeply)"
    text = "".join(character if character.isprintable() else " " for character in text[: size + 1])
    return (
        repr(text[:size] + "…" if len(text) > size else text)
        if isinstance(thing, str)
        else text[:size]
    )


def _name(call: Any) -> str | None:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


def _calls(message: dict[str, Any]) -> list[Any]:
    return message.get("tool_calls") or []


def _text_fault(text: str) -> tuple[str, str] | None:
    if "\ufffd" in text:
        return (
            "text that was decoded wrongly",
            f"the replacement character U+FFFD at place {text.index(chr(0xFFFD)) + 1}",
        )
    half = _SURROGATE.search(text)
    return (
        ("half a character", f"the lone surrogate U+{ord(half[0]):04X} at place {half.start() + 1}")
        if half
        else None
    )


def _message_fault(message: Any) -> tuple[str, str] | None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        return "a role that the chat template does not know", short(role)
    content, calls = message.get("content"), message.get("tool_calls")
    if calls and (message["role"] != "assistant" or not isinstance(calls, list)):
        return "a tool call that cannot be read", (
            f"a call by the role {message['role']}"
            if isinstance(calls, list)
            else "tool_calls is no list"
        )
    if not isinstance(content, str) and not (content is None and calls):
        return "a content that is not text", (
            "there is none" if content is None else f"of type {type(content).__name__}"
        )
    if not isinstance(message.get("reasoning_content") or "", str):
        return "a content that is not text", "its thoughts"
    # A tool may well have nothing to say.
    if not (content or "").strip() and not calls and message["role"] != "tool":
        return "an empty message", f"the {message['role']}'s"
    return _text_fault((content or "") + (message.get("reasoning_content") or ""))


def _order_fault(messages: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    kinds = ["call" if _calls(message) else message["role"] for message in messages]
    if "system" in kinds[1:]:
        return "a system message that is not the first", f"message {kinds.index('system', 1) + 1}"
    start = int(kinds[0] == "system")
    if len(kinds) == start or kinds[start] != "user":
        first = (
            f"it begins with the role {messages[start]['role']}"
            if len(kinds) > start
            else "nothing but a system message"
        )
        return "no question before the answer", first
    for place in range(start + 1, len(kinds)):
        if kinds[place] not in _FOLLOWS[kinds[place - 1]]:
            before = kinds[place - 1]
            reason = (
                "a tool call without its result"
                if before == "call"
                else (
                    "a tool result without its call"
                    if kinds[place] == "tool"
                    else "two turns that cannot follow each other"
                )
            )
            return (
                reason,
                (
                    f"message {place + 1}: {messages[place]['role']} after"
                    f" {'a tool call' if before == 'call' else before}"
                ),
            )
    if messages[-1]["role"] != "assistant":
        return "no answer at the end", f"it ends with the role {messages[-1]['role']}"
    return None


def _tool_fault(
    messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None
) -> tuple[str, str] | None:
    """Find calls that are unreadable, of undeclared tools, or without exactly one result each."""
    if tools is not None and (not isinstance(tools, (list, tuple)) or not all(map(_name, tools))):
        return "tools that cannot be read", "each needs a function with a name"
    declared = {_name(tool) for tool in tools} if tools is not None else None
    open_calls: list[Any] = []
    for number, message in enumerate(messages, start=1):
        if message["role"] == "tool":
            wanted = [call.get("id") for call in open_calls]
            given = message.get("tool_call_id")
            if not open_calls or (given is not None and None not in wanted and given not in wanted):
                return "a tool result without its call", f"message {number}: " + (
                    "one result too many" if given is None else f"id {short(given)}"
                )
            open_calls.pop(wanted.index(given) if given in wanted else 0)
        elif open_calls:
            return (
                "a tool call without its result",
                f"message {number}: {_name(open_calls[0])} was not answered",
            )
        for call in _calls(message):
            if _name(call) is None or arguments(call) is None:
                why = "its arguments are no JSON object" if _name(call) else "it has no name"
                return "a tool call that cannot be read", f"message {number}: {why}"
            if declared is not None and _name(call) not in declared:
                return (
                    "a call of a tool that is not declared",
                    f"message {number}: {short(_name(call))}",
                )
        open_calls += _calls(message)
    return None
