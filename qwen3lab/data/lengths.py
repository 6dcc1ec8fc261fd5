"""Sequence lengths in tokens, and the answers that a length limit would truncate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3lab.chat import IGNORED
from qwen3lab.data.rows import encoded

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

NAMED = 5  # rows that a report names; its fields hold all of them


@dataclass(frozen=True)
class Cut:
    """Row that exceeds the length limit.

    `place` is its index in the list; `tokens` is its length, `trained` the number of its trained
    labels, `left` how many of these would survive truncation at the limit.
    """

    place: int
    name: str
    tokens: int
    trained: int
    left: int


@dataclass(frozen=True)
class Report:
    """Truncation report: `whole` of `rows` fit; `cut` lists the others, in their order."""

    max_length: int
    rows: int
    cut: tuple[Cut, ...]

    @property
    def whole(self) -> int:
        """The number of rows that fit."""
        return self.rows - len(self.cut)

    @property
    def shortened(self) -> list[Cut]:
        """Rows whose answer would keep its beginning but lose its end.

        The lost end includes `<|im_end|>`, so such rows teach the model not to stop.
        """
        return [row for row in self.cut if row.left]

    @property
    def lost(self) -> list[Cut]:
        """Rows that would lose their whole answer: TRL silently drops them.

        See `SFTTrainer._prepare_dataset`.
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
    examples: Sequence[Any],
    max_length: int,
    names: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Report:
    """Report which rows `max_length` tokens would truncate, and how much of each answer survives.

    Nothing is changed.

    Args:
        examples: dicts of input_ids and labels, as `chat.example` returns them; with a tokenizer,
            rows of any kind that `fine_tune` takes.
        max_length: TRL's setting of that name, in tokens; everything after it would be thrown away
            ("keep_start").
        names: one name per row, for the report; default: "row 1" and so on.
    """
    examples, cut = encoded(tokenizer, examples), []
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
    """Compute characters per token of texts by group, for example by language.

    Returns a table with one row per group; columns: texts, characters, tokens, characters a token.
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
