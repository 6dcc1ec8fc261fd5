"""Data cleaning: Unicode normalisation, PII masking, word filters, exact and near-deduplication.

`clean_rows` does all of it and reports what each step changed and which rows it dropped.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from qwen3lab.data import deduplication
from qwen3lab.data.pii import mask_call, mask_personal, may_hold
from qwen3lab.data.rows import course, records
from qwen3lab.data.splits import is_usual, joined, prompt
from qwen3lab.data.token_counts import by_pieces, count_tokens
from qwen3lab.data.validation import short
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

# Invisible characters that make equal texts unequal. U+200C and U+200D stay: they matter in some
# scripts and emoji.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MARK = re.compile(r"\[(?:EMAIL|IP|ID_CARD|BANK_CARD|PHONE)\]")
_EXAMPLES = 3  # kept per step
_CHUNK = 4000  # rows that are prepared together
_EMPTY = "nothing but invisible characters in a message"
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
    return _sum_of(course(row)).hexdigest()


def _sum_of(row: dict[str, Any]) -> Any:
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
        calls = message.get("tool_calls")
        if calls:
            parts += [
                json.dumps(call.get("function", call), sort_keys=True, default=str)
                for call in calls
            ]
    return hashlib.md5(
        "".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass"),
        usedforsecurity=False,
    )


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

    texts = [_contents(row, answers_only) for row in map(course, records(rows))]
    lengths = iter(count_tokens([text for row in texts for text in row], tokenizer))
    return [sum(next(lengths) for _ in row) for row in texts]


def _contents(row: dict[str, Any], answers_only: bool = False) -> list[str]:
    """List the texts of a row whose tokens count."""
    if "messages" not in row:
        return [row["text"]]
    return [
        message["content"]
        for message in row["messages"]
        if message.get("content") and (not answers_only or message["role"] == "assistant")
    ]


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
    # 1. What was asked for.
    if (min_tokens is not None or max_tokens is not None) and tokenizer is None:
        raise Qwen3labError(
            "A limit on tokens needs a tokenizer to count them. Pass"
            " tokenizer=models.load_tokenizer('chat')."
        )
    # 2. Each row by itself, in parallel where it pays.
    counted = min_tokens is not None or max_tokens is not None
    work = {
        "mask": mask,
        "words": tuple(words),
        "near_too": near_threshold is not None,
        "backend": getattr(tokenizer, "backend_tokenizer", None) if counted else None,
    }
    rows = records(rows)
    done = _Prepared()
    for chunk, part in _parts(rows, work, processes if len(rows) >= 2000 else 1):
        done.add(chunk, part)
    # 3. The steps that look at one row.
    steps = _Steps(done)
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
    return [done.row(place) for place in steps.alive.tolist()], steps.report


def _read(number: int, row: Any) -> dict[str, Any]:
    """Bring a row into the course's schema, or refuse it by its number."""
    try:
        row = course(row)
    except Qwen3labError as error:
        raise Qwen3labError(f"Row {number}: {error}") from None
    if not _is_row(row):
        raise Qwen3labError(
            f"Row {number} has neither good messages nor text. Bring raw rows through"
            " qwen3lab.data.formats.convert first."
        )
    return row


def _is_row(row: Any) -> bool:
    """Check the types that the steps rely on; `validation.check` judges the content."""
    if not isinstance(row, dict) or "messages" not in row:
        return isinstance(row, dict) and isinstance(row.get("text"), str)
    return isinstance(row["messages"], list) and all(map(_is_message, row["messages"]))


def _is_message(message: Any) -> bool:
    if not (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content") or "", str)
        and isinstance(message.get("reasoning_content") or "", str)
    ):
        return False
    calls = message.get("tool_calls")
    return not calls or (isinstance(calls, list) and all(isinstance(call, dict) for call in calls))


@dataclass
class _Part:
    """Results for a chunk of rows, each row by itself; rows are named by their place in it."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # those that are not as they were
    normalised: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    found: dict[int, Counter[str]] = field(default_factory=dict)
    blocked: dict[int, str] = field(default_factory=dict)
    keys: np.ndarray | None = None  # uint64 [rows, 2]
    tokens: np.ndarray | None = None  # int32, -1 where the tokenizer has to count
    shingles: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # hashes, starts, bands


class _Work:
    """The work on single rows, in this process or in others."""

    def __init__(
        self, mask: bool, words: tuple[str, ...], near_too: bool, backend: Any = None
    ) -> None:
        self.mask, self.pattern, self.near_too = mask, word_pattern(words), near_too
        # Of usual characters only ASCII letters have two cases, so that a text of them without any
        # of the words in small letters needs no pattern.
        self.small = [word.lower() for word in words] if all(map(is_usual, words)) else [""]
        self.count = by_pieces(backend) if backend is not None else None

    def __call__(self, start: int, rows: Sequence[Any]) -> _Part:
        """Prepare a chunk of rows, the first of which has the place `start`."""
        import numpy as np

        part = _Part()
        keys, texts, tokens = [], [], []
        for place, raw in enumerate(rows):
            read = tidy = row = _read(start + place + 1, raw)
            if row is not raw or not _stays(row, self.mask):
                tidy = clean(row)
                if tidy != row:
                    part.normalised.append(place)
            if not _says_all(tidy):
                part.empty.append(place)
            if tidy is not row:
                if self.mask:
                    tidy, found = mask_row(tidy)
                    if found:
                        part.found[place] = found
                part.rows[place] = tidy
                read = course(tidy)  # a mark of thoughts may have appeared
            texts.append(joined(read))
            match = self._word(texts[-1]) if self.pattern else None
            if match:
                around = _around(texts[-1], self.pattern, 15)
                part.blocked[place] = f"holds {match[0]}: {around}"
            keys.append(_sum_of(read).digest())
            tokens.append(self._tokens(read))
        part.keys = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)
        part.tokens = np.array(tokens, dtype=np.int32)
        if self.near_too:
            part.shingles = deduplication.index(texts)
        return part

    def _word(self, text: str) -> re.Match[str] | None:
        small = text.lower()
        if is_usual(text) and not any([word in small for word in self.small]):
            return None
        return self.pattern.search(text)

    def _tokens(self, row: dict[str, Any]) -> int:
        total = 0
        for text in _contents(row) if self.count else ():
            count = self.count(text)
            if count is None:
                return -1
            total += count
        return total if self.count else -1


def _stays(row: dict[str, Any], mask: bool) -> bool:
    """Tell fast whether normalising and masking leave a row as it is: most rows need no copy."""
    for message in row.get("messages", (row,)):
        if mask and message.get("tool_calls"):
            return False
        for part in _PARTS if "messages" in row else ("text",):
            text = message.get(part)
            if isinstance(text, str) and (normalize(text) != text or (mask and may_hold(text))):
                return False
    return True


def _says_all(row: dict[str, Any]) -> bool:
    """Tell whether each message of a row, or its text, holds something."""
    if "messages" not in row:
        return bool(row["text"])
    return all([message.get("content") or message.get("tool_calls") for message in row["messages"]])


def _parts(
    rows: Sequence[Any], work: dict[str, Any], processes: int
) -> Iterator[tuple[Sequence[Any], _Part]]:
    """Prepare rows in chunks of `_CHUNK`; yields each chunk and its results, in order."""
    chunks = ((at, rows[at : at + _CHUNK]) for at in range(0, len(rows), _CHUNK))
    if processes <= 1:
        here = _Work(**work)
        for start, chunk in chunks:
            yield chunk, here(start, chunk)
        return
    import multiprocessing

    with multiprocessing.Pool(processes, _begin, (work,)) as pool:
        waiting: deque[tuple[Sequence[Any], Any]] = deque()
        for start, chunk in chunks:
            waiting.append((chunk, pool.apply_async(_work_on, (start, chunk))))
            if len(waiting) > 2 * processes:  # no more chunks in memory than keep all busy
                chunk, result = waiting.popleft()
                yield chunk, result.get()
        for chunk, result in waiting:
            yield chunk, result.get()


_there: list[_Work] = []  # of a process of the pool


def _begin(work: dict[str, Any]) -> None:
    # What a forked process inherits is never garbage; searching it would copy its memory.
    gc.freeze()
    _there[:] = [_Work(**work)]


def _work_on(start: int, chunk: Sequence[Any]) -> _Part:
    return _there[0](start, chunk)


class _Prepared:
    """What the work on single rows found, of all rows."""

    def __init__(self) -> None:
        self.count = 0
        self.raw: list[Any] = []
        self.changed: dict[int, dict[str, Any]] = {}
        self.empty: dict[int, str] = {}
        self.blocked: dict[int, str] = {}
        self.normalised: list[int] = []
        self.masked: list[tuple[int, int]] = []  # minus the number of kinds, place
        self.found: Counter[str] = Counter()
        self.keys: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.shingles: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, chunk: Sequence[Any], part: _Part) -> None:
        """Take over the results for the next chunk of rows."""
        start, self.count = self.count, self.count + len(chunk)
        empty = set(part.empty)
        self.raw += chunk
        self.changed |= {start + place: row for place, row in part.rows.items()}
        self.empty |= {start + place: _EMPTY for place in part.empty}
        self.blocked |= {start + place: why for place, why in part.blocked.items()}
        self.normalised += [start + place for place in part.normalised if place not in empty]
        for place, found in part.found.items():
            if place not in empty:
                self.masked.append((-len(found), start + place))
                self.found += found
        self.keys.append(part.keys)
        self.tokens.append(part.tokens)
        if part.shingles is not None:
            self.shingles.append(part.shingles)

    def before(self, place: int) -> dict[str, Any]:
        """Return a row as it came in."""
        return course(self.raw[place])

    def row(self, place: int) -> dict[str, Any]:
        """Return a row as it was cleaned, as a copy."""
        if place in self.changed:
            return self.changed[place]
        row = self.raw[place]
        return row | ({"messages": [{**m} for m in row["messages"]]} if "messages" in row else {})

    def text(self, place: int) -> str:
        """Return the text of a cleaned row."""
        return prompt(self.row(place))

    def near(self, alive: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
        """Find near-copies among the remaining rows, by their places."""
        import numpy as np

        places = alive.tolist()

        def hashes(place: int) -> list[int]:
            chunk, at = divmod(places[place], _CHUNK)
            values, starts, _ = self.shingles[chunk]
            return values[starts[at] : starts[at + 1]].tolist()

        columns = (
            np.concatenate([bands[:, band] for _, _, bands in self.shingles])[alive]
            for band in range(deduplication.BANDS if len(places) else 0)
        )
        return [
            (places[place], places[other], overlap)
            for place, other, overlap in deduplication.pairs(
                columns, hashes, threshold, lambda at: self.text(places[at])
            )
        ]


class _Steps:
    """The steps of `clean_rows`, in the order of their methods, and the places of the rows left."""

    def __init__(self, done: _Prepared):
        import numpy as np

        self.done, self.report = done, Report(done.count)
        self.alive = np.arange(done.count)

    def _take(
        self,
        name: str,
        dropped: dict[int, str],
        changed: Sequence[int] = (),
        counts: Counter[str] | None = None,
        look: Callable[[int], str] = str,
    ) -> None:
        """Drop rows and report the step; `look` shows a changed row as an example."""
        import numpy as np

        this = Step(name, len(changed), len(dropped), counts=counts or Counter())
        for place in [*islice(dropped, _EXAMPLES)] or changed[:_EXAMPLES]:
            this.note(f"row {place + 1}: " + (dropped[place] if place in dropped else look(place)))
        self.report.steps.append(this)
        self.report.dropped += [
            {"row": place + 1, "id": self.done.before(place).get("id"), "step": name, "why": why}
            for place, why in dropped.items()
        ]
        if dropped:
            self.alive = self.alive[~np.isin(self.alive, [*dropped])]

    def normalise(self) -> None:
        """Report the normalised rows; drop those with nothing else in a message."""
        done = self.done
        self._take(
            "normalise",
            done.empty,
            done.normalised,
            look=lambda place: _difference(done.before(place), clean(done.before(place))),
        )

    def mask(self) -> None:
        """Report the rows whose personal data was masked."""
        # Rows with the most kinds come first, as examples.
        self._take(
            "mask personal data",
            {},
            [place for _, place in sorted(self.done.masked)],
            self.done.found,
            lambda place: _around(self.done.text(place), _MARK),
        )

    def drop_words(self) -> None:
        """Drop rows that contain a word of the list."""
        empty = self.done.empty
        blocked = self.done.blocked.items()
        self._take("word list", {place: why for place, why in blocked if place not in empty})

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
        lengths[left] = token_lengths([self.done.row(place) for place in left.tolist()], tokenizer)
        low, high = min_tokens or 0, max_tokens if max_tokens is not None else float("inf")
        limits = [f"fewer than {min_tokens}"] * (min_tokens is not None) + [
            f"more than {max_tokens}"
        ] * (max_tokens is not None)
        beyond = self.alive[(lengths[self.alive] < low) | (lengths[self.alive] > high)]
        self._take(
            " or ".join(limits) + " tokens",
            {
                place: f"{lengths[place]} tokens: {short(self.done.text(place), 60)}"
                for place in beyond.tolist()
            },
        )

    def drop_copies(self) -> None:
        """Drop exact copies of an earlier row."""
        import numpy as np

        copies: dict[int, str] = {}
        if len(self.alive):
            keys = np.concatenate(self.done.keys)[self.alive]
            order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal rows stay in order
            same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
            starts = np.concatenate([[0], np.where(same, 0, np.arange(1, len(order)))])
            first = self.alive[order[np.maximum.accumulate(starts)[1:]]]
            pairs = zip(self.alive[order[1:]][same].tolist(), first[same].tolist())
            copies = {place: f"copies row {other + 1}" for place, other in sorted(pairs)}
        self._take("exact copies", copies)

    def drop_near_copies(self, threshold: float) -> None:
        """Drop rows whose shingles overlap an earlier row's."""
        self._take(
            "near-copies",
            {
                place: f"overlap {overlap:.2f} with row {other + 1}:"
                f" {short(self.done.text(place), 60)}"
                for place, other, overlap in self.done.near(self.alive, threshold)
            },
        )


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
