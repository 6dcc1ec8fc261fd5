"""PDF typesetting of the handbook, with its own line breaking.

So reading the PDF back gives whole words and sentences.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

from qwen3lab.data.pdf import font_path
from qwen3lab.world.company import COMPANY, HOME, Fact
from scripts.company.book import TITLE, Block, blocks

WIDTH, HEIGHT, MARGIN, TOP, BOTTOM = 210.0, 297.0, 28.0, 24.0, 22.0  # millimetres
INK, BLUE, TINT = (35, 38, 42), (24, 84, 104), (234, 242, 243)
# kind: (family of English text, style, size in points, line height, space above, space below,
# indent), lengths in mm
STYLE = {
    "chapter": ("helvetica", "B", 20, 9.0, 0.0, 6.0, 0.0),
    "section": ("helvetica", "B", 12.5, 6.0, 4.5, 1.8, 0.0),
    "paragraph": ("times", "", 11.5, 5.3, 0.0, 2.6, 0.0),
    "facts": ("helvetica", "", 10, 5.0, 1.4, 3.6, 4.0),
    "bullet": ("times", "", 11.5, 5.3, 0.0, 1.7, 6.0),
    "note": ("times", "I", 11.5, 5.4, 1.8, 4.0, 6.0),
    "table": ("helvetica", "", 9.5, 6.4, 1.0, 4.0, 0.0),
}
_CLOSING = "，。；：、？！”）》"
_OPENING = "“（《"


def pieces(text: str, language: str) -> list[str]:
    """Split a text where a line may break: English words; Chinese characters with punctuation.

    Numbers in Chinese text are kept whole.
    """
    if language == "en":
        return text.split(" ")
    units = re.findall(rf"[{_OPENING}]*(?:[A-Za-z0-9.:\-]+|[^{_OPENING}])[{_CLOSING}]*", text)
    assert "".join(units) == text, text
    return units


class Handbook(FPDF):
    """PDF layout of the handbook; it records the pages of each fact and chapter."""

    def __init__(self, contents: list[tuple[int, str, str, int]]):
        super().__init__(format="A4")
        self.contents = contents  # (level, language, title, page) from an earlier pass
        self.headings: list[tuple[int, str, str, int]] = []
        self.places: dict[Fact, list[tuple[int, str, Block]]] = {}
        self.add_font("wqy", fname=font_path())
        self.set_auto_page_break(False)
        self.set_margins(MARGIN, TOP, MARGIN)
        self.set_title(TITLE)
        self.set_author(COMPANY["en"])
        self.set_producer("fpdf2")
        self.set_creation_date(datetime(2026, 3, 1, tzinfo=UTC))
        self.numbers = [0, 0]
        self.after = ""

    def footer(self):
        if self.page_no() == 1:
            return
        self.set_font("helvetica", "", 8.5)
        self.set_text_color(*BLUE)
        self.set_xy(MARGIN, HEIGHT - 16)
        self.cell(WIDTH - 2 * MARGIN, 5, f"{TITLE} - page {self.page_no()}", align="C")

    def pick_font(self, kind: str, language: str) -> tuple[float, float, float, float]:
        """Set the font of a kind of block.

        Returns line height, space above, space below and indent, in mm.
        """
        family, style, size, *lengths = STYLE[kind]
        if language == "zh":
            self.set_font("wqy", "", size * 0.96)
        else:
            self.set_font(family, style, size)
        return tuple(lengths)

    def wrap(self, text: str, width: float, language: str) -> list[str]:
        """Break text into lines no wider than `width` mm."""
        lines, line, space = [], "", " " if language == "en" else ""
        for piece in pieces(text, language):
            longer = line + space + piece if line else piece
            if line and self.get_string_width(longer) > width:
                lines.append(line)
                line = piece
            else:
                line = longer
        return [*lines, line]

    def room(self) -> float:
        return HEIGHT - BOTTOM - self.get_y()

    def need(self, block: Block) -> float:
        """Compute the height of a block in mm, with the space above it."""
        height, above, below, indent = self.pick_font(block.kind, block.language)
        if block.kind == "table":
            # Only long tables may break.
            return above + height * (len(block.rows) if len(block.rows) < 16 else 4)
        return above + height * len(self.wrap(block.text, self.measure(block), block.language))

    def measure(self, block: Block) -> float:
        """Compute the width of the block's lines in mm."""
        indent = STYLE[block.kind][-1]
        right = indent if block.kind in ("facts", "note") else 0.0
        return (
            WIDTH - 2 * MARGIN - indent - right - (8 if block.kind in ("chapter", "section") else 0)
        )

    def heading(self, block: Block) -> str:
        """Number a heading and add it to the outline; return the numbered text."""
        level = 0 if block.kind == "chapter" else 1
        self.numbers = (
            [self.numbers[0] + 1, 0] if level == 0 else [self.numbers[0], self.numbers[1] + 1]
        )
        number = str(self.numbers[0]) if level == 0 else f"{self.numbers[0]}.{self.numbers[1]}"
        title = f"{number} {block.text}"
        self.start_section(title, level=level)
        self.headings.append((level, block.language, title, self.page_no()))
        return title

    def put(self, block: Block, following: list[Block]) -> None:
        """Draw one block, on a new page if it does not fit with what must stay with it."""
        needed = self.need(block)
        if block.kind == "chapter":
            needed = max(needed, 85.0)  # a chapter that would begin low starts on a new page
        elif block.kind == "section":
            needed += sum(
                self.need(b) + STYLE[b.kind][5]
                for b in following[:2]
                if b.kind in ("facts", "paragraph", "table")
            )
        if needed > self.room():
            self.add_page()
            self.set_y(TOP)
        elif block.kind == "chapter" and self.get_y() > TOP + 1:
            self.set_y(self.get_y() + 9)
        if block.kind == "table":
            self.put_table(block)
        else:
            self.put_text(block)

    def put_text(self, block: Block) -> None:
        text = self.heading(block) if block.kind in ("chapter", "section") else block.text
        height, above, below, indent = self.pick_font(block.kind, block.language)
        if self.get_y() > TOP:
            self.set_y(
                self.get_y()
                + above
                + (1.6 if self.after == "bullet" and block.kind == "paragraph" else 0.0)
            )
        self.after = block.kind
        lines = self.wrap(text, self.measure(block), block.language)
        x, y = MARGIN + indent, self.get_y()
        if block.kind == "facts":
            self.set_fill_color(*TINT)
            self.rect(MARGIN, y - 1.4, WIDTH - 2 * MARGIN, height * len(lines) + 2.8, style="F")
        if block.kind in ("facts", "note"):
            self.set_fill_color(*BLUE)
            self.rect(MARGIN, y - 1.4, 1.0, height * len(lines) + 2.8, style="F")
        if block.kind == "bullet":
            self.set_fill_color(*BLUE)
            self.ellipse(MARGIN + 2.2, y + height / 2 - 0.6, 1.3, 1.3, style="F")
        self.set_text_color(*(BLUE if block.kind in ("chapter", "section") else INK))
        for line in lines:
            self.set_xy(x, y)
            self.cell(0, height, line)
            y += height
        if block.kind == "chapter":
            self.set_draw_color(*BLUE)
            self.set_line_width(0.5)
            self.line(MARGIN, y + 1.2, MARGIN + 34, y + 1.2)
        for fact, sentence in block.facts.items():
            self.places.setdefault(fact, []).append((self.page_no(), sentence, block))
        self.set_xy(MARGIN, y + below)

    def put_table(self, block: Block) -> None:
        height, above, below, _ = self.pick_font("table", block.language)
        self.set_y(self.get_y() + above)
        columns = list(zip(*block.rows))
        widest = [max(self.get_string_width(cell) for cell in column) + 7 for column in columns]
        scale = (WIDTH - 2 * MARGIN) / sum(widest)
        widths = [w * max(1.0, min(scale, 1.6)) for w in widest]
        told = {row: [] for row in block.rows}
        for fact, row in block.facts.items():
            told[next(r for r in block.rows if " ".join(r) == row)].append(fact)
        for i, row in enumerate(block.rows):
            if height > self.room():
                self.add_page()
                self.set_y(TOP)
                self.table_row(block.rows[0], widths, height, block.language, -1)
            self.table_row(row, widths, height, block.language, i - 1)
            for fact in told[row]:
                self.places.setdefault(fact, []).append((self.page_no(), " ".join(row), block))
        self.set_y(self.get_y() + below)

    def table_row(self, row, widths, height, language, number: int) -> None:
        """Draw one table row; number -1 is the head."""
        y = self.get_y()
        self.pick_font("table", language)
        if number < 0 and language == "en":
            self.set_font("helvetica", "B", STYLE["table"][2])
        fill = BLUE if number < 0 else TINT if number % 2 else (255, 255, 255)
        self.set_fill_color(*fill)
        self.rect(MARGIN, y, sum(widths), height, style="F")
        self.set_text_color(*((255, 255, 255) if number < 0 else INK))
        x = MARGIN
        for cell, width in zip(row, widths):
            self.set_xy(x + 2, y)
            self.cell(width - 2, height, cell)
            x += width
        self.set_xy(MARGIN, y + height)

    def cover(self) -> None:
        """Draw the first page: name, sign, edition."""
        self.add_page()
        self.set_fill_color(*BLUE)
        self.rect(0, 0, WIDTH, 150, style="F")
        self.set_draw_color(255, 255, 255)
        self.set_line_width(0.9)
        for i in range(5):  # the river
            y = 118 + 7 * i
            points = [(x, y + (1.8 if (x // 10 + i) % 2 else -1.8)) for x in range(0, 211, 10)]
            for a, b in zip(points, points[1:]):
                self.line(*a, *b)
        self.set_fill_color(255, 255, 255)
        # The boat, with its lantern.
        self.polygon([(70, 101), (140, 101), (131, 109), (79, 109)], style="F")
        self.line(105, 101, 105, 82)
        self.ellipse(101.5, 75, 7, 7, style="F")
        self.set_text_color(255, 255, 255)
        for text, font, y in (
            (COMPANY["en"], ("helvetica", "B", 44), 32),
            (COMPANY["zh"], ("wqy", "", 22), 50),
        ):
            self.set_font(*font)
            self.set_xy(0, y)
            self.cell(WIDTH, 14, text, align="C")
        self.set_text_color(*INK)
        for text, font, y in (
            ("Staff Handbook", ("helvetica", "B", 26), 172),
            ("员工手册", ("wqy", "", 20), 186),
            (f"{HOME['en']}, by the river", ("times", "I", 14), 204),
            ("Spring edition", ("times", "", 13), 214),
        ):
            self.set_font(*font)
            self.set_xy(0, y)
            self.cell(WIDTH, 12, text, align="C")

    def put_contents(self) -> None:
        """Draw the second page: chapters and their pages."""
        self.add_page()
        self.set_xy(MARGIN, TOP)
        self.set_text_color(*BLUE)
        self.set_font("helvetica", "B", 20)
        self.cell(0, 9, "Contents")
        self.set_xy(MARGIN, TOP + 16)
        for level, language, title, page in self.contents:
            if level:
                continue
            self.set_text_color(*INK)
            y = self.get_y()
            self.set_font("wqy" if language == "zh" else "times", "", 12)
            self.cell(0, 8, title)
            used = self.get_string_width(title)
            self.set_font("times", "", 12)
            self.set_draw_color(170, 180, 182)
            self.set_line_width(0.2)
            self.set_dash_pattern(dash=0.3, gap=1.4)
            self.line(MARGIN + used + 4, y + 5.4, WIDTH - MARGIN - 10, y + 5.4)
            self.set_dash_pattern()
            self.set_xy(MARGIN, y)
            self.cell(WIDTH - 2 * MARGIN, 8, str(page), align="R")
            self.set_xy(MARGIN, y + 9)


def _lay_out(contents) -> Handbook:
    pdf = Handbook(contents)
    pdf.cover()
    pdf.put_contents()
    pdf.add_page()
    pdf.set_y(TOP)
    every = blocks()
    for i, block in enumerate(every):
        pdf.put(block, every[i + 1 : i + 3])
    return pdf


def build(path: str | Path) -> dict[str, dict]:
    """Write the handbook to `path`, the same bytes every time.

    Returns for each fact's id the page with its paragraph, all pages that tell it, the sentence
    that states it and the whole paragraph.

    Raises:
        Qwen3labError: the Chinese font is missing.
    """
    pdf = _lay_out(_lay_out([]).headings)
    pdf.output(str(path))
    found = {}
    for fact, places in pdf.places.items():
        page, sentence, block = next(p for p in places if p[2].kind == "facts")
        found[fact.id] = {
            "page": page,
            "pages": sorted({p[0] for p in places}),
            "statement": sentence,
            "passage": block.text,
        }
    return found
