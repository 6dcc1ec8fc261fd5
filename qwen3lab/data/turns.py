"""Read messages in any of the public spellings: roles, contents, typed parts, thoughts, calls.

Names are changed, nothing is repaired.
"""

from __future__ import annotations

import json
import re
from typing import Any

from qwen3lab.chat import ROLES
from qwen3lab.errors import Qwen3labError
from qwen3lab.messages import OTHERS, THOUGHTS, arguments

# The names that public sets use for the four roles. The chat template knows only the right-hand
# side.
ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
} | {role: role for role in ROLES}
CALLS = ("function_call", "tool_call")  # roles of a turn that is nothing but calls, as JSON text
UNSEEN = "a picture or a sound, which no model here takes in"
_SPELLED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)

Row = dict[str, Any]


class Unusable(Qwen3labError):
    """Error for a row that cannot be trained on: a fixed `reason` and this row's `detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"This row has {reason} ({detail}). Mend it, or leave it out.")
        self.reason, self.detail = reason, detail


def opened(value: Any) -> Any:
    """Parse a list or an object that a table keeps as JSON text; leave all else as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            inside = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return inside if isinstance(inside, (list, dict)) else value
    return value


def is_turns(value: Any) -> bool:
    """Tell a list of messages, whose every item names its role, from other lists."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and (turn.get("role") or turn.get("from")) for turn in value)
    )


def _role(role: Any) -> Any:
    return ALIASES.get(role.strip().lower(), role) if isinstance(role, str) else role


def messages_of(turns: list[Any]) -> list[Row]:
    """Read messages in any of the public spellings."""
    read: list[Row] = []
    for turn in turns:
        if isinstance(turn, dict) and {"human", "assistant"} <= turn.keys():  # a pair
            read += [
                {"role": ALIASES[name], "content": turn[name]} for name in ("human", "assistant")
            ]
        else:
            read.append(_message(turn))
    return _results_apart(read)


def _message(turn: Any) -> Row:
    if not isinstance(turn, dict):
        return {"role": None, "content": turn}
    role = turn["role"] if turn.get("role") is not None else turn.get("from")
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if isinstance(role, str) and role.strip().lower() in CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    message: Row = {"role": _role(role), "content": content}
    if isinstance(content, list):
        message |= _parts(content)
    if message["role"] == "tool" and isinstance(message["content"], (dict, list)):
        message["content"] = json.dumps(message["content"], ensure_ascii=False)
    thoughts = next((turn[name] for name in THOUGHTS if turn.get(name) not in (None, "")), None)
    if thoughts is not None and message["role"] == "assistant":
        message["reasoning_content"] = thoughts
    calls = turn.get("tool_calls") or turn.get("function_call")
    if calls:
        message["tool_calls"] = (
            [_call(call) for call in calls] if isinstance(calls, list) else _calls(calls)
        )
    if turn.get("tool_call_id") is not None:
        message["tool_call_id"] = turn["tool_call_id"]
    weight = next((turn[n] for n in ("weight", "loss_weight") if turn.get(n) is not None), None)
    if weight is None and isinstance(turn.get("loss"), bool):
        weight = float(turn["loss"])
    if weight is not None and message["role"] == "assistant":
        message["weight"] = weight
    return with_calls(message)


def _parts(parts: list[Any]) -> Row:
    """Read a content of typed parts: texts are joined, thoughts and calls go to their own keys."""
    texts, found = [], {}
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in OTHERS:
            raise Unusable(UNSEEN, f"a part of the type {kind!r}")
        value = (
            next(
                (part[name] for name in (kind, "text", "value") if part.get(name) is not None), None
            )
            if kind
            else None
        )
        if kind == "text" and isinstance(value, str):
            texts.append(value)
        elif kind in ("reasoning", "thinking") and isinstance(value, str):
            found["reasoning_content"] = "\n".join(
                filter(None, (found.get("reasoning_content"), value))
            )
        elif kind in ("tool_call", "tool_calls"):
            found["tool_calls"] = [*found.get("tool_calls", ()), *_calls(value)]
        else:
            return {}  # no list of parts: it stays as it is and is refused
    return {"content": "\n".join(texts)} | found if parts else {}


def joined_parts(parts: list[Any]) -> Any:
    read = _parts(parts)
    return read["content"] if set(read) == {"content"} else parts


def _calls(value: Any) -> list[Any]:
    """Read one call or a list of calls, also as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable("a tool call that cannot be read", "no JSON") from None
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any) -> Any:
    """Write a call in OpenAI's spelling, its arguments as JSON text as the template would write it.

    Text and not an object, because an Arrow table would give all calls the union of all arguments,
    filled with null.
    """
    if isinstance(call, dict) and not isinstance(call.get("function"), dict) and "name" in call:
        # Without the wrapper; "parameters" is what some models call the arguments.
        inside = {key: call[key] for key in ("name", "arguments") if key in call}
        if "arguments" not in call and "parameters" in call:
            inside["arguments"] = call["parameters"]
        head = {key: call[key] for key in ("id",) if call.get(key) is not None}
        call = head | {"type": "function", "function": inside}
    given = arguments(call)
    if given is None or not isinstance(call.get("function"), dict):
        return call
    return call | {
        "function": call["function"] | {"arguments": json.dumps(given, ensure_ascii=False)}
    }


def with_calls(message: Row) -> Row:
    """Turn calls that an answer spells between `<tool_call>` tags into calls."""
    content = message.get("content")
    if (
        message.get("role") != "assistant"
        or message.get("tool_calls")
        or not isinstance(content, str)
        or "<tool_call>" not in content
    ):
        return message
    spelled = _SPELLED.findall(content)
    if not spelled:
        return message
    calls = [call for text in spelled for call in _calls(text)]
    return message | {"content": _SPELLED.sub("", content).strip(), "tool_calls": calls}


def _results_apart(messages: list[Row]) -> list[Row]:
    """Cut one result that lists those of several calls into one for each call."""
    done: list[Row] = []
    for place, message in enumerate(messages):
        calls = messages[place - 1].get("tool_calls") if place else None
        alone = messages[place + 1 : place + 2] != [] and messages[place + 1].get("role") == "tool"
        if message["role"] == "tool" and isinstance(calls, list) and len(calls) > 1 and not alone:
            results = opened(message["content"])
            if isinstance(results, list) and len(results) == len(calls):
                done += [
                    message
                    | {
                        "content": one
                        if isinstance(one, str)
                        else json.dumps(one, ensure_ascii=False)
                    }
                    for one in results
                ]
                continue
        done.append(message)
    return done
