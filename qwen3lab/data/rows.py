"""Read training rows of several kinds as one: messages that end with the assistant.

Public formats become such rows by `formats.load`. Here the kinds meet that a trainer or an exam is
given: rows of `data/tasks` (messages up to the user, and the answer apart), conversations,
prompt and completion, data frames and datasets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from operator import is_
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.data import tasks
from qwen3lab.data.validation import check_weight
from qwen3lab.errors import Qwen3labError
from qwen3lab.messages import arguments, plain, read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = (
    "messages that end with the assistant, messages with an answer, or a prompt with a completion"
)


def each(rows: Any) -> Iterable[Any]:
    """Go through the rows of a data frame, a `datasets.Dataset` or any iterable, in their order."""
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return rows.to_dict("records")
    return rows


def spelled(rows: Any) -> Any:
    """Write the columns of whole numbers of a data frame as text; leave rows of all else alone.

    A table cannot tell 42 from "42", as JSON can.
    """
    if not (hasattr(rows, "dtypes") and hasattr(rows, "astype")):
        return rows
    whole = [column for column, kind in rows.dtypes.items() if getattr(kind, "kind", "") in "iu"]
    return rows.astype(dict.fromkeys(whole, str))


def records(rows: Any) -> list[Any]:
    """List the rows of a data frame, a `datasets.Dataset` or any iterable, in their order."""
    return list(each(rows))


def conversation(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool, list[dict] | None]:
    """Read a row as (messages that end with the assistant, whether it thinks, tools).

    A row that does not say whether it thinks does so if its last turn has thoughts.

    Raises:
        Qwen3labError: a row of no known kind, or one that ends without an answer.
    """
    row = _present(row)
    if "prompt" in row and "completion" in row:
        messages = [*_turns(row["prompt"], "user"), *_turns(row["completion"], "assistant")]
    elif "messages" in row and "answer" in row and not _ends_with_answer(row["messages"]):
        messages = tasks.conversation(dict(row))
    elif "messages" in row:
        messages = [_present(message, keep=("content",)) for message in row["messages"]]
    else:
        raise Qwen3labError(
            f"A row with the keys {', '.join(map(repr, row)) or 'none'} cannot be trained or"
            f" scored. Give {KINDS}; `formats.load` makes such rows of public formats."
        )
    if not _ends_with_answer(messages):
        raise Qwen3labError(
            "A row ends without an answer of the assistant. Add the answer, or drop the row."
        )
    thinks = row.get("thinking")
    if thinks is None:
        last = read(messages[-1])
        opened = str(last.get("content") or "").lstrip().startswith("<think>")  # and never closed
        thinks = bool(last.get("reasoning_content")) or opened
    return messages, bool(thinks), row.get("tools")


def encode(tokenizer: PreTrainedTokenizerBase | None, row: Any) -> dict[str, list[int]]:
    """Encode one row as input_ids and labels with `chat.example`; an encoded row is kept.

    Raises:
        Qwen3labError: as `conversation`; an answer whose weight says that it is not to be trained;
            a row that needs a tokenizer, and none was given.
    """
    if isinstance(row, Mapping) and "labels" in row and "input_ids" in row:
        return {key: list(row[key]) for key in ("input_ids", "labels")}
    messages, thinking, tools = conversation(row)
    if tokenizer is None:
        raise Qwen3labError(
            "These rows are not encoded yet. Give the tokenizer, and they are encoded on the way."
        )
    found = check_weight(messages[-1])
    if found:
        raise Qwen3labError(
            f"A row has {found[0]} ({found[1]}), and only its last answer is trained. Leave the row"
            " out, or cut its messages after an answer of weight 1."
        )
    return chat.example(tokenizer, messages, thinking=thinking, tools=tools)


def encoded(tokenizer: PreTrainedTokenizerBase | None, rows: Any) -> list[dict[str, list[int]]]:
    """Encode rows of any kind, also a data frame or a dataset, as `encode` does."""
    return [encode(tokenizer, row) for row in records(rows)]


def course(row: Any) -> Any:
    """Write the prompt and completion of a row as messages, and each message as `messages.plain`
    does; leave all other rows as they are.
    """
    if isinstance(row, (dict, Mapping)) and "messages" in row:  # a dict is told faster
        messages = [
            plain(one) if isinstance(one, (dict, Mapping)) else one
            for one in _listed(row["messages"])
        ]
        same = all(map(is_, messages, row["messages"]))
        return row if same else row | {"messages": messages}
    if not isinstance(row, Mapping) or "prompt" not in row:
        return row
    kept = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    return course(kept | {"messages": conversation(row)[0]})


def _listed(messages: Any) -> list[Any]:
    return list(messages) if isinstance(messages, (list, tuple)) else []


def exam(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a row of any kind into one of `data/tasks`: messages up to the user, and the answer.

    The reference is the last turn's text, its tool calls as the template writes them; thoughts
    before it are asked for, not compared.
    """
    given, row = row, _present(row)
    if "answer" in row and "messages" in row and not _ends_with_answer(row["messages"]):
        return dict(course(given))
    (*before, last), thinks, tools = conversation(row)
    content = read(last).get("content") or ""
    calls = "\n".join(_written(call) for call in last.get("tool_calls") or [])
    kept = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    answer = "\n".join(filter(None, (content.strip("\n"), calls)))
    thoughts = read(last).get("reasoning_content")
    return (
        kept
        | {
            "messages": list(map(plain, before)),
            "answer": answer,
            "thinking": thinks,
            "tools": tools,
        }
        | ({"thoughts": thoughts} if thoughts and thinks else {})
    )


def _present(row: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Drop what a table fills in where a row has nothing: None, and nan of a data frame."""
    if not isinstance(row, Mapping):
        raise Qwen3labError(f"A row is a {type(row).__name__}, not a dict. Give {KINDS}.")
    return {
        key: value
        for key, value in row.items()
        if key in keep or not (value is None or (isinstance(value, float) and math.isnan(value)))
    }


def _turns(value: Any, role: str) -> list[dict[str, Any]]:
    """A prompt or a completion as messages: text is one turn of the role."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # pandas reads a column of whole numbers as such
    if not isinstance(value, (str, list, tuple)):
        raise Qwen3labError(
            f"A {'prompt' if role == 'user' else 'completion'} is a {type(value).__name__}, not"
            " text. Give it as text, or as a list of messages."
        )
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _ends_with_answer(messages: Any) -> bool:
    last = messages[-1] if len(messages) else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def _written(call: Mapping[str, Any]) -> str:
    """A tool call as Qwen3's template writes it."""
    told = {"name": call.get("function", call).get("name"), "arguments": arguments(call) or {}}
    return f"<tool_call>\n{json.dumps(told, ensure_ascii=False)}\n</tool_call>"


def as_exams(rows: Any) -> list[dict[str, Any]]:
    """Turn rows of any kind, also a data frame or a dataset, into rows of `data/tasks`."""
    return [exam(row) for row in records(rows)]


def ask(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> list[int]:
    """Encode what an exam's row asks: its messages, its tools, with thoughts if it thinks."""
    thinks = bool(row.get("thinking"))
    return chat.encode(tokenizer, row["messages"], thinking=thinks, tools=row.get("tools"))


def questions(rows: Any) -> list[dict[str, Any]]:
    """Turn rows of any kind into messages up to the user; an answer need not be there."""
    return [
        dict(course(row))
        if isinstance(row, Mapping) and "messages" in row and not _ends_with_answer(row["messages"])
        else exam(row)
        for row in records(rows)
    ]
