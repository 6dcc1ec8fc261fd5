"""How long rows are in tokens, and which answers a limit on the length would cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen3lab.chat import IGNORED

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

NAMED = 5  # rows that a report names; all of them are in its fields


@dataclass(frozen=True)
class Cut:
    """One row that is longer than the limit.

    `place` is its number in the list, from 0; `tokens` is its length, `trained` the number of its
    labels that count, `left` how many of these would survive if everything behind the limit were
    thrown away.
    """

    place: int
    name: str
    tokens: int
    trained: int
    left: int


@dataclass(frozen=True)
class Report:
    """What a limit does to some rows: `whole` of `rows` fit, `cut` are the others, in
    their order."""

    max_length: int
    rows: int
    cut: tuple[Cut, ...]

    @property
    def whole(self) -> int:
        """The number of rows that fit."""
        return self.rows - len(self.cut)

    @property
    def shortened(self) -> list[Cut]:
        """Rows whose answer would keep a beginning but lose its end, `<|im_end|>` included: they
        teach not to stop.
        """
        return [row for row in self.cut if row.left]

    @property
    def lost(self) -> list[Cut]:
        """Rows of whose answer nothing would be left: TRL drops them without a word
        (`SFTTrainer._prepare_dataset`).
        """
        return [row for row in self.cut if not row.left]

    def __str__(self) -> str:
        lines = [f"limit {self.max_length} tokens: {self.whole} of {self.rows} rows fit"]
        for rows, what in (
            (self.shortened, "would lose the end of the answer"),
            (self.lost, "would lose the whole answer"),
        ):
            if rows:
                names = ", ".join(row.name for row in rows[:NAMED]) + (
                    f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
                )
                lines.append(f"  {len(rows)} {what}: {names}")
        return "\n".join(lines)


def truncation(
    examples: Sequence[Mapping[str, Sequence[int]]],
    max_length: int,
    names: Sequence[str] | None = None,
) -> Report:
    """Say which rows would be cut at `max_length` tokens, and how much of each answer would be
    left. Changes nothing.

    Args:
        examples: dicts of input_ids and labels, as `chat.example` returns them.
        max_length: TRL's setting of that name, tokens; what stands behind it would be thrown away
            ("keep_start").
        names: a name a row, for the report; default: "row 1" and so on.
    """
    cut = []
    for place, row in enumerate(examples):
        labels = row["labels"]
        if len(labels) > max_length:
            left = sum(label != IGNORED for label in labels[:max_length])
            cut.append(
                Cut(
                    place,
                    names[place] if names else f"row {place + 1}",
                    len(labels),
                    sum(label != IGNORED for label in labels),
                    left,
                )
            )
    return Report(max_length, len(examples), tuple(cut))


def characters_per_token(
    tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, Iterable[str]]
) -> pd.DataFrame:
    """Count characters and tokens of texts by group, for example by language.

    Returns a table with one row a group; columns: texts, characters, tokens, characters a token.
    """
    import pandas as pd

    lines = {}
    for name, group in texts.items():
        group = list(group)
        characters = sum(map(len, group))
        tokens = sum(map(len, tokenizer(group, add_special_tokens=False).input_ids)) if group else 0
        lines[name] = {
            "texts": len(group),
            "characters": characters,
            "tokens": tokens,
            "characters a token": characters / tokens if tokens else 0.0,
        }
    return pd.DataFrame.from_dict(lines, orient="index")
