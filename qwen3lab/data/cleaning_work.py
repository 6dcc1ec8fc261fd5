"""The work of cleaning on single rows, in chunks and by several processes, and what it found.

`Prepared` keeps the rows in memory, `OnDisk` leaves them where they are: in a file of JSON Lines.
"""

from __future__ import annotations

import gc
import heapq
import json
import re
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from qwen3lab.data import deduplication
from qwen3lab.data.one_row import (
    clean,
    contents,
    mask_row,
    read,
    says_all,
    stays,
    sum_of,
    word_pattern,
)
from qwen3lab.data.rows import course
from qwen3lab.data.splits import is_usual, joined, prompt
from qwen3lab.data.token_counts import by_pieces
from qwen3lab.data.validation import short
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import numpy as np

CHUNK = 2000  # rows that are prepared together
EXAMPLES = 3  # kept per step


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """Switch Python's search for cycles off: rows have none, and there are many to search.

    Cleaning 100,000 rows sets it off a few times, each through all objects there are.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@dataclass
class Part:
    """Results for a chunk of rows, each row by itself; rows are named by their place in it."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # those that are not as they were
    normalised: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    found: dict[int, Counter[str]] = field(default_factory=dict)
    blocked: dict[int, str] = field(default_factory=dict)
    keys: np.ndarray | None = None  # uint64 [rows, 2]
    tokens: np.ndarray | None = None  # int32, -1 where the tokenizer has to count
    shingles: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # hashes, starts, bands


class Work:
    """The work on single rows, in this process or in others."""

    def __init__(
        self,
        mask: bool,
        words: tuple[str, ...],
        near_too: bool,
        backend: Any = None,
        keep_rows: bool = True,
    ) -> None:
        self.keep_rows = keep_rows
        self.mask, self.pattern, self.near_too = mask, word_pattern(words), near_too
        # Of usual characters only ASCII letters have two cases, so that a text of them without any
        # of the words in small letters needs no pattern.
        self.small = [word.lower() for word in words] if all(map(is_usual, words)) else [""]
        self.count = by_pieces(backend) if backend is not None else None

    def __call__(self, start: int, rows: Sequence[Any]) -> Part:
        """Prepare a chunk of rows, the first of which has the place `start`."""
        import numpy as np

        part = Part()
        keys, texts, tokens = [], [], []
        for place, raw in enumerate(rows):
            row, normalised, empty, found = self._tidied(start + place + 1, raw)
            if normalised:
                part.normalised.append(place)
            if empty:
                part.empty.append(place)
            if found:
                part.found[place] = found
            if row is not raw:
                if self.keep_rows:
                    part.rows[place] = row
                row = course(row)  # a mark of thoughts may have appeared
            texts.append(joined(row))
            match = self._word(texts[-1]) if self.pattern else None
            if match:
                shown = around(texts[-1], self.pattern, 15)
                part.blocked[place] = f"holds {match[0]}: {shown}"
            keys.append(sum_of(row).digest())
            tokens.append(self._tokens(row))
        part.keys = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)
        part.tokens = np.array(tokens, dtype=np.int32)
        if self.near_too:
            part.shingles = deduplication.index(texts)
        return part

    def _tidied(
        self, number: int, raw: Any
    ) -> tuple[dict[str, Any], bool, bool, Counter[str] | None]:
        """Normalise and mask a row; also tell whether normalising changed it, and left nothing."""
        if isinstance(raw, bytes):
            raw = parsed(number, raw)
        row = read(number, raw)
        if row is raw and stays(row, self.mask):
            return row, False, not says_all(row), None
        tidy = clean(row)
        normalised, empty = tidy != row, not says_all(tidy)
        masked, found = mask_row(tidy) if self.mask else (tidy, None)
        return masked, normalised, empty, found

    def _word(self, text: str) -> re.Match[str] | None:
        small = text.lower()
        if is_usual(text) and not any([word in small for word in self.small]):
            return None
        return self.pattern.search(text)

    def _tokens(self, row: dict[str, Any]) -> int:
        total = 0
        for text in contents(row) if self.count else ():
            count = self.count(text)
            if count is None:
                return -1
            total += count
        return total if self.count else -1


def parsed(number: int, line: bytes) -> Any:
    """Parse a line of JSON Lines, or refuse it by its number."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise Qwen3labError(
            f"Row {number} is no JSON. Bring the file through qwen3lab.data.formats.load first."
        ) from None


def lines(file: Iterable[bytes]) -> Iterator[bytes]:
    """Go through the lines of a file; an empty one belongs to the line before it."""
    held = b""
    for line in file:
        if line.strip() and held.strip():
            yield held
            held = b""
        held += line
    if held.strip():
        yield held


def parts(
    rows: Iterable[Any], work: dict[str, Any], processes: int
) -> Iterator[tuple[Sequence[Any], Part]]:
    """Prepare rows, or lines of JSON, in chunks; yields each chunk and its results, in order."""
    rows = iter(rows)
    chunks = enumerate(iter(lambda: [*islice(rows, CHUNK)], []))
    if processes <= 1:
        here = Work(**work)
        for number, chunk in chunks:
            yield chunk, here(number * CHUNK, chunk)
        return
    import multiprocessing

    with multiprocessing.Pool(processes, _begin, (work,)) as pool:
        waiting: deque[tuple[Sequence[Any], Any]] = deque()
        for number, chunk in chunks:
            waiting.append((chunk, pool.apply_async(_work_on, (number * CHUNK, chunk))))
            if len(waiting) > 2 * processes:  # no more chunks in memory than keep all busy
                chunk, result = waiting.popleft()
                yield chunk, result.get()
        for chunk, result in waiting:
            yield chunk, result.get()


_there: list[Work] = []  # of a process of the pool


def _begin(work: dict[str, Any]) -> None:
    gc.disable()  # else what a forked process inherits is searched, and so copied
    _there[:] = [Work(**work)]


def _work_on(start: int, chunk: Sequence[Any]) -> Part:
    return _there[0](start, chunk)


class Prepared:
    """What the work on single rows found, of all rows, which stay in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.empty: list[int] = []
        self.blocked: dict[int, str] = {}
        self.normalised, self.first_normalised = 0, list[int]()
        self.masked, self.most_kinds = 0, list[tuple[int, int]]()  # minus their number, place
        self.found: Counter[str] = Counter()
        self.keys: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.shingles: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.raw: list[Any] = []
        self.changed: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Sequence[Any], part: Part) -> None:
        """Take over the results for the next chunk of rows."""
        start, self.count = self.count, self.count + len(chunk)
        empty = set(part.empty)
        self.empty += [start + place for place in part.empty]
        self.blocked |= {
            start + place: why for place, why in part.blocked.items() if place not in empty
        }
        normalised = [start + place for place in part.normalised if place not in empty]
        self.normalised += len(normalised)
        self.first_normalised = (self.first_normalised + normalised)[:EXAMPLES]
        masked = {place: found for place, found in part.found.items() if place not in empty}
        self.masked += len(masked)
        self.found += sum(masked.values(), Counter())
        most = [(-len(found), start + place) for place, found in masked.items()]
        self.most_kinds = heapq.nsmallest(EXAMPLES, self.most_kinds + most)
        self.keys.append(part.keys)
        self.tokens.append(part.tokens)
        self._keep(start, chunk, part)

    def _keep(self, start: int, chunk: Sequence[Any], part: Part) -> None:
        self.raw += chunk
        self.changed |= {start + place: row for place, row in part.rows.items()}
        if part.shingles is not None:
            self.shingles.append(part.shingles)

    def before(self, place: int) -> dict[str, Any]:
        """Return a row as it came in."""
        return course(self.raw[place])

    def row(self, place: int) -> dict[str, Any]:
        """Return a row as it was cleaned; never the one that came in."""
        if place in self.changed:
            return self.changed[place]
        row = self.raw[place]
        return row | ({"messages": [{**m} for m in row["messages"]]} if "messages" in row else {})

    def text(self, place: int) -> str:
        """Return the text of a cleaned row."""
        return prompt(self.changed.get(place) or self.raw[place])

    def hashes(self, place: int) -> list[int]:
        """Return the shingle hashes of a cleaned row."""
        chunk, at = divmod(place, CHUNK)
        values, starts, _ = self.shingles[chunk]
        return values[starts[at] : starts[at + 1]].tolist()

    def column(self, band: int) -> np.ndarray:
        """Return the keys of all rows in one band."""
        import numpy as np

        return np.concatenate([bands[:, band] for _, _, bands in self.shingles])

    def near(self, alive: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
        """Find near-copies among the remaining rows, by their places."""
        bands = range(deduplication.BANDS if len(alive) else 0)
        pairs = deduplication.pairs(
            (self.column(band)[alive] for band in bands),
            lambda at: self.hashes(int(alive[at])),
            threshold,
            lambda at: self.text(int(alive[at])),
        )
        return [(int(alive[at]), int(alive[other]), overlap) for at, other, overlap in pairs]


class OnDisk(Prepared):
    """What the work on single rows found, of rows that stay in a file of JSON Lines.

    Shingles go to temporary files; a row is read, and cleaned, again when it is asked for.
    """

    def __init__(self, file: BinaryIO, mask: bool) -> None:
        super().__init__()
        self.file, self.mask = file, mask
        self.starts, self.begins = array("q", [0]), array("q", [0])
        self.temporary = [tempfile.TemporaryFile() for _ in range(1 + deduplication.BANDS)]

    def _keep(self, start: int, chunk: Sequence[Any], part: Part) -> None:
        for line in chunk:
            self.starts.append(self.starts[-1] + len(line))
        if part.shingles is not None:
            values, starts, bands = part.shingles
            self.begins.extend((starts[1:] + self.begins[-1]).tolist())
            for file, kept in zip(self.temporary, (values, *bands.T)):
                file.write(kept.tobytes())

    def line(self, place: int) -> bytes:
        """Return the line of a row."""
        self.file.seek(self.starts[place])
        return self.file.read(self.starts[place + 1] - self.starts[place])

    def before(self, place: int) -> dict[str, Any]:
        """Return a row as it came in."""
        return course(parsed(place + 1, self.line(place)))

    def text(self, place: int) -> str:
        """Return the text of a cleaned row."""
        return prompt(self.row(place))

    def row(self, place: int) -> dict[str, Any]:
        """Return a row as it was cleaned."""
        row = clean(self.before(place))
        return mask_row(row)[0] if self.mask else row

    def hashes(self, place: int) -> list[int]:
        """Return the shingle hashes of a cleaned row."""
        file, begin, end = self.temporary[0], self.begins[place], self.begins[place + 1]
        file.seek(8 * begin)
        return array("Q", file.read(8 * (end - begin))).tolist()

    def column(self, band: int) -> np.ndarray:
        """Return the keys of all rows in one band."""
        import numpy as np

        file = self.temporary[1 + band]
        file.seek(0)
        return np.frombuffer(file.read(), dtype=np.uint64)

    def close(self) -> None:
        """Delete the temporary files."""
        for file in self.temporary:
            file.close()


def around(text: str, pattern: re.Pattern[str], size: int = 30) -> str:
    """Return the first match of a pattern with its surroundings."""
    match = pattern.search(text)
    return (
        short(text[max(0, match.start() - size) : match.end() + size], 3 * size)
        if match
        else short(text)
    )
