"""Read tables: records of CSV and TSV under a header, and Parquet in small batches.

A record that does not fit its table comes back as its text, with the reason (`Broken`).
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any, BinaryIO

from qwen3lab.data.columns import is_known
from qwen3lab.data.validation import short
from qwen3lab.errors import Qwen3labError

DELIMITERS = (",", ";", "\t")
LARGEST = 10_000_000  # characters in a cell of a CSV file
MISFIT = "a record that does not fit its table"
BATCH = 1_000  # rows of a Parquet file that are held at once
_SEPARATOR = re.compile(r"sep=(.)")  # Excel's own mark, in a line before the header
BUFFER = 1 << 16  # bytes of a Parquet column that are read at once


class Broken(str):
    """Line or record that cannot be read, kept as its text: a fixed `reason`, and `why` it is."""

    reason: str
    why: str

    def __new__(cls, text: str, why: str, reason: str = "no JSON object") -> Broken:
        line = super().__new__(cls, text)
        line.reason, line.why = reason, why
        return line


class Ragged(dict):
    """Row of a table with fewer cells than the header has columns; the missing ones are None."""


class Lines:
    """Lines of a text, of which those of a record that went wrong can be read again."""

    def __init__(self, lines: Iterable[str]):
        self.lines, self.again, self.taken = iter(lines), [], []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self.again.pop() if self.again else next(self.lines)
        self.taken.append(line)
        return line

    def first(self) -> str:
        """Give up a record: return its first line, and put the others back."""
        first, *others = self.taken
        self.again += reversed(others)
        self.taken = []
        return first


def delimiter_of(text: str, whole: bool) -> str | None:
    """Tell the delimiter of a table by its beginning; None if no header of two columns is there.

    The one under which most records have as many cells as the header; of equals, the most columns.
    """
    said = _SEPARATOR.fullmatch(text.split("\n")[0].rstrip("\r"))
    if said:
        return said[1]
    best: tuple[float, int, str] | None = None
    for delimiter in DELIMITERS:
        try:
            records = list(islice(csv.reader(io.StringIO(text), delimiter=delimiter), 50))
        except csv.Error:
            continue
        records = [record for record in records[: None if whole else -1] or records if record]
        columns = len(records[0]) if records else 0
        if columns > 1:
            share = sum(len(record) == columns for record in records) / len(records)
            if best is None or (share, columns) > best[:2]:
                best = (share, columns, delimiter)
    return best[2] if best else None


def records(lines: Lines, name: str, delimiter: str) -> Iterator[Any]:
    """Read the records of a table as dicts, by the names of its first record."""
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST))
    header, empty = None, True
    while True:
        lines.taken = []
        # A reader for each record: after an error the old one would go on within its quotes.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
        except StopIteration:
            if header and empty:
                raise Qwen3labError(
                    f"{name} holds a header and no rows below it. Write at least one."
                ) from None
            return
        except csv.Error as error:
            line = lines.first().rstrip("\r\n")
            cells = line.split(delimiter)
            # Nobody quotes where tabs part the cells: there a quote at a cell's begin is text.
            if delimiter != "\t" or (header and len(cells) != len(header)):
                why = f"a quote that is not closed or not doubled ({error})"
                yield Broken(line, why, MISFIT)
                empty = False
                continue
        if not cells or (header is None and _SEPARATOR.fullmatch(lines.taken[0].rstrip())):
            continue
        if header is None:
            header = _header(cells, name, delimiter)
            continue
        empty = False
        if len(header) == 1 and len(cells) > 1 and '"' not in "".join(lines.taken):
            cells = [lines.first().rstrip("\r\n")]  # one column needs no delimiter: it is text
        if len(cells) > len(header) and any(cells[len(header) :]):
            text = delimiter.join(cells)
            columns = f"{len(header)} column" + "s" * (len(header) != 1)
            yield Broken(text, f"{len(cells)} cells under a header of {columns}", MISFIT)
        elif any("\0" in cell for cell in cells):
            yield Broken(delimiter.join(cells), "a null byte", MISFIT)
        elif len(cells) < len(header):
            yield Ragged(zip_longest(header, cells))
        else:
            yield dict(zip(header, cells))


def _header(cells: list[str], name: str, delimiter: str) -> list[str]:
    """Check the first record of a table: it has to look like names, each of them once."""
    names = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, start=1)]
    if not any(map(is_known, names)) and any(map(_is_no_name, names)):
        raise Qwen3labError(
            f"{name} seems to have no header: its first line reads {short(', '.join(names), 60)}."
            f" Write the columns' names there, for example prompt{delimiter}completion.".replace(
                "\t", "<tab>"
            )
        )
    twice = next((one for place, one in enumerate(names) if one in names[:place]), None)
    if twice is not None:
        raise Qwen3labError(
            f"The column {twice!r} stands twice in the header of {name}. Give each column a name of"
            " its own."
        )
    return names


def _is_no_name(cell: str) -> bool:
    """Tell a value from a column's name: a sentence, a number, several lines."""
    return (
        len(cell) > 60
        or "\n" in cell
        or cell.endswith((".", "?", "!", "。", "？", "！"))
        or bool(re.fullmatch(r"[-+]?[\d.,]*\d[\d.,]*", cell))
    )


# Parquet


def parquet_rows(file: BinaryIO, name: str) -> Iterator[Any]:
    """Read a Parquet file in small batches; gzip around it goes to a temporary file first."""
    import pyarrow as pa
    from pyarrow import parquet

    with tempfile.TemporaryFile() as unpacked:
        if isinstance(file, gzip.GzipFile):  # its footer comes first, and gzip cannot jump
            shutil.copyfileobj(file, unpacked)
            file = unpacked
        try:
            table = parquet.ParquetFile(file, buffer_size=BUFFER)
            for batch in table.iter_batches(BATCH):
                yield from _spelled(batch).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            why = str(error).strip().split("\n")[0]
            raise Qwen3labError(
                f"{name} is a damaged Parquet file ({short(why, 120)[1:-1]}). Fetch or write it"
                " again."
            ) from None


def _spelled(batch: Any) -> Any:
    """Write columns of whole numbers as text, as in every table: it cannot tell 42 from "42"."""
    import pyarrow as pa

    for place, column in enumerate(batch.schema):
        if pa.types.is_integer(column.type):
            text = batch.column(place).cast(pa.string())
            batch = batch.set_column(place, column.name, text)
    return batch
