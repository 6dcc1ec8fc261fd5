"""Read the marks of a PDF page: printed lines, form values, notes, and how much is pictures.

Whatever pypdf reads on a page becomes a line, in the direction in which it is printed, or a
`Change` with its reason. What holds no letters (pictures, drawings, fonts without a list of their
letters) is measured, so that `pdf.read_pdf` can name the pages.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

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
# Chinese characters and full-width punctuation.
WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
UNREADABLE = "\ufffd"
PLAIN = "written in plain letters (ligatures, hyphens)"
# Control characters are no letters of a page; the line ends come from pypdf itself.
CONTROL = dict.fromkeys(
    [c for c in (*range(32), *range(127, 160), 0xFFFE, 0xFFFF) if chr(c) not in "\t\n"], UNREADABLE
)
# TeX's text fonts have ligatures there, and many files do not say so.
TEX_FONT = re.compile(r"/(?:[A-Z]{6}\+)?CM(?:R|B|TI|SL|SS|U|FIB|DUNH)")
TEX_LIGATURES = str.maketrans(
    {"\x0b": "\ufb00", "\x0c": "\ufb01", "\x0d": "\ufb02", "\x0e": "\ufb03", "\x0f": "\ufb04"}
)
RISE = 0.65  # a raised or lowered mark stands at most this share of the line's size from it
SMALL = 0.85  # and its letters have at most this share of the line's size
WORDS_APART = 2.0  # times the font size: a wider gap in a line parts two texts
SKEWED = 3.0  # degrees by which a line may hang and still run in one of the four directions
PAINTING = frozenset("S s f F f* B B* b b* sh Do Tj TJ ' \"".split()) | {"INLINE IMAGE"}
Matrix = tuple[float, float, float, float, float, float]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Change:
    """Characters that left a text, or came into it, on the way to the chunks: how many, and why."""

    reason: str
    dropped: str = ""
    added: str = ""


@dataclass(frozen=True)
class Line:
    """Printed line of a page: text, font size, baseline height and separate pieces.

    `size` and `y`, the height above the foot of the page, are in points. `cells` are (left edge in
    points, text) of what stands apart from each other; a line of running text is one cell.
    `font` is the name of the first piece's font, where known. `turned` is the angle in degrees to
    most of the page's text, whose lines are upright. `kind` is "text", "field" (the value of a
    form's field) or "note" (an annotation).
    """

    text: str
    size: float
    y: float
    cells: tuple[tuple[float, str], ...] = ()
    font: str = ""
    turned: float = 0.0
    kind: str = "text"


@dataclass(frozen=True)
class Page:
    """Page with its number, counted from 1, and its lines in the order of the file.

    `read` holds all text that was read on the page, as the file has it, and `changes` what of it is
    not in the lines. `pictures` is the share of the page that pictures cover (0: none; they may
    overlap), `drawn` whether anything at all was drawn on it, and `unmapped` the number of
    characters in fonts that do not say which letters they are. `damaged`: a part beside the text
    could not be read.
    """

    number: int
    lines: tuple[Line, ...]
    read: str = ""
    changes: tuple[Change, ...] = ()
    pictures: float = 0.0
    drawn: bool = False
    unmapped: int = 0
    damaged: bool = False

    @property
    def text(self) -> str:
        """Join the lines of the page."""
        return "\n".join(line.text for line in self.lines)


def difference(reason: str, before: str, after: str) -> list[Change]:
    """List what a step took from a text and what it added, other than white space."""
    old, new = Counter("".join(before.split())), Counter("".join(after.split()))
    lost, gained = ("".join(count.elements()) for count in (old - new, new - old))
    return [Change(reason, lost, gained)] if lost or gained else []


def width(text: str) -> int:
    """Return the width of a text in letters; a Chinese character is as wide as two."""
    return sum(2 if WIDE.match(c) else 1 for c in text)


def whole(text: str) -> str:
    """Join the halves of surrogate pairs to characters, and write U+FFFD for a lone half.

    A lone half cannot be encoded: no tokenizer and no file takes it.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def legible(text: str) -> str:
    """Replace what is no character by U+FFFD: control signs and halves of surrogate pairs."""
    return whole(text).translate(CONTROL)


def _tidy(text: str) -> str:
    return re.sub(f"{SOFT_HYPHEN}(?!$)", "", re.sub(r"\s+", " ", text).strip()).translate(LIGATURES)


def read_page(page: Any, number: int) -> Page:
    """Read one page of pypdf.

    A page whose text mostly runs in another direction is turned upright first: pypdf finds spaces
    and line ends between pieces of text only there.
    """
    _part_jumps(page)
    seen = _Visitor.over(page)
    if angle := _main_angle(seen.pieces):
        _turn(page, -angle)
        seen = _Visitor.over(page)
    rows: list[_Row] = []
    for piece in seen.pieces:
        _place(piece, rows)
    read, changes, lines = [piece.text for piece in seen.pieces], [], []
    for row in sorted(rows, key=lambda row: row.angle != 0):
        raw = "".join(text for _, text in row.cells)
        text = _tidy(raw)
        changes += difference(PLAIN, raw, text)
        cells = tuple((round(x), _tidy(text)) for x, text in row.cells)
        if text:
            lines.append(
                Line(text, round(row.size, 1), round(row.y, 1), cells, row.font, row.angle)
            )
    damaged = False
    try:
        area, drawn = _area(page), bool(lines) or _is_drawn(page)
        for kind, raw in _annotations(page):
            raw = legible(raw.replace("\r", "\n"))
            text = _tidy(raw)
            read.append(raw)
            changes += difference(PLAIN, raw, text)
            if text:
                lines.append(Line(text, 0.0, 0.0, ((0, text),), kind=kind))
    # A damaged file may hold anything there, and its text was read.
    except Exception:
        area, drawn, damaged = 1.0, True, True
    return Page(
        number,
        tuple(lines),
        "".join(read),
        tuple(changes),
        seen.pictures / (area or 1.0),
        drawn,
        seen.unmapped,
        damaged,
    )


@dataclass
class _Piece:
    """Text that the file places at once: its direction, and its place along and across that.

    `exact` is the angle as it is, `angle` that of the line. `broke`: pypdf saw the line end here.
    """

    text: str
    size: float
    font: str
    exact: float
    angle: float
    x: float
    y: float
    broke: bool


@dataclass
class _Row:
    """Pieces that stand on one baseline."""

    y: float
    size: float
    font: str
    angle: float
    cells: list[list] = field(default_factory=list)
    broke: bool = False
    last: _Piece | None = None


class _Visitor:
    """What pypdf visits on a page: its pieces of text, and the area of its pictures.

    pypdf gives positions within a form (a drawing that the page uses) in the form's own measure, so
    the way from there to the page is kept here.
    """

    def __init__(self, page: Any):
        self.pieces: list[_Piece] = []
        self.pictures, self.unmapped = 0.0, 0
        self.frames: list[tuple[Matrix, Any]] = [(IDENTITY, page.get("/Resources"))]
        self.fonts: dict[int, bool] = {}

    @classmethod
    def over(cls, page: Any) -> _Visitor:
        seen = cls(page)
        page.extract_text(
            visitor_text=seen.text,
            visitor_operand_before=seen.before,
            visitor_operand_after=seen.after,
        )
        return seen

    def before(self, operator: bytes, operands: Any, cm: Any, tm: Any) -> None:
        from pypdf.generic import NameObject

        if operator == b"INLINE IMAGE":
            self.pictures += _stretch(_times(cm, self.frames[-1][0]))
        if operator != b"Do":
            return
        matrix, resources = self.frames[-1]
        inner = _times(cm, matrix)
        try:
            drawing = resources.get_object()["/XObject"].get_object()[operands[0]].get_object()
            if drawing["/Subtype"] == "/Image":
                self.pictures += _stretch(inner)
            else:
                own = [float(n) for n in drawing.get("/Matrix", IDENTITY)]
                inner = _times(own, inner)
                if "/Resources" not in drawing:  # it uses those of the page; pypdf reads nothing
                    drawing[NameObject("/Resources")] = resources
                resources = drawing["/Resources"]
        # A damaged file may hold anything here; pypdf logs it on its own way to the drawing.
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            pass
        self.frames.append((inner, resources))

    def after(self, operator: bytes, operands: Any, cm: Any, tm: Any) -> None:
        if operator == b"Do" and len(self.frames) > 1:
            self.frames.pop()

    def text(self, text: str, cm: Any, tm: Any, font: Any, size: float) -> None:
        name = str((font or {}).get("/BaseFont", ""))
        if TEX_FONT.match(name):
            text = text.translate(TEX_LIGATURES)
        text = legible(text)
        if not text.strip():
            if self.pieces and text:
                self.pieces[-1].text += " "
                self.pieces[-1].broke |= "\n" in text
            return
        a, b, c, d, x, y = _times(_times(tm, cm), self.frames[-1][0])
        if size < 0:
            a, b, c, d = -a, -b, -c, -d
        exact = round(math.degrees(math.atan2(b, a) if a or b else math.atan2(-c, d)), 1) % 360
        angle = 90.0 * round(exact / 90)
        angle = angle % 360 if abs(exact - angle) < SKEWED else exact
        along, up = _turned(x, y, angle)
        if a * d - b * c < 0:  # mirrored
            up = -up
        tall = abs(a * d - b * c) / math.hypot(a, b) if a or b else math.hypot(c, d)
        self.unmapped += len("".join(text.split())) * self._is_unmapped(font)
        self.pieces.append(
            _Piece(
                text.replace("\n", " "),
                abs(size) * (tall or 1.0),
                name,
                exact,
                angle,
                along,
                up,
                text.endswith("\n"),
            )
        )

    def _is_unmapped(self, font: Any) -> bool:
        """Whether a font has numbers for its glyphs and no list of the letters they are."""
        if font is None:  # pypdf writes U+FFFD for its letters
            return False
        if id(font) not in self.fonts:
            self.fonts[id(font)] = (
                font.get("/Subtype") == "/Type0"
                and "/ToUnicode" not in font
                and font.get("/Encoding") in ("/Identity-H", "/Identity-V")
            )
        return self.fonts[id(font)]


def _times(m: Any, n: Any) -> Matrix:
    """Return the matrix of first `m`, then `n`."""
    return (
        m[0] * n[0] + m[1] * n[2],
        m[0] * n[1] + m[1] * n[3],
        m[2] * n[0] + m[3] * n[2],
        m[2] * n[1] + m[3] * n[3],
        m[4] * n[0] + m[5] * n[2] + n[4],
        m[4] * n[1] + m[5] * n[3] + n[5],
    )


def _stretch(m: Matrix) -> float:
    return abs(m[0] * m[3] - m[1] * m[2])


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    """Return a position along text of that direction, and across it, counted upwards."""
    if angle in (0.0, 90.0, 180.0, 270.0):  # exact, so that a line's pieces have one height
        return {0.0: (x, y), 90.0: (y, -x), 180.0: (-x, -y), 270.0: (-y, x)}[angle]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return x * cos + y * sin, y * cos - x * sin


def _main_angle(pieces: list[_Piece]) -> float:
    """Return the angle of most of the text."""
    groups: dict[float, Counter[float]] = {}
    for piece in pieces:
        letters = len("".join(piece.text.split()))
        groups.setdefault(piece.angle, Counter())[piece.exact] += letters
    main = max(groups.values(), key=lambda group: group.total(), default=None)
    return main.most_common(1)[0][0] if main else 0.0


def _area(page: Any) -> float:
    return abs(float(page.mediabox.width) * float(page.mediabox.height))


def _turn(page: Any, angle: float) -> None:
    """Turn the content of a page, and move it so that its corner stays at the origin."""
    from pypdf import Transformation

    box = page.mediabox
    corners = [(float(x), float(y)) for x in (box.left, box.right) for y in (box.bottom, box.top)]
    places = [_turned(x, y, -angle % 360) for x, y in corners]
    turn = Transformation().rotate(angle)
    turn = turn.translate(-min(x for x, _ in places), -min(y for _, y in places))
    content = page["/Contents"]
    if hasattr(content, "operations"):
        content.operations = [(list(turn.ctm), b"cm"), *content.operations]


def _part_jumps(page: Any) -> None:
    """Let pypdf tell pieces of text apart that stand on one line with a wide gap between them.

    Within a text object it joins them with a space, and where columns stand beside each other reads
    across. A change of the coordinates that changes nothing ends a piece.
    """
    from pypdf.generic import ContentStream, NameObject

    try:
        content = ContentStream(page["/Contents"].get_object(), page.pdf, "bytes")
        parsed = content.operations
    except Exception:  # none, or damaged: what pypdf can read of it, it reads afterwards
        return
    operations, size, shown, place = [], 0.0, 0.0, (0.0, 0.0)
    for operands, operator in parsed:
        operations.append((operands, operator))
        if operator == b"BT":
            shown, place = 0.0, (0.0, 0.0)
        elif operator == b"Tf" and len(operands) == 2:
            size = _number(operands[1])
        elif operator in (b"Tj", b"TJ", b"'", b'"') and operands:
            parts = operands[-1] if isinstance(operands[-1], list) else operands[-1:]
            shown += sum(
                len(part) * 0.5 * size
                if isinstance(part, (str, bytes))
                else -_number(part) / 1000 * size
                for part in parts
            )
        elif operator in (b"Td", b"TD", b"Tm") and len(operands) in (2, 6):
            x, y = (_number(n) for n in operands[-2:])
            stretch = 1.0
            if operator == b"Tm":
                stretch = _number(operands[0])
                step, rise = x - place[0], y - place[1]
                place = (x, y)
            else:
                step, rise = x, y
                place = (place[0] + x, place[1] + y)
            if shown and not rise and step > (shown + WORDS_APART * size) * stretch > 0:
                operations.append((list(IDENTITY), b"cm"))
            shown = 0.0
    content.operations = operations
    page[NameObject("/Contents")] = content


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def estimate(text: str, size: float) -> float:
    """Estimate the length of a printed text in points; pypdf does not tell it."""
    ems = (
        1.0
        if WIDE.match(c)
        else 0.28
        if c in " iljtfrI.,:;'|!()[]"
        else 0.8
        if c in "mwMW"
        else 0.7
        if c.isupper()
        else 0.52
        for c in text
    )
    return sum(ems) * size


def _place(piece: _Piece, rows: list[_Row]) -> None:
    """Put a piece into its line: the last one of its direction, within 2 points of the baseline.

    Smaller letters right behind the text, raised or lowered by less than a line, are marks of that
    line ("m2", a footnote's number), and so are those right before it.
    """
    row = next((row for row in reversed(rows) if row.angle == piece.angle), None)
    away = abs(row.y - piece.y) if row else math.inf
    if row and away >= 2.0 and away <= RISE * max(row.size, piece.size):
        x, text = row.cells[-1]
        length = estimate(text, row.size)
        follows = 0.6 * length <= piece.x - x <= 1.4 * length + 0.5 * max(row.size, piece.size)
        leads = piece.size * SMALL >= row.size and len(text.strip()) <= 6
        if follows and (leads or piece.size <= SMALL * row.size):
            if row.broke:  # pypdf took the step for a line's end
                row.cells[-1][1] = text.removesuffix(" ")
            row.cells[-1][1] += " " * leads + piece.text
            row.broke, row.last = piece.broke, piece
            if leads:
                row.y, row.size, row.font = piece.y, piece.size, piece.font
            return
    if away >= 2.0:
        row = _Row(piece.y, piece.size, piece.font, piece.angle)
        rows.append(row)
    if row.cells and _continues(row, piece):
        row.cells[-1][1] += piece.text
    else:
        row.cells.append([piece.x, piece.text])
    row.size, row.broke, row.last = max(row.size, piece.size), piece.broke, piece


def _continues(row: _Row, piece: _Piece) -> bool:
    """Whether a piece goes on with the running text before it: another font, the next word."""
    if abs(row.cells[-1][0] - piece.x) < 0.1:  # pypdf does not say where it goes on
        return True
    long = estimate(row.last.text.strip(), row.last.size)
    gap = piece.x - row.last.x - long
    return piece.x > row.last.x and gap < 1.2 * piece.size - 0.1 * long


def _annotations(page: Any) -> list[tuple[str, str]]:
    """List the texts that stand on a page beside its content: values of a form, and notes.

    A ticked box is written as the name of its state; an empty field is left out.
    """
    found = []
    for entry in page.get("/Annots") or ():
        entry = entry.get_object()
        if not hasattr(entry, "get") or (kind := entry.get("/Subtype")) in ("/Popup", "/Link"):
            continue
        if kind == "/Widget":
            name, value = _field(entry)
            value = value or _appearance(page, entry)
            if value:
                found.append(("field", f"{name}: {value}" if name else value))
        else:
            note = entry.get("/Contents")
            note = str(note.get_object()) if note else _appearance(page, entry)
            if note.strip():
                found.append(("note", note))
    return found


def _parts(entry: Any) -> list[Any]:
    """List a part of a form and the wholes that it belongs to, from which it inherits."""
    parts, seen = [], set()
    while hasattr(entry, "get") and id(entry) not in seen:
        seen.add(id(entry))
        parts.append(entry)
        entry = entry.get("/Parent")
        entry = entry.get_object() if entry is not None else None
    return parts


def _field(entry: Any) -> tuple[str, str]:
    """Return the label and the value of a form's field."""
    parts = _parts(entry)

    def own(key: str) -> Any:
        value = next((part[key] for part in parts if key in part), None)
        return value.get_object() if hasattr(value, "get_object") else value

    label = own("/TU") or ".".join(str(p["/T"]) for p in reversed(parts) if "/T" in p)
    kind, value = own("/FT"), own("/V")
    if kind == "/Btn":
        state = str(parts[0].get("/AS") or value or "/Off")
        return str(label), "" if state == "/Off" else state.removeprefix("/")
    if kind == "/Ch":  # what is shown for a choice may be another text than its value
        shown = {
            str(pair[0].get_object()): str(pair[1].get_object())
            for pair in (option.get_object() for option in own("/Opt") or ())
            if isinstance(pair, list) and len(pair) == 2
        }
        chosen = [str(v.get_object()) for v in (value if isinstance(value, list) else [value]) if v]
        return str(label), ", ".join(shown.get(v, v) for v in chosen)
    if hasattr(value, "get_data"):  # long values stand in a stream
        return str(label), value.get_data().decode("utf-8", "replace")
    return str(label), "" if value is None or hasattr(value, "keys") else str(value)


def values_elsewhere(reader: Any) -> int:
    """Count the values of a form whose fields stand on no page."""
    form = reader.root_object.get("/AcroForm")
    form = form.get_object() if form is not None else {}
    placed = {
        id(part)
        for page in reader.pages
        for entry in page.get("/Annots") or ()
        for part in _parts(entry.get_object())
    }
    open_, seen, found = [*(form.get("/Fields") or ())], set(), 0
    while open_:
        entry = open_.pop().get_object()
        if id(entry) in seen or not hasattr(entry, "get"):
            continue
        seen.add(id(entry))
        open_ += entry.get("/Kids") or ()
        found += id(entry) not in placed and entry.get("/V") not in (None, "", "/Off")
    return found


def _appearance(page: Any, entry: Any) -> str:
    """Return the text that an annotation draws."""
    try:
        drawing = entry["/AP"].get_object()["/N"].get_object()
        return page.extract_xform_text(drawing).strip() if "/BBox" in drawing else ""
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""


def _is_drawn(page: Any) -> bool:
    """Check whether a page holds anything that can be seen."""
    content = page.get_contents()
    return content is not None and any(
        operator.decode("latin-1") in PAINTING for _, operator in content.operations
    )
