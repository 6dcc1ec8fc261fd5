"""Tell by their names what the columns (or keys) of a row are, or take the caller's word for it.

The names are those of public sets. Case, spaces and underscores do not count. Where several columns
could be the same part of a row, the one whose name stands first in `NAMES` is taken; a column that
the caller mapped goes before all others.

Nothing vanishes: every column, and every key inside a message, a part, a call or an option that
holds something, reaches the converted row, or decides what becomes of it, or `Seen` counts it as
not used and the report names it. null and empty texts, lists and objects hold nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from qwen3lab.errors import Qwen3labError

# What a column can be, and the names that say so, in the order in which they are preferred.
NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns"),
    "prompt": (
        *("prompt", "instruction", "question", "query", "problem", "request"),
        *("user", "human", "input", "source"),
    ),
    "completion": (
        *("completion", "output", "response", "solution", "answer", "answers"),
        *("target", "reply", "assistant"),
    ),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "text": ("text", "content"),
    "input": ("input",),  # follows the prompt, as in Alpaca
    "context": ("context", "passage"),  # comes before the prompt, as in SQuAD
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "thoughts": ("reasoning_content", "thoughts", "reasoning", "thinking", "complex_cot"),
    "label": ("label",),
    "weight": ("weight", "loss_weight"),
    "options": ("options",),
    "letter": ("answer_idx",),
    "pictures": ("images", "image", "videos", "video", "audios", "audio"),
    "origin": ("source",),
    "repo_name": ("repo_name",),
    "path": ("path",),
    "license": ("license",),
}
# What a caller is told that a column may become; every other name of `NAMES` says the same.
TARGETS = tuple(dict.fromkeys(names[0] for names in NAMES.values()))
# Parts of each kind of row; a column of another part is not used.
_BESIDE = ("system", "tools", "pictures")
_QUESTION = ("prompt", "input", "context", "history", *_BESIDE)
PARTS: dict[str, tuple[str, ...]] = {
    "preference": ("messages", "chosen", "rejected", *_QUESTION),
    "messages": ("messages", "completion", "thoughts", "weight", "label", *_BESIDE),
    "choice": ("prompt", "options", "completion", "letter"),
    "code": ("text", "repo_name", "path", "license"),
    "answer": (*_QUESTION, "completion", "thoughts", "weight", "label", "origin"),
    "text": ("text", "pictures"),
}


# Keys that hold something and were not read, each with the place where it stands: "a message", "a
# part", …; "" for a column.
Left = set[tuple[str, str]]


def filled(value: Any) -> bool:
    """Tell whether a value holds something: 0 and false do, null and what is empty do not."""
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def plain(name: Any) -> str:
    """Reduce a name to its letters and digits, in lower case."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


_PARTS_OF: dict[str, tuple[str, ...]] = {}
for _part, _names in NAMES.items():
    for _name in _names:
        _PARTS_OF[plain(_name)] = (*_PARTS_OF.get(plain(_name), ()), _part)
_USUAL = {"id", "task", "language", "category", "type", "title", "index", "date", "name"}


def is_known(name: Any) -> bool:
    """Check whether a name is one that public sets use for a column."""
    return plain(name) in _PARTS_OF or plain(name) in _USUAL


@dataclass(frozen=True)
class Plan:
    """What the columns of a row are.

    `kind` is one of `PARTS`, or "" if the names tell nothing; `names` holds the column of each
    part; `beaten` holds, for a column that could be a part as well, the one that was taken; `half`
    is the question of a row whose answer is under no known name.
    """

    kind: str
    names: Mapping[str, str]
    beaten: Mapping[str, str]
    half: str = ""


@lru_cache(maxsize=4096)
def plan(columns: tuple[str, ...], mapped: tuple[tuple[str, str | None], ...] = ()) -> Plan:
    """Tell what the columns are.

    Args:
        columns: the names of a row's columns.
        mapped: pairs of a column and what it is, as `checked` gives them.
    """
    said = dict(mapped)
    # What each column is called, those of the caller first.
    called = [(column, plain(said[column])) for column in columns if said.get(column)]
    called += [(column, plain(column)) for column in columns if column not in said]
    found: dict[str, list[str]] = {}
    for part, names in NAMES.items():
        order = {plain(name): place for place, name in enumerate(names)}
        fitting = [(column, name) for column, name in called if name in order]
        fitting.sort(key=lambda pair: (pair[0] not in said, order[pair[1]]))
        found[part] = [column for column, _ in fitting]
    names = dict(called)
    # "source" is a question only beside "target"; everywhere else it says where a row is from.
    if [names[column] for column in found["completion"][:1]] != ["target"]:
        found["prompt"] = [column for column in found["prompt"] if names[column] != "source"]
    # Options belong to exam questions; an instruction with options is written out already.
    if [names[column] for column in found["prompt"][:1]] != ["question"]:
        found["options"] = []
    kind = _kind({part for part, columns_of in found.items() if columns_of})
    # One column is one part: an input that is the prompt does not follow it as well.
    taken: dict[str, str] = {}
    for part in PARTS.get(kind, ()):
        free = [column for column in found[part] if column not in taken.values()]
        if free:
            taken[part] = free[0]
    # Only MathInstruct tells by the source how an answer was worked.
    math = ("instruction", "output"), ("prompt", "completion")
    if tuple(names.get(taken.get(part)) for part in math[1]) != math[0] or "input" in taken:
        taken.pop("origin", None)
    beaten = {
        column: taken[part]
        for part in taken
        for column in found[part]
        if column not in taken.values()
    }
    return Plan(kind, taken, beaten, "" if kind else (*found["prompt"], "")[0])


def _kind(parts: set[str]) -> str:
    """Tell the kind of a row by the parts that it has."""
    if {"chosen", "rejected"} <= parts:
        return "preference"
    if "messages" in parts:
        return "messages"
    if {"prompt", "options"} <= parts:
        return "choice"
    if {"repo_name", "path", "text"} <= parts:
        return "code"
    if {"prompt", "completion"} <= parts:
        return "answer"
    # A text beside an answer may be what it answers: that is for the caller to say.
    return "text" if "text" in parts and not parts & {"prompt", "completion"} else ""


def checked(columns: Mapping[str, str | None] | None) -> tuple[tuple[str, str | None], ...]:
    """Check a caller's mapping from column to what it is, None for one to leave out.

    Raises:
        Qwen3labError: it maps to something unknown, or two columns to the same.
    """
    seen: dict[str, str] = {}
    for column, target in (columns or {}).items():
        if target is None:
            continue
        if plain(target) not in _PARTS_OF:
            raise Qwen3labError(
                f"The column {column!r} cannot become {target!r}. Map it to one of:"
                f" {', '.join(TARGETS)}; or to None, to leave it out."
            )
        if plain(target) in seen:
            raise Qwen3labError(
                f"The columns {seen[plain(target)]!r} and {column!r} are both mapped to {target!r}."
                " Map one column to each."
            )
        seen[plain(target)] = column
    return tuple((columns or {}).items())


@dataclass
class Seen:
    """Columns of the rows that were read: what became of each, with the number of rows.

    used: (column, part) -> rows with a value there. ignored: column -> rows. inside: (key, where it
    stands) -> rows, for keys inside a message that were not read. beaten: column -> the column that
    was taken in its stead.
    """

    used: Counter[tuple[str, str]] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    inside: Counter[tuple[str, str]] = field(default_factory=Counter)
    beaten: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def note(self, row: Mapping[str, Any], found: Plan, left: Left) -> None:
        """Count the columns of one row, and the keys that were left when it was read."""
        self.named.update(row)
        parts = {column: part for part, column in found.names.items() if (column, "") not in left}
        for column in (column for column, value in row.items() if filled(value)):
            if column in parts:
                self.used[column, parts[column]] += 1
            else:
                self.ignored[column] += 1
                if column in found.beaten:
                    self.beaten[column] = found.beaten[column]
        self.inside.update(sorted(pair for pair in left if pair[1]))

    def lines(self) -> list[str]:
        """Say which column became what, and which were not used, in a line each."""
        told = [
            f"{column!r} is the {part} ({_rows(count)})"
            if plain(column) != plain(part)
            else f"{column!r} ({_rows(count)})"
            for (column, part), count in self.used.items()
        ]
        unused = [
            f"{column!r} ({_rows(count)}"
            + (f"; {self.beaten[column]!r} was taken)" if column in self.beaten else ")")
            for column, count in self.ignored.items()
        ]
        unused += [
            f"{key!r} of {place} ({_rows(count)})" for (key, place), count in self.inside.items()
        ]
        return [f"columns: {', '.join(told)}"] * bool(told) + [
            f"not used: {', '.join(unused)}"
        ] * bool(unused)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def advice(columns: tuple[str, ...], found: Plan) -> str:
    """Show how to map columns whose names do not tell enough."""
    free = [column for column in columns if not is_known(column)] or [
        column for column in columns if column != found.half
    ]
    first, second = (repr(name) for name in (*free, "…", "…")[:2])
    if found.half and not free:
        return f"The question is in {found.half!r}, and there is no column with its answer. Add one"
    if found.half:
        return (
            f"The question is in {found.half!r}, and no name says where the answer is. Say it, for"
            f" example columns={{{first}: 'completion'}}"
        )
    if len(columns) < 2:
        return f"Say what the column is, for example columns={{{first}: 'text'}} for plain text"
    return (
        f"Say what the columns are, for example columns={{{first}: 'prompt', {second}:"
        " 'completion'}"
    )


def tidy(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a data frame holds as plain values: its marks for nothing as None, arrays as
    lists.
    """
    if not any(map(_is_foreign, row.values())):
        return dict(row)
    return {column: _plain_value(value) for column, value in row.items()}


def _is_foreign(value: Any) -> bool:
    return (
        (isinstance(value, float) and value != value)
        or hasattr(value, "tolist")
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _plain_value(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain_value(item) for key, item in value.items()}
    return None if _is_foreign(value) else value
