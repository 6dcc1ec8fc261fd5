"""Store ratings in an append-only CSV file, one line per rating.

A crash costs at most the line that was being written.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd


SCALES = ("relevance", "safety", "fluency")
GRADES = (1, 2, 3, 4, 5)
# "text" comes last: a truncated line has no whole fingerprint, so it can never pass for a rating.
FIELDS = ("time", "rater", "item", "system", *SCALES, "note", "text")
_HEADER = ",".join(FIELDS).encode()
FINGERPRINT = 8  # characters
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")


def clean(text: str) -> str:
    """Normalise a text to one line.

    White space and control characters of every kind become single spaces; what UTF-8 cannot encode
    becomes a question mark.
    """
    printable = "".join(
        " " if ord(letter) < 32 or ord(letter) == 127 else letter for letter in str(text)
    )
    return " ".join(printable.encode("utf-8", "replace").decode().split())


def escape(text: str) -> str:
    """Escape a one-line cell against CSV injection, so that no spreadsheet takes it for a formula.

    An apostrophe is put before = + - @, full-width ones too, and before an apostrophe. OWASP, "CSV
    Injection".
    """
    text = clean(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def unescape(cell: str) -> str:
    """Recover the text of a cell: unescape(escape(text)) == clean(text)."""
    return cell.removeprefix("'")


def read(file: str | Path) -> tuple[pd.DataFrame, int]:
    """Read a ratings file; returns the ratings in the order made, and the number of skipped lines.

    The ratings have `FIELDS` as columns. Skipped are lines that are incomplete, have grades other
    than 1 to 5, or repeat a rating by the same rater. A line without grades takes a rating back and
    is not counted. A missing or an empty file holds no ratings. Raises Qwen3labError for a file
    that cannot be read or that begins with another line than ours.
    """
    import pandas as pd

    rows, faults = parse(content(Path(file)), Path(file).name)
    return pd.DataFrame(rows, columns=list(FIELDS)), faults


def content(file: Path) -> bytes:
    """Read the bytes of a file; a missing file is empty.

    Raises Qwen3labError if it cannot be read.
    """
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Qwen3labError(
            f"The ratings file {file.name!r} cannot be read ({error.strerror}). Give the path of a"
            " CSV file that you may read."
        ) from error


def parse(data: bytes, name: str) -> tuple[list[dict[str, Any]], int]:
    """Parse a file's bytes into ratings and the number of faulty lines; see `read`.

    `name` appears in the error.
    """
    head, *lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if head.rstrip(b"\r") != _HEADER and not _HEADER.startswith(data):
        raise Qwen3labError(
            f"{name!r} is not a ratings file, as its first line is not {','.join(FIELDS)}. Give"
            " another name; nothing was changed."
        )
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    faults = 0
    for line in filter(None, (line.rstrip(b"\r") for line in lines)):
        row = _row(line)
        key = tuple(row[name] for name in ("rater", "item", "system")) if row else ()
        if row and row[SCALES[0]] is None:
            found.pop(key, None)
        elif row and key not in found:
            found[key] = row
        else:
            faults += 1
    return list(found.values()), faults


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = dict(
            zip(FIELDS, next(csv.reader([line.decode("utf-8")], strict=True)), strict=True)
        )
        datetime.fromisoformat(row["time"])
        given = [row[scale] for scale in SCALES]
        grades = [int(grade) for grade in given] if any(given) else [None] * len(SCALES)
    except (ValueError, csv.Error):
        return None
    if len(row["text"]) != FINGERPRINT or not all(
        grade is None or grade in GRADES for grade in grades
    ):
        return None
    return (
        row
        | dict(zip(SCALES, grades))
        | {name: unescape(row[name]) for name in ("rater", "item", "note")}
    )


def append(file: Path, row: dict[str, Any], allowed: Callable[[bytes], bool]) -> bytes:
    """Append one line atomically and return the file's bytes.

    Args:
        allowed: receives the file's current bytes, while no other process can append; False appends
            nothing.
    Raises:
        Qwen3labError: the file cannot be written; then it is unchanged.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        [escape(row[name]) if name in ("rater", "item", "note") else row[name] for name in FIELDS]
    )
    with _locked(file) as handle:
        old = _whole(handle)
        if not allowed(old):
            return old
        # A truncated line is ended first, or the new one would be lost with it.
        start = (
            (_HEADER + b"\n")[len(old) :]
            if _HEADER.startswith(old)
            else b""
            if old.endswith(b"\n")
            else b"\n"
        )
        new = start + line.getvalue().encode()
        try:
            if os.write(handle, new) != len(new):
                raise OSError(28, "no space left")
            os.fsync(handle)
        except OSError as error:
            os.ftruncate(handle, len(old))
            raise Qwen3labError(
                f"The rating could not be kept ({error.strerror}). Make room on the disk and rate"
                " this answer again."
            ) from error
    return old + new


def _whole(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(handle, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    """Open the file under an exclusive lock, on systems that have such locks."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644
        )
    except OSError as error:
        raise Qwen3labError(
            f"Ratings cannot be kept in {file.name!r} ({error.strerror}). Give the path of a CSV"
            " file in a folder that you may write to."
        ) from error
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except (ImportError, OSError):  # Windows, or a network disk without locks
            pass
        yield handle
    finally:
        os.close(handle)  # releases the lock
