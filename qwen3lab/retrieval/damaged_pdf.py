"""Generate corrupted PDFs for robustness tests of the parser and of its error messages.

Each kind of damage occurs in real folders; it is made from an intact file.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, NumberObject, StreamObject

from qwen3lab.errors import Qwen3labError


def _written(writer: PdfWriter) -> bytes:
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def excerpt(path: str | Path, pages: range) -> bytes:
    """Extract pages (counted from 0) of a PDF into a new PDF."""
    writer = PdfWriter()
    writer.append(str(path), pages=(pages.start, pages.stop))
    return _written(writer)


def _edited(whole: bytes, edit: Callable[[PdfWriter], None]) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(whole)))
    edit(writer)
    return _written(writer)


def _scan(whole: bytes) -> bytes:
    """Remove the text-showing operators from every page, as in a scan; drawings stay."""

    def edit(writer: PdfWriter) -> None:
        for page in writer.pages:
            page.replace_contents(None) if page.get_contents() is None else writer.remove_text()

    return _edited(whole, edit)


def _loop(writer: PdfWriter) -> None:
    pages = writer.root_object["/Pages"]
    pages[NameObject("/Kids")] = ArrayObject([pages.indirect_reference])


def _content(data: bytes) -> Callable[[PdfWriter], None]:
    def edit(writer: PdfWriter) -> None:
        for page in writer.pages:
            stream = StreamObject()
            stream.set_data(data)
            stream[NameObject("/Filter")] = NameObject("/FlateDecode")
            page[NameObject("/Contents")] = writer._add_object(stream)

    return edit


def _no_pages(writer: PdfWriter) -> None:
    pages = writer.root_object["/Pages"]
    pages[NameObject("/Kids")], pages[NameObject("/Count")] = ArrayObject(), NumberObject(0)


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "empty file": lambda whole: b"",
    "letter as text": lambda whole: b"Dear colleague, the handbook follows by post.\n",
    "web page": lambda whole: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "Word file with another name": lambda whole: b"PK\x03\x04" + bytes(200),
    "PDF inside a mail": lambda whole: b"From: somebody\n" * 100 + whole,
    "password": lambda whole: _edited(
        whole, lambda writer: writer.encrypt("secret", algorithm="RC4-128")
    ),
    "printing forbidden, no password": lambda whole: _edited(
        whole, lambda writer: writer.encrypt("", "owner", algorithm="RC4-128")
    ),
    "only the head": lambda whole: whole[:400],
    "first half": lambda whole: whole[: len(whole) // 2],
    "last 2,000 bytes missing": lambda whole: whole[:-2000],
    "wrong place of the table of objects": lambda whole: re.sub(
        rb"startxref\s+\d+", b"startxref\n7", whole
    ),
    "zeros in the middle": (
        lambda whole: (
            whole[: len(whole) // 3] + bytes(len(whole) // 3) + whole[2 * len(whole) // 3 :]
        )
    ),
    "line ends changed": lambda whole: whole.replace(b"\n", b"\r\n"),
    "read as text and written again": lambda whole: whole.decode("utf-8", "replace").encode(),
    "no pages": lambda whole: _edited(whole, _no_pages),
    "page tree that holds itself": lambda whole: _edited(whole, _loop),
    "pages of noise": lambda whole: _edited(whole, _content(random.Random(0).randbytes(3000))),
    "scan without text": _scan,
}


def make(kind: str, whole: bytes, path: Path) -> Path:
    """Write a corrupted PDF of one kind to `path` and return the path; "missing" writes nothing.

    Raises Qwen3labError for another kind.
    """
    if kind != "missing":
        if kind not in KINDS:
            raise Qwen3labError(
                f"There is no broken file of the kind {kind!r}. Use one of: missing,"
                f" {', '.join(KINDS)}."
            )
        path.write_bytes(KINDS[kind](whole))
    return path


def damaged(whole: bytes, n: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Generate `n` random corruptions of a file as (kind, bytes) pairs, reproducible by seed.

    The kinds: cut off, some bytes changed, a stretch lost, two stretches swapped.
    """
    for number in range(n):
        rng = random.Random(f"damage-{seed}-{number}")
        kind = ("cut off", "bytes changed", "stretch lost", "stretches swapped")[number % 4]
        data = bytearray(whole)
        a, b = sorted(rng.randrange(8, len(data)) for _ in range(2))
        if kind == "cut off":
            del data[a:]
        elif kind == "bytes changed":
            for _ in range(rng.choice((1, 10, 100, 1000))):
                data[rng.randrange(8, len(data))] = rng.randrange(256)
        elif kind == "stretch lost":
            del data[a : min(b, a + rng.choice((10, 1000, 20_000)))]
        else:
            middle = (a + b) // 2
            data[a:b] = data[middle:b] + data[a:middle]
        yield kind, bytes(data)
