"""Lay out the lines of a document: chapters by headings, paragraphs, tables and columns.

Two rules. Every character of a line comes into a paragraph or into a title of one, and what does
not is a `Change` with its reason. A guess about the layout (is it a heading, a table, a column?)
may put text in another place, and never takes it away.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace

from qwen3lab.data.pdf_marks import (
    PLAIN,
    SOFT_HYPHEN,
    WIDE,
    Change,
    Line,
    Page,
    difference,
    estimate,
    width,
)

NUMBERED = re.compile(
    r"(chapter\s+\d+|第[一二三四五六七八九十\d]+章|\d{1,2}(\.\d{1,2})?\.?)\s+\S", re.IGNORECASE
)
CONTENTS_ENTRY = re.compile(r"(.+?)[\s.·…]*\d{1,4}")
BULLETS = "•·-–*▪●"
TITLE_LINES = 3  # what is printed large in more lines is text
CELL, WORDS = 20, 3  # in columns of text half of the pieces have so many letters or words ...
FILLED = 0.6  # ... and most reach over this share of the way to the next column
HEADING, CONTENTS = "heading, in the title of its chunks", "contents, whose entries are titles"
COLUMN_NAMES = "names of a table's columns, written into its rows"
HYPHEN = "hyphen of a word broken over two lines"


@dataclass(frozen=True)
class Chapter:
    """Chapter title and its paragraphs, each with the page on which it begins.

    The page is None in documents without pages, such as Markdown.
    """

    title: str
    paragraphs: tuple[tuple[str, int | None], ...]


@dataclass(eq=False)
class _Section:
    """A heading with its page, the headings above it (itself last) and what stands under it."""

    title: str
    page: int = 0
    depth: int = 0
    path: list[_Section] = field(default_factory=list)
    paragraphs: list[tuple[str, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


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
    chapter's. A heading without text under it joins the next one of its page, or is a paragraph of
    its own. A paragraph ends where the gap to the next line is wider than usual, at a bullet, and
    where a line that ends a sentence stops well short of the right margin. It may continue on the
    next page. Text before the first heading belongs to a chapter without a title.
    Lines whose pieces stand in the same columns, below names of these columns, are a table: each
    row becomes a paragraph with the names. Columns of text are read one after the other.
    """
    return layout(pages)[0]


def layout(pages: list[Page]) -> tuple[list[Chapter], list[Change]]:
    """Return the chapters, and what of the lines is not in their paragraphs or came into them."""
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            if line.kind == "text":
                sizes[line.size] += len(line.text)
    usual = sizes.most_common(1)[0][0] if sizes else 0.0
    plain = all(size < 1.15 * usual for size in sizes)
    changes: list[Change] = []
    in_order = [_in_order(page.lines, changes) for page in pages]
    gap = _usual_gap(in_order, usual)
    full = 0.75 * max(
        (
            width(line.text)
            for page in pages
            for line in page.lines
            if line.size == usual and line.kind == "text"
        ),
        default=0,
    )

    section = _Section("")
    sections, titles = [section], list[_Section]()  # titles: of the chapter, the section ...
    before: Line | None = None  # the last line of the open paragraph
    for page, lines in zip(pages, in_order):
        large = _headings(lines, usual, plain)
        rows = _table_rows(lines, large)
        for n, line in enumerate(lines):
            if n in large:
                second = n and lines[n - 1].size == line.size and _is_next(lines[n - 1], line)
                if second and before is None and titles and not NUMBERED.match(line.text):
                    # A title of two lines.
                    section.title = join(section.title, line.text)
                    section.lines.append(line.text)
                else:
                    depth = _depth(line, usual)
                    while titles and titles[-1].depth >= depth:
                        titles.pop()
                    section = _Section(line.text, page.number, depth, lines=[line.text])
                    titles.append(section)
                    section.path = list(titles)
                    sections.append(section)
                before = None
            elif n in rows:
                text = rows[n]
                if text:
                    changes += difference(COLUMN_NAMES, line.text, text)
                    section.paragraphs.append((text, page.number))
                else:
                    changes.append(Change(COLUMN_NAMES, "".join(line.text.split())))
                before = None
            elif line.kind != "text":
                section.paragraphs.append((line.text, page.number))
                before = None
            else:
                if before is None or _breaks(before, line, gap, full, turned=n == 0):
                    section.paragraphs.append((line.text, page.number))
                else:
                    text, begun = section.paragraphs[-1]
                    joined = join(text, line.text)
                    if len(joined) < len(text) + len(line.text):
                        changes.append(Change(HYPHEN, text[-1]))
                    section.paragraphs[-1] = (joined, begun)
                before = line
    return _titled(sections, changes), changes


def _titled(sections: list[_Section], changes: list[Change]) -> list[Chapter]:
    """Give every heading its place: in a title, or, where no text follows, in a paragraph."""
    bare = lambda text: "".join(text.split()).casefold()
    used = {id(part) for section in sections if section.paragraphs for part in section.path}
    lost = [bool(section.lines) and id(section) not in used for section in sections]
    known = {bare(section.title) for section, gone in zip(sections, lost) if not gone}
    entries = [
        gone
        and (found := CONTENTS_ENTRY.fullmatch(section.title)) is not None
        and bare(found[1]) in known
        for section, gone in zip(sections, lost)
    ]
    # The heading of the contents goes with its entries.
    contents = [
        entry or (gone and then) for entry, gone, then in zip(entries, lost, [*entries[1:], False])
    ]
    made, above = list[Chapter](), list[_Section]()
    for n, section in enumerate(sections):
        if contents[n]:
            changes.append(Change(CONTENTS, _letters(section)))
            continue
        following = sections[n + 1] if n + 1 < len(sections) and not contents[n + 1] else None
        if lost[n] and following is not None and _is_one_title(section, following):
            above.append(section)
            continue
        if lost[n]:
            for part in (*above, section):
                changes += difference(HYPHEN, _letters(part), part.title)
            section.paragraphs = [(part.title, part.page) for part in (*above, section)]
        else:
            changes += [Change(HEADING, _letters(part)) for part in (*above, section) if part.lines]
        section.title = " / ".join(part.title for part in (*above, section))
        if section.paragraphs:
            title = " / ".join(part.title for part in section.path)
            made.append(Chapter(title, tuple(section.paragraphs)))
        above = []
    return made


def _letters(section: _Section) -> str:
    """Return the letters of a heading as its lines have them."""
    return "".join("".join(section.lines).split())


def _is_one_title(section: _Section, following: _Section) -> bool:
    """Whether two headings without text between them belong together, as on a cover."""
    return section.page == following.page and not (
        NUMBERED.match(section.title) or NUMBERED.match(following.title)
    )


def _in_order(lines: tuple[Line, ...], changes: list[Change]) -> list[Line]:
    """Read columns of text that a file holds row by row one after the other."""
    found, n = [], 0
    while n < len(lines):
        run, starts = _columns(lines, n)
        if starts:
            for line in run:
                changes += difference(PLAIN, line.text, "".join(text for _, text in line.cells))
            for k in range(len(starts)):
                for line in run:
                    for x, text in line.cells:
                        if _column(x, starts) == k and text:
                            found.append(replace(line, text=text, cells=((x, text),)))
        else:
            found += run
        n += len(run)
    return found


def _columns(lines: tuple[Line, ...], n: int) -> tuple[list[Line], list[float]]:
    """Return the lines from `n` on that are columns of text and their left edges, or one line.

    Pieces of columns are long and reach over most of the way to the next column; in a table most
    are short. Where the columns' lines differ a little in height, each is a line of its own.
    """
    first, rest = lines[n], lines[n + 1 :]
    starts = [x for x, _ in first.cells]
    if len(starts) == 1 and rest and abs(first.y - rest[0].y) < 0.6 * first.size:
        starts += [x for x, _ in rest[0].cells]
    if len(starts) < 2 or starts != sorted(set(starts)):
        return [first], []
    run = [first]
    for line in rest:
        if not _fits(line, run[-1], starts):
            break
        run.append(line)
    pieces = [(x, text, line.size) for line in run for x, text in line.cells]
    count = Counter(_column(x, starts) for x, _, _ in pieces)
    filled = [
        x + estimate(text, size) - starts[k] > FILLED * (starts[k + 1] - starts[k])
        for x, text, size in pieces
        if (k := _column(x, starts)) + 1 < len(starts)
    ]
    middle = lambda counts: sorted(counts)[len(pieces) // 2]
    long = (
        middle([width(text) for _, text, _ in pieces]) >= CELL
        or middle([len(text.split()) for _, text, _ in pieces]) >= WORDS
    )
    is_text = (
        all(count[k] > 1 for k in range(len(starts)))
        and long
        and sum(filled) > len(filled) / 2
        and not _names_columns(run[0], run[1:], fonts_only=True)
    )
    return (run, starts) if is_text else ([first], [])


def _column(x: float, starts: list[float]) -> int:
    return sum(x >= start - 1 for start in starts) - 1


def _fits(line: Line, before: Line, starts: list[float]) -> bool:
    """Whether a line goes on in columns with these left edges, and crosses none of them."""
    columns = [_column(x, starts) for x, _ in line.cells]
    return (
        line.kind == "text"
        and line.turned == before.turned
        and -0.6 * before.size < before.y - line.y < 3 * before.size
        and bool(columns)
        and columns == sorted(set(columns))
        and all(
            k >= 0
            and x - starts[k] < 4 * line.size
            and (k + 1 == len(starts) or x + 0.85 * estimate(text, line.size) < starts[k + 1])
            for k, (x, text) in zip(columns, line.cells)
        )
    )


def _table_rows(lines: list[Line], large: set[int]) -> dict[int, str]:
    """Write the rows of tables as sentences: number of the line -> text, "" for the names' line."""
    rows: dict[int, str] = {}
    n = 0
    while n < len(lines):
        end = n + 1
        while (
            end < len(lines)
            and not large & {n, end}
            and lines[end].kind == lines[n].kind == "text"
            and _same_columns(lines[n], lines[end])
        ):
            end += 1
        run = lines[n:end]
        if len(run) > 1:
            named = _names_columns(run[0], run[1:])
            for k, line in enumerate(run):
                rows[n + k] = "" if named and k == 0 else _row(run[0], line) if named else line.text
        n = end
    return rows


def _names_columns(line: Line, below: list[Line], fonts_only: bool = False) -> bool:
    """Whether a line names the columns of those below it.

    It is set in another font, or it has no digit where each of them has one.
    """
    if not below or any(len(row.cells) != len(line.cells) for row in below):
        return False
    if line.font and all(row.font and row.font != line.font for row in below):
        return True
    numbers = lambda text: any(c.isdigit() for c in text)
    return not fonts_only and any(
        not numbers(line.cells[k][1]) and all(numbers(row.cells[k][1]) for row in below)
        for k in range(1, len(line.cells))
    )


def _same_columns(a: Line, b: Line) -> bool:
    """Whether two lines have the same left edges, and pieces apart from each other."""
    return (
        len(a.cells) > 1
        and a.turned == b.turned
        and [x for x, _ in a.cells] == [x for x, _ in b.cells]
        and all(gap > 0 for gap in _gaps(a))
    )


def _gaps(line: Line) -> list[float]:
    """Estimate the gaps between the pieces of a line, in points."""
    return [
        then - x - estimate(text, line.size)
        for (x, text), (then, _) in zip(line.cells, line.cells[1:])
    ]


def _is_apart(line: Line) -> bool:
    """Whether a line's pieces stand far from each other, as in a table."""
    return any(gap > 2 * line.size for gap in _gaps(line))


def _row(header: Line, line: Line) -> str:
    """Write a table row as one sentence ("Corvel lamp: price 45 euros; shelf A12.")."""
    (_, first), *others = line.cells
    mark, space, joint, stop = (
        ("：", "", "；", "。") if WIDE.search(line.text) else (": ", " ", "; ", ".")
    )
    pairs = (
        (name[0].lower() + name[1:] + space if name else "") + value
        for (_, name), (_, value) in zip(header.cells[1:], others)
    )
    return first + mark + joint.join(pairs) + stop


def _usual_gap(pages: list[list[Line]], usual: float) -> float:
    """Estimate the line distance within a paragraph: almost the smallest that occurs.

    Lines of a paragraph are never further apart than twice their size.
    """
    gaps = sorted(
        a.y - b.y
        for lines in pages
        for a, b in zip(lines, lines[1:])
        if a.size == b.size == usual
        and a.turned == b.turned
        and a.kind == b.kind == "text"
        and a.y > b.y
        and b.text[0] not in BULLETS
    )
    return min(gaps[len(gaps) // 20], 2 * usual) if gaps else 0.0


def _headings(lines: list[Line], usual: float, plain: bool) -> set[int]:
    """Return the numbers of the lines that are headings: large or numbered, and few at a time."""
    found = {
        n
        for n, line in enumerate(lines)
        if line.kind == "text" and not line.turned and _is_heading(line, usual, plain)
    }
    run: list[int] = []
    for n in sorted(found):
        if run and not (
            n == run[-1] + 1
            and lines[n].size == lines[n - 1].size
            and _is_next(lines[n - 1], lines[n])
            and not NUMBERED.match(lines[n].text)
        ):
            run = []
        run.append(n)
        if len(run) > TITLE_LINES:
            found -= set(run)
    return found


def _is_next(above: Line, line: Line) -> bool:
    return above.y - line.y < 1.6 * line.size


def _is_heading(line: Line, usual: float, plain: bool) -> bool:
    if line.size >= 1.15 * usual:
        return bool(NUMBERED.match(line.text)) or not _is_apart(line)
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
    if line.text[0] in BULLETS or before.size != line.size or before.turned != line.turned:
        return True
    ended = before.text[-1] in ".。!！?？:："
    if not turned:
        return (
            before.y - line.y > 1.25 * gap
            or before.y <= line.y
            or (ended and width(before.text) < full)
        )
    return ended
