"""Fine-tuning and evaluation sets under `data/tasks`: JSON lines, with errors that name the row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3lab import paths
from qwen3lab.chat import ROLES, extract_tool_calls, traits
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")
KEYS = {"id": str, "task": str, "language": str, "messages": list, "answer": str, "thinking": bool}


def load(task: str, split: str, folder: Path | None = None) -> list[dict]:
    """Load the rows of `<task>.<split>.jsonl`.

    A row has the messages up to the last user turn, the reference answer, and the task's extras.

    Raises:
        Qwen3labError: there is no such file (the message names those that exist), or a row is
            broken.
    """
    folder = Path(folder or paths.TASKS)
    path = folder / f"{task}.{split}.jsonl"
    if not path.exists():
        known = (
            ", ".join(sorted(p.name.removesuffix(".jsonl") for p in folder.glob("*.jsonl")))
            or "none"
        )
        raise Qwen3labError(
            f"There is no task file {path.name} in {folder.name}. Choose one of: {known}."
        )
    return read(path)


def read(path: str | Path) -> list[dict]:
    """Read a JSON-lines file in the course's format; blank lines and a byte-order mark are skipped.

    Raises:
        Qwen3labError: naming the file and line: text that is not UTF-8, broken JSON, a missing or
            wrong key; or a file without rows.
    """
    path = Path(path)
    rows, seen = [], {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path.name}, row {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise Qwen3labError(
                f"{where}: the text is not UTF-8 (byte {error.start + 1}). Save the file as UTF-8,"
                " for example with `iconv -f GBK -t UTF-8`."
            ) from None
        if not text:
            continue
        try:
            row = json.loads(text)
        # Except for RecursionError, every fault of json.loads is a ValueError.
        except ValueError as error:
            raise Qwen3labError(
                f"{where}: this is not JSON ({error}). Write one complete object on each line."
            ) from None
        except RecursionError:
            raise Qwen3labError(
                f"{where}: the JSON is nested too deeply. Write one flat object on each line."
            ) from None
        fault = _fault(row)
        if fault:
            raise Qwen3labError(f"{where}: {fault}")
        if row["id"] in seen:
            raise Qwen3labError(
                f"{where}: the id {row['id']!r} was used in row {seen[row['id']]} already. Give"
                " each row its own id."
            )
        seen[row["id"]] = number
        rows.append(row)
    if not rows:
        raise Qwen3labError(
            f"{path.name} holds no rows. Write at least one JSON object on a line of its own."
        )
    return rows


def _fault(row) -> str | None:
    """Describe what is wrong with a row and what to do, or return None."""
    if not isinstance(row, dict):
        return (
            f"this is a JSON {type(row).__name__}, not an object. Write one object in braces on"
            " each line."
        )
    for key, kind in KEYS.items():
        if key not in row:
            return f"the key {key!r} is missing. Add it; a row needs {', '.join(KEYS)}."
        if not isinstance(row[key], kind):
            return (
                f"the value of {key!r} is a {type(row[key]).__name__}. Make it a {kind.__name__}."
            )
    if not row["messages"]:
        return "there are no messages. Add at least one user message."
    for i, message in enumerate(row["messages"], start=1):
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("content"), str)
            or not isinstance(message.get("role"), str)
        ):
            return (
                f'message {i} has no role and content. Write it as {{"role": "user", "content":'
                ' "..."}.'
            )
        if message["role"] not in ROLES:
            return f"message {i} has the role {message['role']!r}. Use one of {', '.join(ROLES)}."
    if row["messages"][-1]["role"] != "user":
        return (
            f"the last message is of role {row['messages'][-1]['role']!r}. End with the user; the"
            " reply belongs under 'answer'."
        )
    return None


def write(rows: Iterable[dict], path: str | Path) -> None:
    """Write rows as JSON lines in UTF-8, characters as they are, keys in the order given."""
    Path(path).write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def for_template(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """Return the rows as the tokenizer's chat template can write them: where it writes no thoughts,
    as that of Instruct-2507, without theirs; prints of how many.
    """
    if traits(tokenizer).thoughts:
        return list(rows)
    count = sum(bool(row.get("thoughts")) for row in rows)
    if count:
        print(f"{count} of {len(rows)} rows without their thoughts: this chat template writes none")
    return [
        {key: value for key, value in row.items() if key != "thoughts"} | {"thinking": False}
        for row in rows
    ]


def conversation(row: dict) -> list[dict]:
    """Build the full conversation of a row: its messages and the reference answer as the last turn.

    The answer keeps its thoughts where the row has some. An answer that calls tools becomes
    "tool_calls", so that the template writes their tags as control tokens.
    """
    calls = extract_tool_calls(row["answer"])
    said = (
        {"content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]}
        if calls
        else {"content": row["answer"]}
    )
    answer = {"role": "assistant", **said}
    if row.get("thinking") and row.get("thoughts"):
        answer["reasoning_content"] = row["thoughts"]
    return [*row["messages"], answer]
