"""PDF text extraction: positioned lines without running heads, joined to paragraphs.

The rule: every character that a file shows or keeps for a page is in a line of its page, or in a
`Change` of it with the reason; pages whose marks are no characters (pictures, drawings, fonts
without letters) are named in a warning. `retrieval.account` adds up what became of them.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qwen3lab.data.pdf_layout import Chapter, chapters, join, layout
from qwen3lab.data.pdf_marks import (
    LIGATURES,
    UNREADABLE,
    WIDE,
    Change,
    Line,
    Page,
    read_page,
    values_elsewhere,
)
from qwen3lab.errors import Qwen3labError

__all__ = [
    "LIGATURES",
    "WIDE",
    "Change",
    "Chapter",
    "Line",
    "Page",
    "chapters",
    "font_path",
    "join",
    "layout",
    "read_pdf",
    "without_furniture",
]

# A line that is nothing but a page number; with one of its words it says so itself.
PAGE_WORD = r"(?:\b(?:pages?|pg|p|seite|página|pagina|strona|str|стр|sida|side)\b[.:]?|第)\s*"
COUNT_WORD = r"\s*(?:页|頁|ページ|쪽)"
OF = r"\s*(?:of|von|sur|de|di|z|av|из|/|共)\s*\d{1,4}(?:\s*[页頁])?"
PAGE_NUMBER = re.compile(
    rf"[-–—|\[(]*\s*({PAGE_WORD})?(\d{{1,4}})({COUNT_WORD})?({OF})?\s*[-–—|\])]*", re.IGNORECASE
)
SAYS_PAGE = re.compile(rf"{PAGE_WORD}(\d{{1,4}})|(\d{{1,4}}){COUNT_WORD}", re.IGNORECASE)
SCANNED, FEW = 0.5, 100  # a scan: pictures over this share of the page, and fewer letters of text


def read_pdf(path: str | Path) -> list[Page]:
    """Extract the text of a PDF with pypdf, without running heads, feet and page numbers.

    All text is read, including text that no reader of the page would see: white, tiny or outside
    the page, and so are the values of a form and notes. A UserWarning tells where text may be
    missing: what pypdf had to repair, and the pages that hold pictures without text or letters
    that the file does not name.

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
            pages = [read_page(page, n) for n, page in enumerate(reader.pages, 1)]
            elsewhere = values_elsewhere(reader)
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
    for message in _gaps(path.name, pages, bool(mended), elsewhere):
        warnings.warn(message, stacklevel=2)
    return pages


def _gaps(name: str, pages: list[Page], mended: bool, elsewhere: int) -> Iterator[str]:
    """Tell what may be missing from the text, and on which pages."""
    damaged = mended or any(page.damaged for page in pages)
    if damaged:
        yield (
            f"{name!r} is damaged in places, and some of its text may be missing. Compare it with"
            " what a viewer shows."
        )
    letters = lambda page: len("".join(page.text.split()))
    scans = [
        page.number
        for page in pages
        if (page.pictures >= SCANNED and letters(page) < FEW)
        or (not page.lines and page.pictures)
        or (page.drawn and not page.read.strip() and not damaged)
    ]
    if scans:
        yield (
            f"{name!r} has pictures or drawings and hardly any text on {_listed(scans)}. If they"
            " are scans, run text recognition over the file and give the result."
        )
    lost = {page.number: page.text.count(UNREADABLE) for page in pages}
    if n := sum(lost.values()):
        yield (
            f"{name!r} has {n:,} {'characters' if n > 1 else 'character'} that could not be read on"
            f" {_listed([page for page, count in lost.items() if count])}; U+FFFD stands for each."
            " Compare with what a viewer shows."
        )
    doubtful = [page for page in pages if page.unmapped]
    if doubtful:
        yield (
            f"{name!r} has {sum(page.unmapped for page in doubtful):,} characters in fonts that do"
            f" not say which letters they draw, on {_listed([page.number for page in doubtful])}."
            " Compare with what a viewer shows, or run text recognition over the file."
        )
    if elsewhere:
        yield (
            f"{name!r} has "
            + (
                f"{elsewhere} values of a form that stand on no page and were not read. Print it to"
                " a new PDF if a viewer shows them."
                if elsewhere > 1
                else "a value of a form that stands on no page and was not read. Print it to a new"
                " PDF if a viewer shows it."
            )
        )


def _listed(numbers: list[int]) -> str:
    """Write page numbers out ("pages 2, 3 and 7"), many of them as the first ones and a count."""
    if len(numbers) == 1:
        return f"page {numbers[0]}"
    first, last = numbers[:-1], str(numbers[-1])
    if len(numbers) > 12:
        first, last = numbers[:10], f"{len(numbers) - 10} more"
    return f"pages {', '.join(map(str, first))} and {last}"


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


@dataclass(frozen=True)
class _Shape:
    """What a running head has in common on all its pages: the text around the page's number.

    `ahead` is how far the number runs ahead of the pages: the same on all of them. It is None where
    there is no number, or where the text itself calls it that of a page.
    """

    text: str
    turned: float
    ahead: int | None = None


def _shape(line: Line, number: int) -> _Shape:
    """Mask the number of the page in a line, and no other number: "Invoice 1001" stays itself."""
    says = SAYS_PAGE.search(line.text)
    if says:
        begin, end = says.span(1 if says[1] else 2)
        return _Shape(f"{line.text[:begin]}#{line.text[end:]}", line.turned)
    alone = PAGE_NUMBER.fullmatch(line.text)
    if alone:
        masked = f"{line.text[: alone.start(2)]}#{line.text[alone.end(2) :]}"
        return _Shape(masked, line.turned, int(alone[2]) - number)
    for place in (0, -1) if len(line.cells) > 1 else ():
        if re.fullmatch(r"\d{1,4}", line.cells[place][1]):
            rest = list(text for _, text in line.cells)
            ahead = int(rest.pop(place)) - number
            return _Shape(" ".join(rest) + f" #{place}", line.turned, ahead)
    return _Shape(line.text, line.turned)


def without_furniture(pages: list[Page]) -> list[Page]:
    """Remove page numbers, running heads and feet, and note each with its reason.

    Heads and feet are edge lines that recur on more than half of the pages, alike but for the
    number of the page: one that the text calls so, or that stands apart and grows with the pages.
    Lines that differ in another number ("Chapter 2", "Invoice 1001") are text. Heads and feet are
    judged by position, not by order: many programs write the foot of a page before its text, or in
    the middle of it. What recurs is removed at its usual height even where something else, seen or
    hidden, stands beyond it. Where nothing at all would be left, everything stays.
    """
    by_place = [
        sorted((line for line in page.lines if line.kind == "text"), key=lambda line: -line.y)
        for page in pages
    ]
    groups = [
        [[line for line in lines if line.turned == turned] for turned in {x.turned for x in lines}]
        for lines in by_place
    ]
    edges = [
        (shape, line)
        for page, sides in zip(pages, groups)
        for shape, line in {
            _shape(line, page.number): line for lines in sides for line in (*lines[:1], *lines[-1:])
        }.items()
    ]
    counts = Counter(shape for shape, _ in edges)
    recurring = {shape for shape, n in counts.items() if n > max(2, len(pages) / 2)}
    usual = {(shape, round(line.y)) for shape, line in edges if shape in recurring}
    ahead = Counter(
        shape.ahead
        for shape, line in edges
        if shape.ahead is not None and PAGE_NUMBER.fullmatch(line.text)
    )

    def numbers_page(line: Line, number: int, neighbour: Line | None) -> bool:
        """Whether a line holds the number of the page and nothing else."""
        alone = PAGE_NUMBER.fullmatch(line.text)
        if not alone:
            return False
        if alone[1] or alone[3]:
            return True
        if ahead.total() > 2:  # numbers that grow with the pages
            n = ahead[int(alone[2]) - number]
            return n > 1 and 2 * n >= ahead.total()
        return neighbour is not None and abs(line.y - neighbour.y) > 2 * neighbour.size

    cleaned = []
    for page, sides in zip(pages, groups):
        dropped: dict[int, Change] = {}
        for lines in sides:
            for line in lines:
                shape = _shape(line, page.number)
                if (shape, round(line.y)) in usual:
                    dropped[id(line)] = _gone(line, counts[shape])
            for step in (1, -1):
                left, numbered = lines[::step], False
                while left:
                    line, *left = left
                    shape = _shape(line, page.number)
                    if shape in recurring:
                        dropped.setdefault(id(line), _gone(line, counts[shape]))
                    elif not numbered and numbers_page(
                        line, page.number, left[0] if left else None
                    ):
                        dropped.setdefault(id(line), _gone(line))
                        numbered = True
                    elif id(line) not in dropped:
                        break
        cleaned.append(
            replace(
                page,
                lines=tuple(line for line in page.lines if id(line) not in dropped),
                changes=page.changes + tuple(dropped.values()),
            )
        )
    return cleaned if any(page.lines for page in cleaned) else pages


def _gone(line: Line, pages: int = 0) -> Change:
    reason = f"running head or foot, on {pages} pages" if pages else "page number"
    return Change(reason, "".join(line.text.split()))


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
