"""Data cleaning: Unicode normalisation, PII masking, word filters, exact and near-deduplication.

`clean_rows` does all of it and reports what each step changed and which rows it dropped.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from qwen3lab.data import deduplication
from qwen3lab.data.pii import mask_call, mask_personal
from qwen3lab.data.rows import course, records
from qwen3lab.data.splits import prompt
from qwen3lab.data.validation import short
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

# Invisible characters that make equal texts unequal. U+200C and U+200D stay: they matter in some
# scripts and emoji.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MARK = re.compile(r"\[(?:EMAIL|IP|ID_CARD|BANK_CARD|PHONE)\]")
_EXAMPLES = 3  # kept per step
_PARTS = ("content", "reasoning_content")  # the text fields of a message


def normalize(text: str) -> str:
    """Normalise a text: Unicode NFC, Unix line ends, no invisible characters, no outer whitespace.

    Whitespace is removed at line ends and around the text, but not an indent of its first line: two
    spaces or more, a tab, or one space where all lines have it. A function's body would not compile
    without. NFC joins a letter and its accent into one character, as Qwen3's tokenizer does before
    it splits. It leaves full-width punctuation alone, which NFKC would change. Applying it twice
    changes nothing.
    """
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    lines = [line.rstrip() for line in text.split("\n")]
    text = "\n".join(lines).rstrip()
    begin = text.lstrip()
    indent = text[: len(text) - len(begin)].rpartition("\n")[2]
    if indent == " " and "\n" in begin and all(line[:1] in ("", " ") for line in lines):
        return indent + begin
    return indent + begin if indent.strip(" \t") == "" and len(indent.expandtabs()) > 1 else begin


def clean(row: dict[str, Any], change: Callable[[str], str] = normalize) -> dict[str, Any]:
    """Copy a row with `change` applied to its text, or to every message's content and thoughts."""
    row = course(row)
    if "messages" not in row:
        return row | {"text": change(row["text"])}
    return row | {
        "messages": [
            message
            | {part: change(message[part]) for part in _PARTS if isinstance(message.get(part), str)}
            for message in row["messages"]
        ]
    }


def mask_row(row: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
    """Mask personal data in a copy of a row, tool-call arguments included; also return the counts.

    The same number gets the same mark everywhere, so that a call still repeats what its user said.
    """
    counts: Counter[str] = Counter()

    def masked(text: str) -> str:
        text, found = mask_personal(text)
        if found:
            counts.update(found)
        return text

    done = clean(row, masked)
    for message in done.get("messages", ()):
        if message.get("tool_calls"):
            message["tool_calls"] = [mask_call(call, counts) for call in message["tool_calls"]]
    return done, counts


def key(row: dict[str, Any]) -> str:
    """Compute a row's identity: the MD5 sum of roles, contents, thoughts, calls and tools.

    Clean the rows first. MD5 is broken against deliberate collisions; by accident, 100,000 rows
    contain a collision once in 10^28 times.
    """
    row = course(row)
    parts = (
        [row["text"]]
        if "messages" not in row
        else [json.dumps(row["tools"], sort_keys=True)]
        if row.get("tools")
        else []
    )
    for message in row.get("messages", ()):
        parts += [
            message["role"],
            message.get("content") or "",
            message.get("reasoning_content") or "",
        ]
        parts += [
            json.dumps(call.get("function", call), sort_keys=True, default=str)
            for call in message.get("tool_calls") or ()
        ]
    return hashlib.md5(
        "".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass"),
        usedforsecurity=False,
    ).hexdigest()


def drop_copies(
    rows: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split rows into (first occurrences, exact copies of an earlier row), in order."""
    seen, kept, copies = set(), [], []
    for row in records(rows):
        same = key(row)
        (copies if same in seen else kept).append(row)
        seen.add(same)
    return kept, copies


def word_pattern(words: Iterable[str]) -> re.Pattern[str] | None:
    """Compile one case-insensitive pattern for a list of words; None for an empty list.

    A word of Latin letters matches only as a whole word ("class" does not contain "ass"). Chinese
    is written without spaces, so a Chinese word also matches inside longer ones: 毒品 in 消毒品牌.
    """
    longest_first = sorted(filter(None, words), key=lambda word: (-len(word), word))
    parts = [
        rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])" if word.isascii() else re.escape(word)
        for word in longest_first
    ]
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def token_lengths(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, answers_only: bool = False
) -> list[int]:
    """Count the tokens in each row's contents, or in its assistant turns only.

    The chat template's own tokens are not counted.
    """

    def counts(message: dict[str, Any]) -> bool:
        return bool(message.get("content")) and (not answers_only or message["role"] == "assistant")

    texts = [
        (
            [row["text"]]
            if "messages" not in row
            else [message["content"] for message in row["messages"] if counts(message)]
        )
        for row in map(course, records(rows))
    ]
    flat = [text for row in texts for text in row]
    lengths = iter(map(len, tokenizer(flat, add_special_tokens=False).input_ids) if flat else ())
    return [sum(next(lengths) for _ in row) for row in texts]


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
        if len(self.examples) < _EXAMPLES:
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
    # 1. What was asked for, checked before anything is changed.
    rows = list(map(_read, count(1), records(rows)))
    _check(rows, min_tokens, max_tokens, tokenizer)
    # 2. Each row by itself, in parallel where it pays.
    done = _prepared(rows, mask, tuple(words), near_threshold is not None, processes)
    # 3. The steps that look at one row.
    steps = _Steps(rows, done)
    steps.normalise()
    if mask:
        steps.mask()
    if words:
        steps.drop_words()
    if min_tokens is not None or max_tokens is not None:
        steps.drop_lengths(tokenizer, min_tokens, max_tokens)
    # 4. The steps that look for an earlier row.
    steps.drop_copies()
    if near_threshold is not None:
        steps.drop_near_copies(near_threshold)
    return [done.rows[place] for place in steps.alive], steps.report


def _read(number: int, row: Any) -> Any:
    try:
        return course(row)
    except Qwen3labError as error:
        raise Qwen3labError(f"Row {number}: {error}") from None


def _check(
    rows: Sequence[dict[str, Any]],
    min_tokens: int | None,
    max_tokens: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Refuse rows of another schema, and limits that cannot be counted."""
    for number, row in enumerate(rows, start=1):
        if not _is_row(row):
            raise Qwen3labError(
                f"Row {number} has neither good messages nor text. Bring raw rows through"
                " qwen3lab.data.formats.convert first."
            )
    if (min_tokens is not None or max_tokens is not None) and tokenizer is None:
        raise Qwen3labError(
            "A limit on tokens needs a tokenizer to count them. Pass"
            " tokenizer=models.load_tokenizer('chat')."
        )


def _is_row(row: Any) -> bool:
    """Check the types that the steps rely on; `validation.check` judges the content."""
    if not isinstance(row, dict) or "messages" not in row:
        return isinstance(row, dict) and isinstance(row.get("text"), str)
    return isinstance(row["messages"], list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and all(isinstance(message.get(part) or "", str) for part in _PARTS)
        and isinstance(message.get("tool_calls") or [], list)
        and all(isinstance(call, dict) for call in message.get("tool_calls") or ())
        for message in row["messages"]
    )


@dataclass
class _Prepared:
    """Results for each row by itself, in the order of the rows; shingles are concatenated."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    normalised: list[bool] = field(default_factory=list)
    empty: list[bool] = field(default_factory=list)
    found: list[Counter[str]] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    shingles: list[Any] = field(default_factory=list)  # (hashes, starts, bands) of each chunk

    def near(self, alive: list[int], threshold: float) -> list[tuple[int, int, float]]:
        """Find near-copies among the remaining rows, by index."""
        import numpy as np

        if not alive:
            return []
        hashes = np.concatenate([part[0] for part in self.shingles])
        lengths = np.concatenate([np.diff(part[1]) for part in self.shingles])
        keys = np.concatenate([part[2] for part in self.shingles])
        kept = np.repeat(np.isin(np.arange(len(lengths)), alive), lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[alive])])
        return [
            (alive[place], alive[other], overlap)
            for place, other, overlap in deduplication.find(
                hashes[kept], starts, keys[alive], threshold, lambda at: self.texts[alive[at]]
            )
        ]


class _Steps:
    """The steps of `clean_rows`, in the order of their methods, and the places of the rows left."""

    def __init__(self, rows: Sequence[dict[str, Any]], done: _Prepared):
        self.rows, self.done = rows, done
        self.alive, self.report = list(range(len(rows))), Report(len(rows))

    def _take(
        self,
        name: str,
        dropped: dict[int, str],
        changed: Sequence[int] = (),
        counts: Counter[str] | None = None,
        look: Callable[[int], str] = str,
    ) -> None:
        """Drop rows and report the step; `look` shows a changed row as an example."""
        this = Step(name, len(changed), len(dropped), counts=counts or Counter())
        for place in [*dropped][:_EXAMPLES] or changed[:_EXAMPLES]:
            this.note(f"row {place + 1}: " + (dropped[place] if place in dropped else look(place)))
        self.report.steps.append(this)
        self.report.dropped += [
            {"row": place + 1, "id": self.rows[place].get("id"), "step": name, "why": why}
            for place, why in dropped.items()
        ]
        self.alive = [place for place in self.alive if place not in dropped]

    def normalise(self) -> None:
        """Report the normalised rows; drop those with nothing else in a message."""
        done = self.done
        empty = {
            place: "nothing but invisible characters in a message"
            for place in self.alive
            if done.empty[place]
        }
        changed = [
            place for place in self.alive if done.normalised[place] and not done.empty[place]
        ]
        self._take(
            "normalise",
            empty,
            changed,
            look=lambda place: _difference(self.rows[place], clean(self.rows[place])),
        )

    def mask(self) -> None:
        """Report the rows whose personal data was masked."""
        # Rows with the most kinds come first, as examples.
        found = sorted(
            (place for place in self.alive if self.done.found[place]),
            key=lambda place: (-len(self.done.found[place]), place),
        )
        self._take(
            "mask personal data",
            {},
            found,
            sum((self.done.found[place] for place in found), Counter()),
            lambda place: _around(self.done.texts[place], _MARK),
        )

    def drop_words(self) -> None:
        """Drop rows that contain a word of the list."""
        blocked = self.done.blocked
        self._take("word list", {place: blocked[place] for place in self.alive if blocked[place]})

    def drop_lengths(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        min_tokens: int | None,
        max_tokens: int | None,
    ) -> None:
        """Drop rows with fewer or more tokens than the limits."""
        left = [self.done.rows[place] for place in self.alive]
        lengths = dict(zip(self.alive, token_lengths(left, tokenizer)))
        low, high = min_tokens or 0, max_tokens if max_tokens is not None else float("inf")
        limits = [f"fewer than {min_tokens}"] * (min_tokens is not None) + [
            f"more than {max_tokens}"
        ] * (max_tokens is not None)
        self._take(
            " or ".join(limits) + " tokens",
            {
                place: f"{length} tokens: {short(self.done.texts[place], 60)}"
                for place, length in lengths.items()
                if not low <= length <= high
            },
        )

    def drop_copies(self) -> None:
        """Drop exact copies of an earlier row."""
        keys = self.done.keys
        first: dict[str, int] = {}
        copies = {
            place: first[keys[place]]
            for place in self.alive
            if first.setdefault(keys[place], place) != place
        }
        self._take(
            "exact copies", {place: f"copies row {other + 1}" for place, other in copies.items()}
        )

    def drop_near_copies(self, threshold: float) -> None:
        """Drop rows whose shingles overlap an earlier row's."""
        self._take(
            "near-copies",
            {
                place: f"overlap {overlap:.2f} with row {other + 1}:"
                f" {short(self.done.texts[place], 60)}"
                for place, other, overlap in self.done.near(self.alive, threshold)
            },
        )


def _prepared(
    rows: Sequence[dict[str, Any]],
    mask: bool,
    words: tuple[str, ...],
    near_too: bool,
    processes: int,
) -> _Prepared:
    """Process single rows in chunks, in parallel where it pays."""
    if processes <= 1 or len(rows) < 2000:
        return _prepare((rows, mask, words, near_too))
    import multiprocessing

    size = -(-len(rows) // (8 * processes))
    chunks = [(rows[at : at + size], mask, words, near_too) for at in range(0, len(rows), size)]
    whole = _Prepared()
    with multiprocessing.Pool(processes) as pool:
        for part in pool.imap(_prepare, chunks):
            for name, values in vars(part).items():
                getattr(whole, name).extend(values)
    return whole


def _prepare(chunk: tuple[Sequence[dict[str, Any]], bool, tuple[str, ...], bool]) -> _Prepared:
    rows, mask, words, near_too = chunk
    pattern, done = word_pattern(words), _Prepared()
    for row in rows:
        tidy = clean(row)
        done.normalised.append(tidy != row)
        said = (
            [message.get("content") or message.get("tool_calls") for message in tidy["messages"]]
            if "messages" in tidy
            else [tidy["text"]]
        )
        done.empty.append(not all(said))
        tidy, found = mask_row(tidy) if mask else (tidy, Counter())
        text = prompt(tidy)
        match = pattern.search(text) if pattern else None
        done.rows.append(tidy)
        done.texts.append(text)
        done.found.append(found)
        done.blocked.append(f"holds {match[0]}: {_around(text, pattern, 15)}" if match else "")
        done.keys.append(key(tidy))
    if near_too:
        done.shingles.append(deduplication.index(done.texts))
    return done


def _around(text: str, pattern: re.Pattern[str], size: int = 30) -> str:
    """Return the first match of a pattern with its surroundings."""
    match = pattern.search(text)
    return (
        short(text[max(0, match.start() - size) : match.end() + size], 3 * size)
        if match
        else short(text)
    )


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Show the first difference between two versions of a row.

    Invisible characters are escaped, and digits are hidden: they may be personal data.
    """
    texts = [
        (
            [row["text"]]
            if "messages" not in row
            else [message.get(part) or "" for message in row["messages"] for part in _PARTS]
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
