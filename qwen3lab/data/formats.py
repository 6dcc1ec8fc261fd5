"""Public data formats brought into one schema: `{"messages": [{"role", "content"}, ...], "source", "language"}`.

A row that cannot be used is never dropped in silence: it comes back with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3lab.errors import Qwen3labError

ROLES = ("system", "user", "assistant", "tool")
# The names that public sets use for the four roles. The chat template knows the right-hand side only.
ALIASES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
           "observation": "tool", "function_response": "tool"} | {role: role for role in ROLES}


@dataclass
class Converted:
    """The usable rows of a file in the course's schema, and the others as {"row": number from 1, "reason", "raw"}."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


def read_raw(path: str | Path) -> list[Any]:
    """Read a JSON array or a file of JSON lines; a line that is no JSON stays in the list as its text.

    Raises Qwen3labError for a missing file, for one that is not UTF-8 or holds no row.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise Qwen3labError(f"There is no file {path.name}. Check the name and the folder.") from None
    except UnicodeDecodeError as error:
        raise Qwen3labError(f"{path.name} is not UTF-8 (byte {error.start + 1}). Save it as UTF-8, for example with `iconv -f GBK -t UTF-8`.") from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Qwen3labError(f"{path.name} begins like a JSON array but is none ({error}). Repair it, or write one object a line.") from None
    else:
        rows = [_parse(line) for line in text.split("\n") if line.strip()]  # not splitlines: it also cuts at U+2028 within a text
    if not rows:
        raise Qwen3labError(f"{path.name} holds no rows. Write at least one JSON object.")
    return rows


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def to_messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """Bring one row of ShareGPT (`conversations`), Alpaca (`instruction`) or chat form (`messages`) into messages.

    Alpaca's `input` follows its instruction after a blank line; `system` and `history` (pairs) are taken where given.
    Only names are changed, nothing is repaired: `fault` says whether the result can be trained on.
    Raises Qwen3labError for a row in none of these forms.
    """
    if isinstance(row.get("conversations"), list):
        turns = [(turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, turn) for turn in row["conversations"]]
        lead = [("system", row["system"])] if row.get("system") else []
        return [{"role": ALIASES.get(str(role).lower(), role), "content": text} for role, text in lead + turns]
    if isinstance(row.get("messages"), list):
        return [message | {"role": ALIASES.get(str(message.get("role")).lower(), message.get("role"))} if isinstance(message, dict) else
                {"role": None, "content": message} for message in row["messages"]]
    if "instruction" in row and "output" in row:
        question = row["instruction"]
        if isinstance(question, str) and isinstance(row.get("input"), str) and row["input"]:
            question = f"{question}\n\n{row['input']}"
        messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        history = row.get("history") or []
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise Qwen3labError("A history that is no list of pairs has no known form. Write it as [[question, answer], ...].")
        for question_before, answer_before in history:
            messages += [{"role": "user", "content": question_before}, {"role": "assistant", "content": answer_before}]
        return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    raise Qwen3labError(f"A row with the keys {', '.join(sorted(map(str, row)))} has no known form. "
                        "Use ShareGPT's conversations, Alpaca's instruction and output, or messages.")


def fault(messages: Sequence[Any]) -> str | None:
    """Why a conversation cannot be trained on, or None.

    Roles need not alternate strictly: an assistant may call several tools, and their results follow it.
    """
    if not messages:
        return "no messages"
    roles = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return "a role that the chat template does not know"
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            return "a content that is not text"
        if not (content or "").strip() and not message.get("tool_calls"):
            return "an empty message"
        if "\ufffd" in (content or ""):
            return "text that was decoded wrongly"
        roles.append(message["role"])
    if "system" in roles[1:]:
        return "a system message that is not the first"
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or turns[0] != "user":
        return "no question before the answer"
    if roles[-1] != "assistant":
        return "no answer at the end"
    pairs = list(zip(turns, turns[1:]))
    if any(pair in (("user", "user"), ("assistant", "assistant"), ("user", "tool"), ("tool", "user")) for pair in pairs):
        return "two turns that cannot follow each other"
    return None


def language(text: str) -> str:
    """"zh" where at least a fifth of the letters are Chinese characters, else "en"."""
    letters = [character for character in text if character.isalpha()]
    chinese = sum("\u3400" <= character <= "\u9fff" for character in letters)
    return "zh" if letters and chinese / len(letters) >= 0.2 else "en"


def convert(raw: Iterable[Any], source: str) -> Converted:
    """Bring raw rows into one schema and sort out those that cannot be trained on, with the reason.

    Args:
        raw: rows as `read_raw` returns them.
        source: a name that is written into every row, for stratified splits.
    """
    done = Converted()
    for number, row in enumerate(raw, start=1):
        reason = None
        if isinstance(row, dict):
            try:
                messages = to_messages(row)
                reason = fault(messages)
            except Qwen3labError:
                reason = "an unknown form"
        else:
            reason = "no JSON object"
        if reason:
            done.rejected.append({"row": number, "reason": reason, "raw": row})
            continue
        text = " ".join(message["content"] or "" for message in messages if message["role"] != "system")
        done.rows.append({"id": f"{source}.{number:04d}", "source": source, "language": language(text), "messages": messages})
    return done
