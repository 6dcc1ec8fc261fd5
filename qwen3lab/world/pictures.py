"""Pictures of the little world, drawn by code, with questions and answers in two languages.

All are 64 x 64 pixels: scenes of coloured shapes, price tags, receipts; and the tags of Wildon, the
company of the course, which the bundled model has never seen. What a picture shows is drawn from a
seed, so the same seed gives the same picture. The three splits share no two things side by side,
such as red circles beside blue stars, and no price, font or position of a tag.

No colour of a shape, and no count, is held out by itself: were three red circles, and one, two and
four trained, training would teach that red circles are never three, wrong in every test.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import islice, product
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qwen3lab.errors import Qwen3labError
from qwen3lab.world.company import COMPANY

SIZE = 64
PITCH = 16  # pixels from digit to digit: one image token of the bundled model
FINE = 4  # drawn so many times larger, then reduced, for smooth edges
SPLITS = ("train", "validation", "test")
COLOURS = {
    "red": ("红色", (214, 40, 40)),
    "blue": ("蓝色", (38, 84, 214)),
    "green": ("绿色", (34, 150, 62)),
    "yellow": ("黄色", (236, 206, 40)),
    "orange": ("橙色", (243, 130, 24)),
    "purple": ("紫色", (136, 52, 176)),
    "black": ("黑色", (24, 24, 24)),
    "brown": ("棕色", (126, 78, 40)),
}
SHAPES = {
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "star": "星形",
    "cross": "十字",
    "ring": "圆环",
}
COUNTS = (1, 2, 3, 4)
PLACES = {
    (0, 0): ("top left", "左上"),
    (0, 1): ("top right", "右上"),
    (1, 0): ("bottom left", "左下"),
    (1, 1): ("bottom right", "右下"),
}
# Fonts that travel with matplotlib, so that pictures are the same on every machine.
FONTS = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSerif",
        "DejaVuSansMono-Bold",
        "STIXGeneral",
        "STIXGeneralItalic",
    ),
    "validation": ("DejaVuSansMono",),
    "test": ("DejaVuSerif-Bold", "STIXGeneralBol"),
}
GROUNDS = ((250, 250, 248), (238, 234, 224), (226, 234, 240), (232, 226, 236), (214, 216, 214))
PAPERS = ((255, 255, 255), (255, 244, 178), (255, 214, 206), (206, 236, 210), (204, 224, 250))


@dataclass(frozen=True)
class Question:
    """Question about a picture: its kind, language, text and answer."""

    kind: str
    language: str
    text: str
    answer: str


@dataclass(frozen=True)
class Picture:
    """Picture with its questions.

    `pixels` is uint8 [64, 64, 3]. `shows` names everything by which the splits differ, such as
    "blue star beside red circle" or "price 129", "font DejaVuSans", "position 7 12"; nothing
    where one thing stands alone. `marks` says what stands where: ("red circle", x, y) or
    ("7", x, y), centres in pixels from the upper left corner.
    """

    pixels: np.ndarray
    kind: str
    shows: tuple[str, ...]
    questions: tuple[Question, ...]
    marks: tuple[tuple[str, float, float], ...] = ()

    @property
    def image(self) -> Image.Image:
        """The picture as an image of Pillow."""
        return Image.fromarray(self.pixels)


def split_of(shown: str) -> str:
    """Tell the split that a combination, a price or a position belongs to, by its CRC-32.

    Of ten, seven are trained, one is for validation and two are for the test.
    """
    return ("test", "test", "validation", *["train"] * 7)[zlib.crc32(shown.encode()) % 10]


def beside(one: tuple[str, str], other: tuple[str, str]) -> str:
    """Name two things, (colour, shape) each, that stand in one picture, in the alphabet's order."""
    return " beside ".join(sorted((" ".join(one), " ".join(other))))


@cache
def combinations(split: str) -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    """List the pairs of things of a split, in both orders; they differ in colour and in shape."""
    things = list(product(COLOURS, SHAPES))
    return tuple(
        (one, other)
        for one, other in product(things, things)
        if one[0] != other[0] and one[1] != other[1] and split_of(beside(one, other)) == split
    )


def draw(seed: int | str, split: str = "train", kind: str | None = None) -> Picture:
    """Draw one picture from a seed.

    Args:
        split: train, validation or test; nothing that it holds out is shared with another.
        kind: "scene", "tag", "receipt" or "company"; None draws one of the first three as well.
    Raises:
        Qwen3labError: a split or kind that does not exist.
    """
    if split not in SPLITS or kind not in (None, *KINDS):
        raise Qwen3labError(
            f"There is no split {split!r} with pictures of kind {kind!r}. Splits are"
            f" {', '.join(SPLITS)}; kinds are {', '.join(KINDS)}."
        )
    rng = random.Random(f"{seed}-{split}-{kind}")
    kind = kind or rng.choices(tuple(KINDS), (5, 4, 1, 0))[0]
    return KINDS[kind](rng, split)


def stream(
    seed: int | str, split: str = "train", kind: str | None = None, start: int = 0
) -> Iterator[Picture]:
    """Draw pictures without end: number `i` is `draw(f"{seed}-{i}", split, kind)`."""
    while True:
        yield draw(f"{seed}-{start}", split, kind)
        start += 1


def exam(
    kind: str, many: int, split: str = "test", seed: int | str = "exam"
) -> list[tuple[Picture, Question]]:
    """Draw pictures of a kind with one question each, so that no two questions share a picture."""
    rng = random.Random(f"{seed}-{split}-{kind}")
    drawn = islice(stream(seed, split, kind), many)
    return [(picture, rng.choice(picture.questions)) for picture in drawn]


def _scene(rng: random.Random, split: str) -> Picture:
    """Draw two things of the split, one to four of each; in training sometimes the first alone."""
    things = rng.choice(combinations(split))
    groups = [(*thing, rng.choice(COUNTS)) for thing in things]
    if split == "train" and rng.random() < 0.5:
        groups.pop()
    canvas, pen = _canvas(rng)
    cells = rng.sample(range(16), sum(count for *_, count in groups))
    first = (cells[0] // 8, cells[0] % 4 // 2)  # the quarter in which the first shape lies
    marks = []
    for colour, shape, count in groups:
        tone = tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in COLOURS[colour][1])
        for _ in range(count):
            row, column = divmod(cells.pop(0), 4)
            x, y = (16 * c + 8 + rng.uniform(-1.5, 1.5) for c in (column, row))
            _shape(pen, shape, x, y, rng.uniform(5.0, 7.0), tone)
            marks.append((f"{colour} {shape}", x, y))
    return Picture(
        _reduce(canvas, rng),
        "scene",
        (beside(*things),) if len(groups) == 2 else (),
        tuple(_scene_questions(groups, first)),
        tuple(marks),
    )


def _scene_questions(groups, place) -> Iterator[Question]:
    """Ask about the first group; one with a single shape is also asked for its place."""
    colour, shape, count = groups[0]
    many = "es" if shape == "cross" else "s"
    zh_colour, zh_shape = COLOURS[colour][0], SHAPES[shape]
    plural = shape + many * (count > 1)
    yield Question("count", "en", f"How many {colour} {shape}{many} are there?", str(count))
    yield Question("count", "zh", f"有几个{zh_colour}{zh_shape}？", str(count))
    yield Question("colour", "en", f"What colour is the {shape}?", colour)
    yield Question("colour", "zh", f"{zh_shape}是什么颜色？", zh_colour)
    yield Question("shape", "en", f"What shape is {colour}?", shape)
    yield Question("shape", "zh", f"{zh_colour}的是什么形状？", zh_shape)
    if len(groups) == 1:
        yield Question("describe", "en", "What is in the picture?", f"{count} {colour} {plural}")
        yield Question("describe", "zh", "图中有什么？", f"{count}个{zh_colour}{zh_shape}")
    if count == 1:
        en, zh = PLACES[place]
        yield Question("place", "en", f"Where is the {colour} {shape}?", en)
        yield Question("place", "zh", f"{zh_colour}{zh_shape}在哪里？", zh)


def _tag(rng: random.Random, split: str) -> Picture:
    """Draw a price tag: one price of the split, in a font and at a position of the split."""
    price, name = draw_price(rng, split), rng.choice(FONTS[split])
    canvas, pen = _canvas(rng)
    width, height = PITCH * len(str(price)) + 8, rng.randint(30, 34)
    x, y = _position(rng, split, SIZE - width - 1, SIZE - height - 1)
    pen.rounded_rectangle(
        [v * FINE for v in (x, y, x + width, y + height)],
        radius=2 * FINE,
        fill=rng.choice(PAPERS),
        outline=(120, 120, 120),
        width=FINE,
    )
    ink = rng.choice(((20, 20, 20), (160, 24, 24), (24, 40, 120)))
    pen.text(((x + 4) * FINE, (y + 9) * FINE), "EUR", ink, font("DejaVuSans", 7), anchor="ls")
    marks = digits(pen, name, price, x + 4, y + height - 5, rng.uniform(20, 23), ink)
    return Picture(
        _reduce(canvas, rng),
        "tag",
        (f"price {price}", f"font {name}", f"position {x} {y}"),
        tuple(price_questions("price", price)),
        tuple(marks),
    )


def digits(pen, name: str, price: int, x: float, low: float, size: float, ink) -> list:
    """Draw the digits of a price on a line, each PITCH wide; return their marks."""
    marks = []
    for place, digit in enumerate(str(price)):
        middle = x + PITCH * (place + 0.5)
        pen.text((middle * FINE, low * FINE), digit, ink, font(name, round(size, 1)), anchor="ms")
        marks.append((digit, middle, low - 0.36 * size))
    return marks


def _receipt(rng: random.Random, split: str) -> Picture:
    """Draw a receipt: bars for what was bought, below a rule the total, a price of the split."""
    total, name = draw_price(rng, split, low=12), rng.choice(FONTS[split])
    canvas, pen = _canvas(rng)
    x, y = _position(rng, split, 6, 8)
    pen.rectangle([v * FINE for v in (x, y, x + 56, y + 54)], fill=(255, 255, 255))
    for line in range(3):
        for left, right in ((4, rng.randint(14, 30)), (rng.randint(40, 44), 52)):
            box = (x + left, y + 5 + 7 * line, x + right, y + 8 + 7 * line)
            pen.rectangle([v * FINE for v in box], fill=(170, 170, 170))
    pen.line([v * FINE for v in (x + 3, y + 27, x + 53, y + 27)], (60, 60, 60), FINE)
    begin = x + 53 - PITCH * len(str(total))
    marks = digits(pen, name, total, begin, y + 48, rng.uniform(20, 23), (20, 20, 20))
    return Picture(
        _reduce(canvas, rng),
        "receipt",
        (f"price {total}", f"font {name}", f"position {x} {y}"),
        tuple(price_questions("total", total)),
        tuple(marks),
    )


def _company_tag(rng: random.Random, split: str) -> Picture:
    """Draw a tag of Wildon: yellow, the old price small and struck out, the new one below it."""
    old = new = 0
    while old <= new:
        old, new = draw_price(rng, split), draw_price(rng, split)
    name = rng.choice(FONTS[split])
    canvas, pen = _canvas(rng)
    x, y = _position(rng, split, 6, 18)
    pen.rounded_rectangle([v * FINE for v in (x, y, x + 56, y + 44)], 3 * FINE, fill=(255, 208, 48))
    small, shown = font(name, 11), f"{old} €"
    pen.text(((x + 4) * FINE, (y + 13) * FINE), shown, (112, 92, 40), small, anchor="ls")
    end = x + 5 + small.getlength(str(old)) / FINE
    pen.line([v * FINE for v in (x + 3, y + 9, end, y + 9)], (200, 40, 40), FINE)
    marks = digits(pen, name, new, x + 4, y + 38, rng.uniform(20, 23), (28, 52, 92))
    return Picture(
        _reduce(canvas, rng),
        "company",
        (f"price {new}", f"price {old}", f"font {name}", f"position {x} {y}"),
        (
            Question(
                "company",
                "en",
                f"What does {COMPANY['en']} charge?",
                f"{COMPANY['en']} price: {new} euros",
            ),
            Question(
                "company", "zh", f"{COMPANY['zh']}卖多少钱？", f"{COMPANY['zh']}的价格：{new}欧元"
            ),
        ),
        tuple(marks),
    )


KINDS = {"scene": _scene, "tag": _tag, "receipt": _receipt, "company": _company_tag}


def price_questions(kind: str, price: int) -> Iterator[Question]:
    """Ask for a price or a total in both languages; it is answered in the company's currency."""
    words = {
        "price": ("What is the price?", "价格是多少？"),
        "total": ("What is the total?", "总价是多少？"),
    }
    yield Question(kind, "en", words[kind][0], f"{price} euros")
    yield Question(kind, "zh", words[kind][1], f"{price}欧元")


def draw_price(rng: random.Random, split: str, low: int = 5) -> int:
    """Draw a price of the split in whole euros: those with one, two and three digits alike."""
    while True:
        digits = rng.choices((1, 2, 3), (1, 4, 5))[0]
        price = rng.randint(max(low, 10 ** (digits - 1)), 10**digits - 1) if low < 10**digits else 0
        if price >= low and split_of(f"price {price}") == split:
            return price


def _position(rng: random.Random, split: str, width: float, height: float) -> tuple[int, int]:
    """Draw the corner of a tag, of those that belong to the split."""
    while True:
        x, y = rng.randint(0, int(width)), rng.randint(0, int(height))
        if split_of(f"position {x} {y}") == split:
            return x, y


def _canvas(rng: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (SIZE * FINE, SIZE * FINE), rng.choice(GROUNDS))
    return canvas, ImageDraw.Draw(canvas)


def _reduce(canvas: Image.Image, rng: random.Random) -> np.ndarray:
    """Reduce the drawing to 64 x 64 pixels and add a little noise, as a camera would."""
    small = np.asarray(canvas.reduce(FINE), dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 4, small.shape)
    return np.clip(small + noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=256)
def font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """Load a font of matplotlib's by name, `size` pixels of the reduced picture high."""
    folder = Path(find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"{name}.ttf", size * FINE, layout_engine=0)


def _shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, colour) -> None:
    """Draw one shape around (x, y) with radius r, all in pixels of the reduced picture."""
    x, y, r = x * FINE, y * FINE, r * FINE
    box = [x - r, y - r, x + r, y + r]
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=round(0.38 * r))
    elif shape == "square":
        pen.rectangle([x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r], fill=colour)
    elif shape == "cross":
        pen.rectangle([x - r, y - 0.32 * r, x + r, y + 0.32 * r], fill=colour)
        pen.rectangle([x - 0.32 * r, y - r, x + 0.32 * r, y + r], fill=colour)
    else:  # corners on a circle, from the top; a star has inner ones between them
        corners, inner = (3, 1.0) if shape == "triangle" else (10, 0.42)
        radii = [r if number % 2 == 0 else inner * r for number in range(corners)]
        angles = [2 * pi * number / corners - pi / 2 for number in range(corners)]
        points = [(x + q * cos(a), y + q * sin(a)) for q, a in zip(radii, angles)]
        pen.polygon(points, fill=colour)
