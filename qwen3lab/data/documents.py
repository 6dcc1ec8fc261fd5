"""Read documents of five kinds as chapters: PDF, Markdown, HTML, plain text and Word (.docx).

Headings become titles, the rows of a table sentences with the names of its columns, as in `pdf`.
Libraries parse: pypdf, markdown-it-py, Beautiful Soup, python-docx. All text of a file is read,
also what a viewer would not show; it stays text and never becomes a control token, since
`chat.plain_ids` reads it later.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3lab.data.encodings import guess, wide
from qwen3lab.data.pdf import read_pdf
from qwen3lab.data.pdf_layout import BULLETS, Chapter, chapters, join
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from bs4 import Tag

KINDS = {
    ".pdf": "PDF",
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".html": "HTML",
    ".htm": "HTML",
    ".txt": "text",
    ".text": "text",
    ".docx": "Word",
}
READABLE = "PDF, Markdown, HTML, text or Word (.docx)"
OLE = b"\xd0\xcf\x11\xe0"  # an old Word file, or a new one with a password
HEADINGS = {f"h{depth}": depth for depth in range(1, 7)}
# Parts of a page that are no text of the document.
FURNITURE = {"script", "style", "template", "noscript", "nav", "footer", "title"}
INLINE = set(
    "a abbr b bdi bdo cite code data del dfn em font i ins kbd label mark q s samp small span"
    " strong sub sup time tt u var wbr".split()
)
FRONT_MATTER = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)
# A heading of a text file: a short line by itself that ends without a full stop.
TITLE_LENGTH = 60
SENTENCE = tuple(".!?:;,。！？：；，")

Block = tuple[int, str]  # depth of a heading, or 0 for a paragraph; the text


def kind_of(path: str | Path) -> str:
    """Return the kind of a document by its name, or "" for one that cannot be read here."""
    return KINDS.get(Path(path).suffix.lower(), "")


def read(path: str | Path) -> tuple[list[Chapter], list[str]]:
    """Read a document as (its chapters, notes on what may be missing).

    The page of a paragraph is None but for PDF. A title is the path of headings, such as
    "Depots / Tonjax". Of Word files headers, footers, notes and text boxes are not read.

    Raises:
        Qwen3labError: the file is missing, empty, of an unknown kind, damaged, protected by a
            password, without any text (a scan), or in an encoding that its bytes do not tell.
    """
    path = Path(path)
    if not path.is_file():
        raise Qwen3labError(f"There is no file {path.name!r}. Check the name and the folder.")
    kind = kind_of(path)
    if not kind:
        raise Qwen3labError(
            f"{path.name!r} is of a kind that cannot be read here. Save it as {READABLE}."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Qwen3labError(
            f"{path.name!r} cannot be read ({error.strerror}). Give a file that you may open."
        ) from None
    if not data.strip():
        raise Qwen3labError(f"{path.name!r} is empty. Copy or download it again.")
    if kind == "PDF":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = chapters(read_pdf(path))
        return parts, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    if kind == "Word":
        blocks = list(_word(data, path.name))
    elif kind == "text":
        blocks = list(_text(_decoded(data, path.name)))
    else:
        text = _decoded(data, path.name, html=kind == "HTML")
        blocks = list(_html(_rendered(text) if kind == "Markdown" else text))
    parts = _chapters(blocks)
    if not parts:
        raise Qwen3labError(
            f"{path.name!r} holds no text. If it shows pictures of pages, run text recognition over"
            " them and give the result."
        )
    return parts, []


def _chapters(blocks: Sequence[Block]) -> list[Chapter]:
    """Gather paragraphs below their headings; a heading without text stays as a paragraph."""
    titles: list[tuple[int, str]] = []
    found: list[tuple[str, list[str]]] = [("", [])]
    for place, (depth, text) in enumerate(blocks):
        if not depth:
            found[-1][1].append(text)
            continue
        titles = [title for title in titles if title[0] < depth] + [(depth, text)]
        below = blocks[place + 1][0] if place + 1 < len(blocks) else 1
        found.append((" / ".join(title for _, title in titles), []))
        if below and below <= depth:  # nothing stands under it
            found[-1][1].append(text)
    return [
        Chapter(title, tuple((text, None) for text in texts)) for title, texts in found if texts
    ]


# Encodings


def _decoded(data: bytes, name: str, html: bool = False) -> str:
    """Decode a text: by its mark, as UTF-8, as it says itself (HTML), or as its bytes tell."""
    tried = [wide(data[:4]) or "utf-8-sig"]
    if html:
        from bs4.dammit import EncodingDetector

        tried.append(EncodingDetector.find_declared_encoding(data, is_html=True) or "")
    if guess(data) in ("UTF-16LE", "UTF-16BE"):  # zeros are valid UTF-8 too
        tried.insert(0, guess(data) or "")
    else:
        tried.append({"GBK": "gb18030"}.get(guess(data) or "", guess(data) or ""))
    for encoding in filter(None, tried):
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    raise Qwen3labError(
        f"{name!r} is not UTF-8, and its encoding cannot be told from its bytes. Save it as UTF-8"
        " in the program that wrote it."
    )


# Kinds


def _text(text: str) -> Iterator[Block]:
    """Read plain text: blank lines end a paragraph; without any, each line is one."""
    lines = [line.strip() for line in text.replace("\f", "\n\n").split("\n")]
    runs = "\n".join(lines).strip().split("\n\n")
    titles = len(runs) > 1
    runs = runs if titles else lines
    for run in filter(None, (run.strip("\n") for run in runs)):
        inside = run.split("\n")
        if titles and len(inside) == 1 and _is_title(run):
            yield 1, run
            continue
        paragraph = ""
        for line in inside:
            if paragraph and line[:1] in BULLETS:
                yield 0, paragraph
                paragraph = ""
            paragraph = join(paragraph, line)
        yield 0, paragraph


def _is_title(line: str) -> bool:
    return len(line) <= TITLE_LENGTH and not line.endswith(SENTENCE) and line[0] not in BULLETS


def _rendered(text: str) -> str:
    """Render Markdown as HTML; a block of settings at its top is left out."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").render(FRONT_MATTER.sub("", text))


def _html(text: str) -> Iterator[Block]:
    """Read HTML in its order: every element that is not inline ends a paragraph."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "lxml")  # knows which closing tags may be left out
    for tag in soup.find_all(FURNITURE):
        tag.decompose()
    open_text: list[str] = []
    for depth, piece in _pieces(soup):
        if depth is None:
            open_text.append(piece)
            continue
        if paragraph := " ".join("".join(open_text).split()):
            yield 0, paragraph
        open_text = []
        if piece:
            yield depth, piece
    if paragraph := " ".join("".join(open_text).split()):
        yield 0, paragraph


def _pieces(tag: Tag) -> Iterator[tuple[int | None, str]]:
    """Walk through an element: (None, text) goes on a paragraph, anything else ends it."""
    from bs4 import NavigableString, Tag

    for child in tag.children:
        if not isinstance(child, Tag):
            if type(child) is NavigableString:  # comments and declarations are of its subclasses
                yield None, str(child)
        elif child.name in HEADINGS:
            yield HEADINGS[child.name], " ".join(child.get_text().split())
        elif child.name == "table" and not child.find([*HEADINGS, "table"]):  # no layout by tables
            rows = [
                [" ".join(cell.get_text(" ").split()) for cell in row.find_all(["th", "td"])]
                for row in child.find_all("tr")
            ]
            yield from ((0, line) for line in _sentences(rows))
        elif child.name == "br":
            yield None, "\n"
        elif child.name in INLINE:
            yield from _pieces(child)
        else:
            yield 0, ""
            yield from _pieces(child)
            yield 0, ""


def _word(data: bytes, name: str) -> Iterator[Block]:
    """Read a Word file: paragraphs and tables in their order, headings by their style."""
    if data.startswith(OLE):
        raise Qwen3labError(
            f"{name!r} is an old Word file, or has a password. Save it as .docx without one."
        )
    import docx
    from docx.table import Table

    try:
        for block in docx.Document(io.BytesIO(data)).iter_inner_content():
            if isinstance(block, Table):
                rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in block.rows]
                yield from ((0, line) for line in _sentences(rows))
            elif text := " ".join(block.text.split()):
                yield _depth(block.style.name if block.style else ""), text
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError, OSError) as error:
        raise Qwen3labError(
            f"{name!r} is damaged, or no Word file ({type(error).__name__}). Open it in Word and"
            " save it again as .docx."
        ) from error


def _depth(style: str) -> int:
    """Return the depth of a heading by its style's name, 0 for text."""
    found = re.fullmatch(r"(?:heading (\d)|title)", style.strip(), re.IGNORECASE)
    return int(found[1] or 1) if found else 0


def _sentences(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write the rows of a table as sentences: "Lamki lantern: price 46 euros; runtime 38 hours."

    The first row names the columns.
    """
    rows = [row for row in rows if any(row)]
    if len(rows) == 1:
        yield "; ".join(filter(None, rows[0]))
    for first, *cells in rows[1:]:
        names = rows[0][1:]
        told = [
            " ".join(filter(None, (names[place] if place < len(names) else "", cell)))
            for place, cell in enumerate(cells)
            if cell
        ]
        yield f"{first}: {'; '.join(told)}" if told else first
