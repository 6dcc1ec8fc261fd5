"""Handbook text as blocks: the hand-written chapters with facts and tables inserted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qwen3lab.errors import Qwen3labError
from qwen3lab.world.company import BY_NAME, CHINESE, COMPANY, ENGLISH, Fact, tell

FOLDER = Path(__file__).parent

WEEK = (
    ("Day", "Morning", "Afternoon"),
    ("Monday", "Welcome, keys, a walk through the house", "Desk, reading this book"),
    ("Tuesday", "Safety round with the whole group", "Packing parcels"),
    ("Wednesday", "Behind the counter", "Behind the counter"),
    ("Thursday", "In the van with a driver", "Letters to customers, with a colleague"),
    ("Friday", "On the river, weather permitting", "Cake, questions, a look back"),
)
YEAR = (
    ("Month", "What we do", "Good to know"),
    ("January", "Counting everything on every shelf", "Wear a warm pullover"),
    ("February", "Mending week for old customers", "Soup for all at noon"),
    ("March", "New catalogue, new edition of this book", "Send us your corrections"),
    ("April", "First boats go into the water", "The bell may ring any evening"),
    ("May", "Visits of schools", "Every class brings a song"),
    ("June", "The long nights, many orders", "Nobody plans a move now"),
    ("July", "Half of us on holiday", "The other half waters the plants"),
    ("August", "The other half on holiday", "Answer letters for two"),
    ("September", "Bathtub race, open house", "Bring your family"),
    ("October", "Boats come out and are oiled", "Old clothes, please"),
    ("November", "Courses, first aid, swimming", "A good month to learn"),
    ("December", "Lanterns in the windows", "The winter table"),
)


@dataclass
class Block:
    """Block of a page: `kind` is chapter, section, paragraph, facts, bullet, note or table.

    `facts` maps the facts that the block tells to the sentence or table row that tells each.
    """

    kind: str
    text: str = ""
    language: str = "en"
    rows: tuple[tuple[str, ...], ...] = ()
    facts: dict[Fact, str] = field(default_factory=dict)


def _prices(things, chapters: dict[str, str], head: tuple[str, ...], name: str) -> Block:
    rows, facts = [head], {}
    order = {name: i for i, name in enumerate(chapters)}
    for thing in sorted((t for t in things if t.kind == "product"), key=lambda t: order[t.name]):
        rows.append(
            (
                thing.name,
                *((chapters[thing.name],) if len(head) == 3 else ()),
                thing.values["price"],
            )
        )
        facts[Fact(thing, "price")] = " ".join(rows[-1])
    return Block("table", name, things[0].language, tuple(rows), facts)


def _phones(things, head: tuple[str, ...], name: str) -> Block:
    rows, facts = [head], {}
    for thing in things:
        if "phone" in thing.values:
            rows.append((thing.name, thing.values["role"], thing.values["phone"]))
            facts |= {Fact(thing, key): " ".join(rows[-1]) for key in ("role", "phone")}
    return Block("table", name, things[0].language, tuple(rows), facts)


def parse(text: str, language: str) -> list[Block]:
    """Parse a chapter file into blocks.

    `#` chapter, `##` section, `-` bullet, `>` note, `@thing NAME`, `@table NAME`, otherwise a
    paragraph.

    Raises:
        Qwen3labError: a thing or a table that does not exist.
    """
    blocks, chapter, chapters = [], "", {}
    for line in filter(None, (raw.strip() for raw in text.splitlines())):
        mark, _, rest = line.partition(" ")
        if mark == "#":
            chapter = rest
            blocks.append(Block("chapter", rest, language))
        elif mark == "##":
            blocks.append(Block("section", rest, language))
        elif mark == "@thing":
            if rest not in BY_NAME:
                raise Qwen3labError(
                    f"The handbook speaks of {rest!r}, which facts.py does not know. Add it there"
                    " or correct the name."
                )
            chapters[rest] = chapter
            paragraph, sentences = tell(BY_NAME[rest])
            blocks.append(
                Block(
                    "facts",
                    paragraph,
                    language,
                    facts={Fact(BY_NAME[rest], k): s for k, s in sentences.items()},
                )
            )
        elif mark == "@table":
            tables = {
                "week": lambda: Block("table", rest, language, WEEK),
                "year": lambda: Block("table", rest, language, YEAR),
                "prices": lambda: _prices(ENGLISH, chapters, ("Product", "Chapter", "Price"), rest),
                "phones": lambda: _phones(ENGLISH, ("Name", "Job", "Extension"), rest),
                "prices-zh": lambda: _prices(CHINESE, chapters, ("产品", "价格"), rest),
                "phones-zh": lambda: _phones(CHINESE, ("姓名", "职务", "分机"), rest),
            }
            if rest not in tables:
                raise Qwen3labError(
                    f"The handbook asks for a table {rest!r} that book.py does not make. Choose one"
                    f" of {', '.join(tables)}."
                )
            blocks.append(tables[rest]())
        else:
            kind = {"-": "bullet", ">": "note"}.get(mark, "paragraph")
            blocks.append(Block(kind, line if kind == "paragraph" else rest, language))
    return blocks


def blocks() -> list[Block]:
    """Return all blocks of the handbook, English chapters first."""
    return [
        block
        for language in ("en", "zh")
        for block in parse(
            (FOLDER / f"handbook.{language}.md").read_text(encoding="utf-8"), language
        )
    ]


TITLE = f"{COMPANY['en']} Staff Handbook"
