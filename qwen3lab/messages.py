"""Read a chat message: its text, thoughts and tool calls, in whatever shape they were written.

Training, asking, serving and counting all read a message here, so the same message gives the same
tokens everywhere:

- Content is a text or a list of parts. Parts are joined with a line break, as vLLM and llama.cpp do
  for templates that take text, such as Qwen3's. A part that is no text is refused by its name.
- null, and a data frame's nan, are absent. Only an assistant that calls a tool or thinks may be
  without content.
- A tool's result may be any JSON value. What is no text is written as JSON.
- Thoughts stand under one of the names `THOUGHTS`, in parts of that kind (both are joined), or as a
  think block at the beginning of an assistant's content. Without its opening tag (the 2507 Thinking
  models leave that to the prompt) the block is known by a closing tag that has a line to itself.
- A call's arguments are an object, or OpenAI's JSON text of one, under one of the names
  `ARGUMENTS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from qwen3lab.errors import Qwen3labError

THOUGHTS = ("reasoning_content", "thinking", "reasoning", "thoughts")  # the first that has any
ARGUMENTS = ("arguments", "parameters", "args", "input")  # of a call; the first that is there
TEXT = ("text", "input_text", "output_text", "refusal")  # kinds of parts that hold text
OTHERS = ("image", "image_url", "input_image", "video", "video_url", "audio", "input_audio", "file")
_BLOCK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_UNOPENED = re.compile(r"((?:(?!<think>).)*?\n|)</think>[ \t]*(?:\n(.*)|\Z)", re.DOTALL)


def read(message: Mapping[str, Any]) -> dict[str, Any]:
    """Read a message into the one shape that chat templates are given.

    Returns:
        The message without its null values: "content" as text, thoughts (if any) as
        "reasoning_content", "tool_calls" (if any) with their arguments as objects.
    Raises:
        Qwen3labError: no content, or one that is neither text nor, from a tool, a JSON value.
    """
    role = message.get("role")
    found = {
        key: value for key, value in message.items() if value is not None and key not in THOUGHTS
    }
    calls = _plain(found.pop("tool_calls", None))
    thoughts = _thoughts(message) if role == "assistant" else ""
    content = _plain(message.get("content"))
    if role == "assistant" and isinstance(content, list):
        parts = [part for part in content if _kind(part) in THOUGHTS]
        content = [part for part in content if _kind(part) not in THOUGHTS]
        inside = "\n".join(map(_part, parts))
        thoughts = "\n".join(dict.fromkeys(filter(None, (thoughts, inside))))
    if content is None or (role != "tool" and content == []):
        if not (role == "assistant" and (calls or thoughts)):
            raise Qwen3labError(f"A message of role {role!r} has no content. Give it a text.")
        content = ""
    found["content"] = text(content, role)
    if role == "assistant" and not thoughts and "</think>" in found["content"]:
        block = _BLOCK.match(found["content"]) or _UNOPENED.match(found["content"])
        if block:
            thoughts, found["content"] = block[1].strip("\n"), (block[2] or "").lstrip("\n")
    if thoughts.strip():
        found["reasoning_content"] = thoughts
    if calls:
        found["tool_calls"] = list(map(_call, calls)) if isinstance(calls, list) else calls
    return found


def plain(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write a message's content as text and its thoughts under one name, for all that look at both.

    A message that is so already comes back itself; calls and all other keys stay as they are.
    Raises as `read`.
    """
    get = message.get
    content = get("content")
    # Every row passes here several times: written out, it takes half as long.
    if (
        (content is None or isinstance(content, (str, bool, int, float)))
        and not (get("thinking") or get("reasoning") or get("thoughts"))
        and not (get("role") == "assistant" and "</think>" in str(content))
    ):
        return message
    kept = {key: value for key, value in message.items() if key not in THOUGHTS}
    found = read(message)
    return kept | {key: found[key] for key in ("content", "reasoning_content") if key in found}


def text(content: Any, role: str | None = None) -> str:
    """Read a message's content as text: a text, a list of parts, or any JSON value of a tool.

    Raises Qwen3labError for a part that is no text, and for a content that is no text.
    """
    content = _plain(content)
    if isinstance(content, str):
        return content
    if role == "tool" and not _all_parts(content):
        try:
            return json.dumps(content, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise Qwen3labError(
                f"A tool's result cannot be written as JSON ({error}). Give it as text."
            ) from None
    if isinstance(content, (list, tuple)):
        return "\n".join(map(_part, content))
    if isinstance(content, Mapping):
        return _part(content)
    raise Qwen3labError(
        f"A message's content is of type {type(content).__name__}. Give a text, or a list of parts"
        " such as {'type': 'text', 'text': '…'}."
    )


def arguments(call: Any) -> dict[str, Any] | None:
    """Parse a tool call's arguments, an object or OpenAI's JSON text, to a dict; else None.

    A call without any has an empty object.
    """
    function = _function(call)
    if function is None:
        return None
    held = (function[name] for name in ARGUMENTS if name in function)
    given = next((value for value in held if value not in (None, "", [], {})), {})
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None
    return dict(given) if isinstance(given, Mapping) else None


def _plain(value: Any) -> Any:
    """Turn what a data frame makes of a list (an array) and of null (nan) back."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _kind(part: Any) -> str:
    return part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = _kind(part)
    if kind in TEXT + THOUGHTS:
        for key in (kind, "text", "value"):
            if isinstance(part.get(key), str):
                return part[key]
        # Some files name no type and write {"image": …} beside {"text": …}.
        kind = next((key for key in part if key not in ("type", "text", "value")), "without text")
    raise Qwen3labError(
        f"A message holds a part of the kind {kind!r}, and only text is read here. Leave the part"
        " out, or use a model and a processor that take it."
    )


def _all_parts(content: Any) -> bool:
    """Tell whether a tool's result is a list of typed parts, and not data of its own."""
    return bool(isinstance(content, (list, tuple)) and content) and all(
        isinstance(part, Mapping) and part.get("type") in TEXT + OTHERS for part in content
    )


def _thoughts(message: Mapping[str, Any]) -> str:
    for name in THOUGHTS:
        given = _plain(message.get(name))
        if not given:
            continue
        if not isinstance(given, (str, list)):
            raise Qwen3labError(
                f"The {name!r} of a message is of type {type(given).__name__}. Give the thoughts as"
                " text, or leave the key out."
            )
        if text(given).strip():
            return text(given)
    return ""


def _function(call: Any) -> Mapping[str, Any] | None:
    """Find what names a call's function: OpenAI puts it one level down."""
    function = (call.get("function") or call) if isinstance(call, Mapping) else None
    return function if isinstance(function, Mapping) else None


def _call(call: Any) -> Any:
    """Give a call's arguments as an object; what is no JSON object stays as it was written."""
    given = arguments(call)
    if given is None:
        return call
    function = dict(_function(call)) | {"arguments": given}
    return dict(call) | {"function": function} if call.get("function") else function
