"""Read messages in any of the public spellings: roles, contents, typed parts, thoughts, calls.

Names are changed, nothing is repaired. A key that holds something is read, or it is noted with the
place where it stands (`Left`), so that the report can name it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qwen3lab.chat import ROLES
from qwen3lab.data.columns import NAMES, Left, filled
from qwen3lab.errors import Qwen3labError
from qwen3lab.messages import ARGUMENTS, OTHERS, TEXT, THOUGHTS, arguments

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


class Keys:
    """Keys of an object, of which those that were read are struck out."""

    def __init__(self, thing: Mapping[str, Any]):
        self.thing, self.read = thing, set()

    def first(self, *names: str) -> Any:
        """Take the first of several names that holds something; one that says the same is read."""
        held = [name for name in names if filled(self.thing.get(name))]
        if not held:
            return next((self.thing[n] for n in names if self.thing.get(n) is not None), None)
        value = self.thing[held[0]]
        self.read.update(name for name in held if self.thing[name] == value)
        return value

    def leave(self, left: Left, where: str) -> None:
        """Note the keys that hold something and were not read."""
        left.update(
            (key, where)
            for key, value in self.thing.items()
            if key not in self.read and filled(value)
        )


def messages_of(turns: list[Any], left: Left) -> list[Row]:
    """Read messages in any of the public spellings; `left` takes the keys that were not read."""
    read: list[Row] = []
    for turn in turns:
        if isinstance(turn, dict) and {"human", "assistant"} <= turn.keys():  # a pair
            keys = Keys(turn)
            read += [
                _message({"role": ALIASES[name], "content": keys.first(name)}, left)
                for name in ("human", "assistant")
            ]
            keys.leave(left, "a turn")
        else:
            read.append(_message(turn, left))
    return _results_apart(read)


def _message(turn: Any, left: Left) -> Row:
    if not isinstance(turn, dict):
        return {"role": None, "content": turn}
    keys = Keys(turn)
    role, content = keys.first("role", "from"), keys.first("content", "value")
    message: Row = {"role": _role(role), "content": content}
    if isinstance(role, str) and role.strip().lower() in CALLS:
        message = {"role": "assistant", "content": "", "tool_calls": _calls(content, left)}
    elif isinstance(content, list):
        message |= _parts(content, message["role"], left)
    if message["role"] == "tool" and isinstance(message["content"], (dict, list)):
        message["content"] = json.dumps(message["content"], ensure_ascii=False)
    if message["role"] == "assistant":
        _add_thoughts(message, keys, left)
    if "tool_calls" not in message:
        calls = keys.first("tool_calls", "function_call")
        if calls:
            message["tool_calls"] = (
                [_call(call, left) for call in calls]
                if isinstance(calls, list)
                else _calls(calls, left)
            )
    if filled(turn.get("tool_call_id")):
        message["tool_call_id"] = keys.first("tool_call_id")
    _add_weight(message, keys)
    seen = next((key for key in NAMES["pictures"] if turn.get(key)), None)
    if seen:
        raise Unusable(UNSEEN, f"{seen!r} of a message")
    keys.leave(left, "a message")
    return with_calls(message, left)


def _add_thoughts(message: Row, keys: Keys, left: Left) -> None:
    """Take the thoughts under a key of their own; those in parts follow, as in `messages.read`."""
    # true or false says whether it thinks.
    given = keys.first(*(n for n in THOUGHTS if not isinstance(keys.thing.get(n), bool)))
    if not filled(given):
        return
    given = joined_parts(given, left) if isinstance(given, list) else given
    inside = message.get("reasoning_content")
    if isinstance(given, str) and inside not in (None, given):
        given = f"{given}\n{inside}"
    message["reasoning_content"] = given


def _add_weight(message: Row, keys: Keys) -> None:
    """Take whether a message is to be trained; only that of an assistant can be."""
    weight = keys.first("weight", "loss_weight")
    if isinstance(keys.thing.get("loss"), bool) and weight in (None, keys.thing["loss"]):
        weight = float(keys.first("loss"))
    if message["role"] == "assistant":
        if weight is not None:
            message["weight"] = weight
    elif weight != 0:
        keys.read -= {"weight", "loss_weight", "loss"}


def _parts(parts: list[Any], role: Any, left: Left) -> Row:
    """Read a content of typed parts: texts are joined, thoughts and calls go to their own keys."""
    texts, found, inside = [], {}, set()
    for part in parts:
        if not isinstance(part, dict):
            return {}  # no list of parts: it stays as it is and is refused
        # Some files name no type and write {"image": …} beside {"text": …}.
        kind = part.get("type") or next((key for key in part if key in OTHERS), "text")
        if kind in OTHERS:
            raise Unusable(UNSEEN, f"a part of the type {kind!r}")
        keys = Keys(part)
        value = keys.first(*(name for name in (kind, "text", "value") if isinstance(name, str)))
        if kind in THOUGHTS and role == "assistant" and isinstance(value, str):
            found["reasoning_content"] = "\n".join(
                filter(None, (found.get("reasoning_content"), value))
            )
        elif kind in TEXT + THOUGHTS and isinstance(value, str):
            texts.append(value)
        elif kind in ("tool_call", "tool_calls"):
            found["tool_calls"] = [*found.get("tool_calls", ()), *_calls(value, inside)]
        else:
            return {}
        keys.read.add("type")
        keys.leave(inside, "a part")
    left |= inside
    return {"content": "\n".join(texts)} | found if parts else {}


def joined_parts(parts: list[Any], left: Left) -> Any:
    """Join a list of text parts to one text; leave any other list as it is."""
    read = _parts(parts, None, left)
    return read["content"] if set(read) == {"content"} else parts


def _calls(value: Any, left: Left) -> list[Any]:
    """Read one call or a list of calls, also as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable("a tool call that cannot be read", "no JSON") from None
    return [_call(call, left) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any, left: Left) -> Any:
    """Write a call in OpenAI's spelling, its arguments as JSON text as the template would write it.

    Text and not an object, because an Arrow table would give all calls the union of all arguments,
    filled with null.
    """
    if not isinstance(call, dict):
        return call
    wrapped = isinstance(call.get("function"), dict)
    function = call["function"] if wrapped else call
    given = arguments(call)
    if given is None or "name" not in function:
        return call
    keys = Keys(function)
    keys.first(*ARGUMENTS)
    written = {"arguments": json.dumps(given, ensure_ascii=False)}
    if wrapped:
        kept = {key: value for key, value in function.items() if key not in keys.read}
        return call | {"function": kept | written}
    head = {"id": keys.first("id")} if call.get("id") is not None else {}
    keys.read |= {"type"}
    inside = {"name": keys.first("name")} | written
    keys.leave(left, "a call")
    return head | {"type": "function", "function": inside}


def with_calls(message: Row, left: Left) -> Row:
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
    calls = [call for text in spelled for call in _calls(text, left)]
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
