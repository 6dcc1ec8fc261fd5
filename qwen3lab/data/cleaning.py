"""Data cleaning: Unicode normalisation, PII masking, word filters, exact and near-deduplication.

`clean_rows` does all of it and reports what each step changed and which rows it dropped;
`clean_file` does the same from file to file.
"""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.data import deduplication
from qwen3lab.data.cleaning_work import (
    CHUNK,
    EXAMPLES,
    OnDisk,
    Prepared,
    around,
    lines,
    no_search_for_cycles,
    parts,
)
from qwen3lab.data.one_row import (
    PARTS,
    clean,
    drop_copies,
    key,
    mask_row,
    normalize,
    token_lengths,
    word_pattern,
)
from qwen3lab.data.rows import records
from qwen3lab.data.validation import short
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

__all__ = ["Report", "Step", "clean", "clean_file", "clean_rows", "drop_copies", "key"]
__all__ += ["mask_row", "normalize", "token_lengths", "word_pattern"]
_MARK = re.compile(r"\[(?:EMAIL|IP|ID_CARD|BANK_CARD|PHONE)\]")
_EMPTY = "nothing but invisible characters in a message"


@dataclass
class Step:
    """Statistics of one cleaning step: rows changed, rows dropped, and examples after the step."""

    name: str
    changed: int = 0
    dropped: int = 0
    examples: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, example: str) -> None:
        """Keep the example if it is among the first."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass
class Report:
    """Cleaning report: the steps, and every dropped row as {"row", "id", "step", "why"}.

    "row" is the row's number from 1.
    """

    rows: int
    steps: list[Step] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Tabulate the steps: rows changed, dropped and left, what was found, and an example."""
        import pandas as pd

        left, lines = self.rows, []
        for step in self.steps:
            left -= step.dropped
            found = ", ".join(f"{count} {name}" for name, count in sorted(step.counts.items()))
            lines.append(
                {
                    "step": step.name,
                    "changed": step.changed,
                    "dropped": step.dropped,
                    "left": left,
                    "found": found,
                    "example": "".join(step.examples[:1]),
                }
            )
        return pd.DataFrame(
            lines, columns=["step", "changed", "dropped", "left", "found", "example"]
        ).set_index("step")


@no_search_for_cycles()
def clean_rows(
    rows: Sequence[dict[str, Any]],
    *,
    mask: bool = True,
    words: Iterable[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    near_threshold: float | None = deduplication.THRESHOLD,
    processes: int = 1,
) -> tuple[list[dict[str, Any]], Report]:
    """Normalise, mask, filter and deduplicate rows.

    The same rows come out on every run and for any number of processes.

    Args:
        rows: rows of the course's schema, with "messages" or with "text" (`formats.convert`), or of
            another kind that `fine_tune` takes. They are not modified.
        mask: replace personal data by marks.
        words: rows that contain one of these words are dropped (`word_pattern`).
        tokenizer, min_tokens, max_tokens: drop rows with fewer or more tokens. There is no lower
            limit unless you set one: a short answer is not a bad answer.
        near_threshold: Jaccard overlap from which a row counts as a near-copy of an earlier one;
            None keeps near-copies.
        processes: number of processes that share the work on single rows.
    Returns:
        The remaining rows, in their order, and a `Report`.
    Raises:
        Qwen3labError: a row has neither messages nor text, or a length limit was given without a
            tokenizer.
    """
    rows = records(rows)
    steps = _steps(
        rows,
        Prepared(),
        processes if len(rows) >= 2000 else 1,
        mask=mask,
        words=words,
        tokenizer=tokenizer,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        near_threshold=near_threshold,
    )
    return [steps.done.row(place) for place in steps.alive.tolist()], steps.report


@no_search_for_cycles()
def clean_file(
    source: str | Path, target: str | Path, dropped: str | Path, processes: int = 1, **options: Any
) -> Report:
    """Clean a file of JSON Lines as `clean_rows` cleans rows, without loading it.

    What stays in memory of a row is where it stands, its MD5 sum and its length, and of the bands
    of all rows one at a time.

    Args:
        source: JSON Lines in UTF-8, a row of `clean_rows` on each line.
        target: where the remaining rows are written, as JSON Lines.
        dropped: where the dropped rows are written, as JSON Lines of "row", "id", "step", "why".
        processes, options: as for `clean_rows`.
    Returns:
        The report; its own list of dropped rows stays empty.
    Raises:
        Qwen3labError: as `clean_rows`; a line that is no JSON; a file that would be overwritten
            while it is read.
    """
    source, target, dropped = map(Path, (source, target, dropped))
    if len({path.resolve() for path in (source, target, dropped)}) < 3:
        raise Qwen3labError(
            "The file to clean, the cleaned one and that of the dropped rows are not three"
            " different ones. Give each a path of its own."
        )
    with source.open("rb") as file, source.open("rb") as again, dropped.open("wb") as out:
        done = OnDisk(again, options.get("mask", True))
        try:
            steps = _steps(
                lines(file), done, processes, tell=lambda row: out.write(_line(row)), **options
            )
            with target.open("wb") as kept:
                for place in steps.alive.tolist():
                    kept.write(_line(done.row(place)))
        finally:
            done.close()
    return steps.report


def _line(row: dict[str, Any]) -> bytes:
    """Write a row as a line of JSON; half characters, which UTF-8 cannot write, as escapes."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _steps(
    rows: Iterable[Any],
    done: Prepared,
    processes: int,
    *,
    tell: Callable[[dict[str, Any]], Any] | None = None,
    mask: bool = True,
    words: Iterable[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    near_threshold: float | None = deduplication.THRESHOLD,
) -> _Steps:
    """Take all steps; `tell` is told of each dropped row, or else the report keeps it."""
    # 1. What was asked for.
    counted = min_tokens is not None or max_tokens is not None
    if counted and tokenizer is None:
        raise Qwen3labError(
            "A limit on tokens needs a tokenizer to count them. Pass"
            " tokenizer=models.load_tokenizer('chat')."
        )
    words = tuple(words)
    # 2. Each row by itself, in parallel where it pays.
    work = {
        "mask": mask,
        "words": words,
        "near_too": near_threshold is not None,
        "backend": getattr(tokenizer, "backend_tokenizer", None) if counted else None,
        "keep_rows": not isinstance(done, OnDisk),
    }
    for chunk, part in parts(rows, work, processes):
        done.add(chunk, part)
    # 3. The steps that look at one row.
    steps = _Steps(done, tell)
    steps.normalise()
    if mask:
        steps.mask()
    if words:
        steps.drop_words()
    if counted:
        steps.drop_lengths(tokenizer, min_tokens, max_tokens)
    # 4. The steps that look for an earlier row.
    steps.drop_copies()
    if near_threshold is not None:
        steps.drop_near_copies(near_threshold)
    return steps


class _Steps:
    """The steps of `clean_rows`, in the order of their methods, and the places of the rows left."""

    def __init__(self, done: Prepared, tell: Callable[[dict[str, Any]], Any] | None = None):
        import numpy as np

        self.done, self.report = done, Report(done.count)
        self.tell = tell or self.report.dropped.append
        self.alive = np.arange(done.count)

    def _drop(self, name: str, dropped: Iterable[tuple[int, str]]) -> Step:
        """Drop rows, given by place and reason, and report the step."""
        import numpy as np

        step, gone = Step(name), array("q")
        for place, why in dropped:
            gone.append(place)
            step.note(f"row {place + 1}: {why}")
            self.tell(
                {
                    "row": place + 1,
                    "id": self.done.before(place).get("id"),
                    "step": name,
                    "why": why,
                }
            )
        step.dropped = len(gone)
        self.report.steps.append(step)
        if gone:
            left = np.ones(self.done.count, dtype=bool)
            left[np.frombuffer(gone, dtype=np.int64)] = False
            self.alive = self.alive[left[self.alive]]
        return step

    def normalise(self) -> None:
        """Report the normalised rows; drop those with nothing else in a message."""
        done = self.done
        step = self._drop("normalise", ((place, _EMPTY) for place in done.empty))
        step.changed = done.normalised
        for place in () if done.empty else done.first_normalised:
            row = done.before(place)
            step.note(f"row {place + 1}: {_difference(row, clean(row))}")

    def mask(self) -> None:
        """Report the rows whose personal data was masked."""
        done = self.done
        step = self._drop("mask personal data", ())
        step.changed, step.counts = done.masked, done.found
        for _, place in done.most_kinds:  # rows with the most kinds come first, as examples
            step.note(f"row {place + 1}: {around(done.text(place), _MARK)}")

    def drop_words(self) -> None:
        """Drop rows that contain a word of the list."""
        self._drop("word list", self.done.blocked.items())

    def drop_lengths(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        min_tokens: int | None,
        max_tokens: int | None,
    ) -> None:
        """Drop rows with fewer or more tokens than the limits."""
        import numpy as np

        lengths = np.concatenate([*self.done.tokens, np.zeros(0, dtype=np.int32)])
        left = self.alive[lengths[self.alive] < 0]
        for at in range(0, len(left), CHUNK):
            some = left[at : at + CHUNK]
            rows = [self.done.row(place) for place in some.tolist()]
            lengths[some] = token_lengths(rows, tokenizer)
        low, high = min_tokens or 0, max_tokens if max_tokens is not None else float("inf")
        limits = [f"fewer than {min_tokens}"] * (min_tokens is not None) + [
            f"more than {max_tokens}"
        ] * (max_tokens is not None)
        beyond = self.alive[(lengths[self.alive] < low) | (lengths[self.alive] > high)]
        self._drop(
            " or ".join(limits) + " tokens",
            (
                (place, f"{lengths[place]} tokens: {short(self.done.text(place), 60)}")
                for place in beyond.tolist()
            ),
        )

    def drop_copies(self) -> None:
        """Drop exact copies of an earlier row."""
        import numpy as np

        keys = np.concatenate([*self.done.keys, np.zeros((0, 2), dtype=np.uint64)])[self.alive]
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal rows stay in order
        keys = keys[order]
        same = np.zeros(len(order), dtype=bool)
        same[1:] = (keys[1:] == keys[:-1]).all(axis=1)
        # Where the group of each begins, in the order of the keys.
        begins = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        copies, firsts = self.alive[order[same]], self.alive[order[begins[same]]]
        by_place = np.argsort(copies)
        pairs = zip(copies[by_place].tolist(), firsts[by_place].tolist())
        self._drop("exact copies", ((place, f"copies row {other + 1}") for place, other in pairs))

    def drop_near_copies(self, threshold: float) -> None:
        """Drop rows whose shingles overlap an earlier row's."""
        self._drop(
            "near-copies",
            (
                (
                    place,
                    f"overlap {overlap:.2f} with row {other + 1}:"
                    f" {short(self.done.text(place), 60)}",
                )
                for place, other, overlap in self.done.near(self.alive, threshold)
            ),
        )


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Show the first difference between two versions of a row.

    Invisible characters are escaped, and digits are hidden: they may be personal data.
    """
    texts = [
        (
            [row["text"]]
            if "messages" not in row
            else [message.get(part) or "" for message in row["messages"] for part in PARTS]
        )
        for row in (before, after)
    ]
    old, new = next(((one, two) for one, two in zip(*texts) if one != two), ("", ""))
    place = next(
        (i for i, (one, two) in enumerate(zip(old, new)) if one != two), min(len(old), len(new))
    )
    shown = [re.sub(r"\d", "#", text[max(0, place - 12) : place + 6]) for text in (old, new)]
    return " -> ".join(
        repr("".join(rf"\u{ord(c):04x}" if unicodedata.combining(c) else c for c in text)).replace(
            "\\\\", "\\"
        )
        for text in shown
    )
