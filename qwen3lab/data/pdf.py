"""PDF text extraction: positioned lines without running heads, joined to paragraphs."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwen3lab.errors import Qwen3labError

PAGE_NUMBER = re.compile(
    r"(page|p\.|第)?\s*[-–]?\s*\d{1,4}\s*[-–]?\s*(页)?(\s*(of|/|共)\s*\d{1,4}\s*(页)?)?",
    re.IGNORECASE,
)
NUMBERED = re.compile(
    r"(chapter\s+\d+|第[一二三四五六七八九十\d]+章|\d{1,2}(\.\d{1,2})?\.?)\s+\S", re.IGNORECASE
)
# Chinese characters and full-width punctuation.
WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
BULLETS = "•·-–*▪●"
LIGATURES = str.maketrans(
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\u2010": "-",
        "\u2011": "-",
    }
)
SOFT_HYPHEN = "\u00ad"


@dataclass(frozen=True)
class Line:
    """Printed line of a page: text, font size, baseline height and separate pieces.

    `size` and `y`, the height above the foot of the page, are in points. `cells` are (left edge in
    points, text) of what the PDF places one by one; a line of running text is mostly one cell.
    """

    text: str
    size: float
    y: float
    cells: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """Page with its number, counted from 1, and its lines in the order of the file."""

    number: int
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """Join the lines of the page."""
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True)
class Chapter:
    """Chapter title and its paragraphs, each with the number of the page on which it begins."""

    title: str
    paragraphs: tuple[tuple[str, int], ...]


def read_pdf(path: str | Path) -> list[Page]:
    """Extract the text of a PDF with pypdf, without running heads, feet and page numbers.

    All text is read, including text that no reader of the page would see: white, tiny or outside
    the page. Where pypdf had to repair something, text may be missing: then there is a UserWarning.

    Raises:
        Qwen3labError: the file is missing, no PDF, encrypted, damaged, without pages or without any
            text.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    path = Path(path)
    if not path.is_file():
        raise Qwen3labError(f"There is no file {path.name!r}. Give the path of a PDF.")
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise Qwen3labError(f"{path.name!r} is empty. Copy or download the PDF again.")
    if b"%PDF-" not in head:
        raise Qwen3labError(
            f"{path.name!r} is not a PDF. Export the document as PDF and give that file."
        )
    try:
        with _complaints() as mended:
            reader = PdfReader(path)
            if reader.is_encrypted and not reader.decrypt(""):
                raise Qwen3labError(
                    f"{path.name!r} is encrypted. Save a copy without a password and give that one."
                )
            pages = [Page(n, _lines(page)) for n, page in enumerate(reader.pages, 1)]
    except DependencyError as error:
        raise Qwen3labError(
            f"{path.name!r} is encrypted in a way that pypdf alone cannot read. Save a copy without"
            " a password and give that one."
        ) from error
    except Qwen3labError:
        raise
    # In a damaged file pypdf runs into errors of every class, not only its own.
    except Exception as error:
        raise Qwen3labError(
            f"{path.name!r} is damaged ({type(error).__name__}). Open it in a viewer and print it"
            " to a new PDF."
        ) from error
    if not pages:
        raise Qwen3labError(
            f"{path.name!r} has no pages. Export the document again and give the new file."
        )
    pages = without_furniture(pages)
    if not any(page.lines for page in pages):
        if mended:
            raise Qwen3labError(
                f"{path.name!r} is damaged: none of its text could be read. Open it in a viewer and"
                " print it to a new PDF."
            )
        raise Qwen3labError(
            f"{path.name!r} holds no text, so it is probably a scan. Run text recognition over it"
            " and give the result."
        )
    if mended:
        warnings.warn(
            f"{path.name!r} is damaged in places, and some of its text may be missing. Compare it"
            " with what a viewer shows.",
            stacklevel=2,
        )
    return pages


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect pypdf's log messages within the block: the only place where it reports damage."""
    told: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, ear = logging.getLogger("pypdf"), Ear(logging.WARNING)
    before = logger.propagate
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield told
    finally:
        logger.removeHandler(ear)
        logger.propagate = before


def _lines(page) -> tuple[Line, ...]:
    """Group the fragments that pypdf visits into lines, by baselines less than 2 points apart."""
    rows: list[dict] = []

    def visit(text, cm, tm, font, size):
        text = text.replace("\n", " ")
        if not text.strip():
            if rows and text:
                rows[-1]["cells"][-1][1] += " "
            return
        x, y = tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        size *= abs(tm[3] * cm[3]) or 1.0
        if not rows or abs(rows[-1]["y"] - y) >= 2.0:
            rows.append({"y": y, "size": size, "cells": []})
        cells = rows[-1]["cells"]
        if cells and abs(cells[-1][0] - x) < 0.1:  # another font within a line of text
            cells[-1][1] += text
        else:
            cells.append([x, text])
        rows[-1]["size"] = max(rows[-1]["size"], size)

    page.extract_text(visitor_text=visit)
    tidy = lambda text: re.sub(
        f"{SOFT_HYPHEN}(?!$)", "", re.sub(r"\s+", " ", text).strip()
    ).translate(LIGATURES)
    lines = (
        Line(
            tidy("".join(text for _, text in row["cells"])),
            round(row["size"], 1),
            round(row["y"], 1),
            tuple((round(x), tidy(text)) for x, text in row["cells"]),
        )
        for row in rows
    )
    return tuple(line for line in lines if line.text)


def _shape(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def without_furniture(pages: list[Page]) -> list[Page]:
    """Remove page numbers, running heads and feet.

    Heads and feet are edge lines that recur on more than half of the pages. They are judged by
    position, not by order: many programs write the foot of a page before its text, or in the middle
    of it. What recurs is removed at its usual height even where something else, seen or hidden,
    stands beyond it.
    """
    by_place = [sorted(page.lines, key=lambda line: -line.y) for page in pages]
    edges = [
        (shape, line.y)
        for lines in by_place
        for shape, line in {_shape(line.text): line for line in (*lines[:1], *lines[-1:])}.items()
    ]
    counts = Counter(shape for shape, _ in edges)
    recurring = {shape for shape, n in counts.items() if n > max(2, len(pages) / 2)}
    usual = {(shape, round(y)) for shape, y in edges if shape in recurring}

    def furniture(line: Line) -> bool:
        return _shape(line.text) in recurring or PAGE_NUMBER.fullmatch(line.text) is not None

    cleaned = []
    for page, lines in zip(pages, by_place):
        dropped = [line for line in lines if (_shape(line.text), round(line.y)) in usual]
        while lines and furniture(lines[0]):
            dropped.append(lines.pop(0))
        while lines and furniture(lines[-1]):
            dropped.append(lines.pop())
        cleaned.append(
            Page(
                page.number,
                tuple(line for line in page.lines if not any(line is gone for gone in dropped)),
            )
        )
    return cleaned


def join(first: str, second: str) -> str:
    """Join two lines of a paragraph.

    A space between words, nothing between Chinese characters, no hyphen of a broken word.
    """
    if not first:
        return second
    if first[-1] == SOFT_HYPHEN:  # the word may be broken here, and it was
        return first[:-1] + second
    if WIDE.match(first[-1]) or WIDE.match(second[0]):
        return first + second
    if re.search(r"\w-$", first):  # a broken word, or a code such as GV-688
        return (first[:-1] if first[-2].islower() and second[0].islower() else first) + second
    return first + " " + second


def chapters(pages: list[Page]) -> list[Chapter]:
    """Split pages into chapters at their headings, and the lines between into paragraphs.

    A heading is a line in a font at least 1.15 times the document's usual one, or a short numbered
    line such as "3.2 Products" or "第三章 产品" in a font that is a little larger (any size, where
    the document has one font only). A smaller heading opens a section, whose title follows its
    chapter's. A paragraph ends where the gap to the next line is wider than usual, at a bullet, and
    where a line that ends a sentence stops well short of the right margin. It may continue on the
    next page. Text before the first heading belongs to a chapter without a title.
    Lines whose pieces stand in the same columns are a table: each row becomes a paragraph with the
    names of its columns.
    """
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            sizes[line.size] += len(line.text)
    usual = sizes.most_common(1)[0][0] if sizes else 0.0
    plain = all(size < 1.15 * usual for size in sizes)
    gap = _usual_gap(pages, usual)
    full = 0.75 * max(
        (_width(line.text) for page in pages for line in page.lines if line.size == usual),
        default=0,
    )

    found: list[tuple[str, list[tuple[str, int]]]] = [("", [])]
    titles: list[tuple[int, str]] = []  # (depth, title) of the chapter, the section ...
    before: Line | None = None  # the last line of the open paragraph
    for page in pages:
        header: Line | None = None
        for n, line in enumerate(page.lines):
            following = page.lines[n + 1] if n + 1 < len(page.lines) else None
            if _is_heading(line, usual, plain):
                depth = _depth(line, usual)
                second = (
                    n
                    and page.lines[n - 1].size == line.size
                    and page.lines[n - 1].y - line.y < 1.6 * line.size
                )
                if second and before is None and titles and not NUMBERED.match(line.text):
                    # A title of two lines.
                    titles[-1] = (titles[-1][0], join(titles[-1][1], line.text))
                else:
                    while titles and titles[-1][0] >= depth:
                        titles.pop()
                    titles.append((depth, line.text))
                found.append((" / ".join(title for _, title in titles), []))
                before = header = None
            elif header and _same_columns(header, line):
                found[-1][1].append((_row(header, line), page.number))
            elif following and _same_columns(line, following):
                header, before = line, None
            else:
                paragraphs = found[-1][1]
                if before is None or _breaks(before, line, gap, full, turned=n == 0):
                    paragraphs.append((line.text, page.number))
                else:
                    paragraphs[-1] = (join(paragraphs[-1][0], line.text), paragraphs[-1][1])
                before, header = line, None
                continue
            before = None
    return [Chapter(title, tuple(paragraphs)) for title, paragraphs in found if paragraphs]


def _same_columns(a: Line, b: Line) -> bool:
    return len(a.cells) > 1 and [x for x, _ in a.cells] == [x for x, _ in b.cells]


def _row(header: Line, line: Line) -> str:
    """Write a table row as one sentence ("Corvel lamp: price 45 euros; shelf A12.")."""
    (_, first), *others = line.cells
    mark, space, joint, stop = (
        ("：", "", "；", "。") if WIDE.search(line.text) else (": ", " ", "; ", ".")
    )
    pairs = (
        name[0].lower() + name[1:] + space + value
        for (_, name), (_, value) in zip(header.cells[1:], others)
        if name
    )
    return first + mark + joint.join(pairs) + stop


def _width(text: str) -> int:
    return sum(2 if WIDE.match(c) else 1 for c in text)


def _usual_gap(pages: list[Page], usual: float) -> float:
    """Estimate the line distance within a paragraph: almost the smallest that occurs."""
    gaps = sorted(
        a.y - b.y
        for page in pages
        for a, b in zip(page.lines, page.lines[1:])
        if a.size == b.size == usual and a.y > b.y and b.text[0] not in BULLETS
    )
    return gaps[len(gaps) // 20] if gaps else 0.0


def _is_heading(line: Line, usual: float, plain: bool) -> bool:
    if line.size >= 1.15 * usual:
        return True
    numbered = (
        len(line.text) <= 60
        and NUMBERED.match(line.text) is not None
        and line.text[-1] not in ".。;；,，"
    )
    return numbered and (plain or line.size >= 1.03 * usual)


def _depth(line: Line, usual: float) -> int:
    """Return a heading's depth: 1 for a chapter, 2 for a section ...

    By the number before the title ("3.2" has two parts), else by the font size.
    """
    number = re.match(r"\d{1,2}((\.\d{1,2})*)\.?\s", line.text)
    if number:
        return 1 + number[1].count(".")
    return 1 if line.size >= 1.5 * usual or NUMBERED.match(line.text) else 2


def _breaks(before: Line, line: Line, gap: float, full: float, turned: bool) -> bool:
    """Whether a paragraph ends between two lines; on a turned page the gap says nothing."""
    if line.text[0] in BULLETS or before.size != line.size:
        return True
    ended = before.text[-1] in ".。!！?？:："
    if not turned:
        return (
            before.y - line.y > 1.25 * gap
            or before.y <= line.y
            or (ended and _width(before.text) < full)
        )
    return ended


FONT_FILE = "wqy-microhei.ttc"
# Where Linux, macOS and Windows keep fonts, those of one user last.
FONT_FOLDERS = [
    Path("/usr/share/fonts"),
    Path("/Library/Fonts"),
    Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
    Path.home() / ".local" / "share" / "fonts",
    Path.home() / "Library" / "Fonts",
    Path.home() / "AppData" / "Local" / "Microsoft" / "Windows" / "Fonts",
]


def font_path() -> Path:
    """Find the Chinese font: `QWEN3LAB_CJK_FONT`, or the system's WenQuanYi Micro Hei.

    Raises:
        Qwen3labError: the font is missing.
    """
    chosen = os.environ.get("QWEN3LAB_CJK_FONT")
    found = (place for folder in FONT_FOLDERS for place in sorted(folder.rglob(FONT_FILE)))
    places = [Path(chosen)] if chosen else found
    for place in places:
        if place.is_file():
            return place
    raise Qwen3labError(
        f"The Chinese font {chosen or FONT_FILE} is missing. Install WenQuanYi Micro Hei (on Debian"
        " the package fonts-wqy-microhei), or name a font file in QWEN3LAB_CJK_FONT."
    )
