"""Read raw rows from files of any common kind, one by one: JSON, JSON lines, CSV, TSV, Parquet.

A file's kind is told by its first bytes, not by its name; gzip of each kind is opened on the way.
Nothing is repaired and nothing is left out: a line or a record that cannot be read comes back as
its text, with the reason (`Broken`).
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from qwen3lab.data.columns import is_known
from qwen3lab.data.encodings import guess, wide
from qwen3lab.data.tables import Broken, Lines, delimiter_of, parquet_rows, records
from qwen3lab.data.validation import short
from qwen3lab.errors import Qwen3labError

HEAD = 1 << 16  # bytes that tell a file's kind
SPLITS = {"train": ("train", "training"), "test": ("test",)} | {
    name: ("validation", "valid", "val", "dev") for name in ("validation", "valid", "val", "dev")
}
# How files begin that hold rows, but need another program first.
OTHERS = {
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save the sheet as CSV"),
    b"BZh": ("packed with bzip2", "Unpack it with `bunzip2`"),
    b"\xfd7zXZ\x00": ("packed with xz", "Unpack it with `unxz`"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it with `unzstd`"),
    b"ARROW1": ("an Arrow file", "Load it with `datasets.Dataset.from_file` and give its rows"),
    b"%PDF": ("a PDF document", "Read its text with qwen3lab.data.pdf"),
    b"SQLite format 3": ("an SQLite database", "Export its table as CSV"),
}
_JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
_TABLE_NAME = re.compile(r"\.(csv|tsv|tab)(\.gz)?$", re.IGNORECASE)
_SPACE = re.compile(r"\s*")
_DATA_NAME = re.compile(r"\.(json|jsonl|ndjson|csv|tsv|tab|parquet)(\.gz)?$", re.IGNORECASE)


def read_raw(path: str | Path) -> list[Any]:
    """Read all rows of a file at once; arguments and errors as in `stream`."""
    return list(stream(path))


def stream(path: str | Path) -> Iterator[Any]:
    """Read the rows of a file or a folder one by one, as the file spells them.

    Of JSON lines, CSV, TSV and Parquet, and gzip of these, only a small part is held at a time; a
    JSON array is read whole. The cells of a CSV file are text ("007" stays "007"); its first line
    has to name the columns.

    Args:
        path: a file, or a folder, of which `files` says what is read.
    Returns:
        An iterator of dicts; of `Broken` texts for what cannot be read; and of whatever else a
        JSON file holds.
    Raises:
        Qwen3labError: at the first row: the file is missing, empty, damaged, of an unknown kind, or
            not UTF-8. A file that is cut off says so after its last whole row.
    """
    path = Path(path)
    if path.is_dir():
        return chain.from_iterable(map(stream, files(path)[0]))
    return _rows_of(path)


def files(folder: str | Path, split: str = "train") -> tuple[list[Path], list[Path]]:
    """Find the data files of a folder as (those of a split, those that are no data), sorted.

    A file belongs to the split that its name or a folder above it says (train, validation or dev,
    test); where no file says any, all are of "train". Hidden files are passed over.

    Raises:
        Qwen3labError: the folder cannot be read, or has no data file for the split.
    """
    folder = Path(folder)
    inside = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )
    data = [path for path in inside if _DATA_NAME.search(path.name)]
    said = {path: _split(path.relative_to(folder)) for path in data}
    named = any(said.values())
    wanted = SPLITS.get(split, (split,))
    found = [
        path
        for path, name in said.items()
        if (name in wanted if named else split == "train") or (split == "all")
    ]
    if not found:
        names = ", ".join(sorted({name for name in said.values() if name})) or "none"
        raise Qwen3labError(
            f"The folder {folder.name} holds no data files"
            + (f" for the split {split!r} (it names: {names})" if data else "")
            + ". Put JSON, CSV, TSV or Parquet files there"
            + (", or name another split." if data else ".")
        )
    return found, [path for path in inside if path not in data]


def is_data(path: Path) -> bool:
    """Check whether a file's name is one of data that can be read here."""
    return bool(_DATA_NAME.search(path.name))


def stem(path: Path) -> str:
    """Return a file's name without its endings: "rows" of rows.jsonl.gz."""
    return _DATA_NAME.sub("", path.name) or path.stem


def _split(path: Path) -> str:
    """Say which split a path names, by its file's name before its folders', or ""."""
    for part in reversed(path.parts):
        for word in re.findall("[a-z]+", part.lower()):
            if word in chain.from_iterable(SPLITS.values()):
                return word
    return ""


def _rows_of(path: Path) -> Iterator[Any]:
    """Read one file, and say so if nothing was in it."""
    empty = True
    try:
        with _opened(path) as file:
            for row in _parsed(file, path.name):
                empty = False
                yield row
    except FileNotFoundError:
        raise Qwen3labError(
            f"There is no file {path.name}. Check the name and the folder."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Qwen3labError(
            f"{path.name} is damaged or cut off ({error}). Fetch it again, or unpack what is whole"
            " with `gzip -dc`."
        ) from None
    except UnicodeDecodeError as error:
        raise Qwen3labError(
            f"{path.name} is damaged ({error.reason} in {error.encoding}). Fetch or save it again."
        ) from None
    except OSError as error:
        raise Qwen3labError(
            f"{path.name} cannot be read ({error.strerror or error}). Give a file that you may"
            " open."
        ) from None
    if empty:
        raise Qwen3labError(
            f"{path.name} holds no rows. Write at least one JSON object, or one record below a"
            " header."
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes, unpacked if they are gzip's."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
        else:
            with gzip.open(file) as unpacked:
                yield unpacked


def _parsed(file: BinaryIO, name: str) -> Iterator[Any]:
    """Tell the kind of an open file by its beginning, and read it."""
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith(b"PAR1"):
        return parquet_rows(file, name)
    for magic, (what, remedy) in OTHERS.items():
        if head.startswith(magic):
            raise Qwen3labError(f"{name} is {what}. {remedy}.")
    encoding = wide(head)
    if encoding is None and guess(head) in ("UTF-16LE", "UTF-16BE"):
        raise _not_utf8(name, head, 0)
    text = head.decode(encoding or "utf-8", "replace").removeprefix("\ufeff")
    start = text.lstrip()
    if start.startswith("["):
        return _array(file, name, encoding)
    if not start:
        return iter(())
    first = start.split("\n")[0]
    looks_json = start.startswith("{") or _is_json(first)
    among = _JSON_NAME.search(name) and any(
        line.lstrip().startswith("{") for line in text.splitlines()
    )
    if not looks_json and not among:
        delimiter = delimiter_of(text, whole=len(head) < HEAD)
        if delimiter or _TABLE_NAME.search(name):
            return _table(file, name, encoding, delimiter or ",")
        if not _JSON_NAME.search(name) and not is_known(first):
            raise Qwen3labError(
                f"{name} is neither JSON nor a table: its first line is {short(first.strip(), 60)}."
                " Give JSON lines, CSV with the columns' names in the first line, or Parquet."
            )
        if not _JSON_NAME.search(name):
            return _table(file, name, encoding, ",")
    return _lines(file, name, encoding, text)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _not_utf8(name: str, data: bytes, place: int) -> Qwen3labError:
    """Word the refusal of a text that is not UTF-8, with the right advice where it is known."""
    looks = guess(data)
    if looks:
        return Qwen3labError(
            f"{name} is not UTF-8 (byte {place + 1}); it looks like {looks}. Save it as UTF-8, for"
            f" example with `iconv -f {looks} -t UTF-8`."
        )
    return Qwen3labError(
        f"{name} is not UTF-8 (byte {place + 1}), and its encoding cannot be told from its bytes."
        " Save it as UTF-8 in the program that wrote it, or with `iconv -f ENCODING -t UTF-8`."
    )


def _byte_lines(file: BinaryIO, encoding: str | None) -> Iterator[bytes]:
    """Cut a file at its line feeds alone: str.splitlines would cut at U+2028 within a text too."""
    if encoding is None:
        first = file.readline().removeprefix(codecs.BOM_UTF8)
        return chain([first], file)
    return (
        line.encode("utf-8", "surrogatepass")
        for line in io.TextIOWrapper(file, encoding, newline="\n")
    )


# JSON


def _array(file: BinaryIO, name: str, encoding: str | None) -> Iterator[Any]:
    data = file.read()
    try:
        text = data.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding:
            raise
        raise _not_utf8(name, data, error.start) from None
    try:
        return iter(json.loads(text))
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Qwen3labError(
            f"{name} begins like a JSON array but is none ({why}). Repair it, or write one object a"
            " line."
        ) from None


def _lines(file: BinaryIO, name: str, encoding: str | None, head: str) -> Iterator[Any]:
    """Read one JSON value a line, or else objects that are written over several lines."""
    lines = [line for line in head.split("\n") if line.strip()]
    # The head's last line may be cut.
    if len(lines) > 1 and not any(map(_is_json, lines)):
        data = b"".join(_byte_lines(file, encoding))
        whole = _values(data)
        if whole is not None:
            return iter(whole)
        file = io.BytesIO(data)
        encoding = None
    if encoding is None:
        _check_encoding(file, name)
    return (_parse(line) for line in _byte_lines(file, encoding) if line.strip())


def _values(data: bytes) -> list[Any] | None:
    """Parse a text that holds nothing but JSON objects, one after the other; else None.

    Of one object that only wraps a list of rows, under "data" or the like, these rows.
    """
    reader, values, place = json.JSONDecoder(), [], 0
    try:
        text = data.decode("utf-8").strip()
        while place < len(text):
            value, place = reader.raw_decode(text, place)
            values.append(value)
            place = _SPACE.match(text, place).end()
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(value, dict) for value in values):
        return None
    if len(values) == 1:
        for key in ("data", "rows", "train", "examples", "instances"):
            inside = values[0].get(key)
            if isinstance(inside, list) and inside and all(isinstance(r, dict) for r in inside):
                return inside
    return values


def _check_encoding(file: BinaryIO, name: str) -> None:
    """Refuse a text of which no line with other than ASCII characters is UTF-8.

    Where some are, the others are single broken lines, which come out one by one.
    """
    bad: list[bytes] = []
    at = place = 0
    for line in file:
        if not line.isascii():
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                if not bad:
                    at = place + error.start
                if len(bad) < 1000:
                    bad.append(line)
            else:
                bad = []
                break
        place += len(line)
    file.seek(0)
    if bad:
        raise _not_utf8(name, b"".join(bad), at)


def _parse(line: bytes) -> Any:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        return Broken(
            line.decode("utf-8", "replace"), f"byte {error.start + 1} of the line is not UTF-8"
        )
    try:
        return json.loads(text)
    except RecursionError:
        return Broken(text, "nested too deeply")
    except ValueError as error:
        return Broken(text, str(error))


def _table(file: BinaryIO, name: str, encoding: str | None, delimiter: str) -> Iterator[Any]:
    if encoding is None:
        _check_encoding(file, name)
    # A character that is not UTF-8 becomes U+FFFD, by which its row is refused.
    errors = "strict" if encoding else "replace"
    text = io.TextIOWrapper(file, encoding or "utf-8-sig", errors, newline="")
    yield from records(Lines(text), name, delimiter)
