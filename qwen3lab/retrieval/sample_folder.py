"""Write a folder of ten documents to try a knowledge base on: five kinds, English and Chinese.

The facts are Wildon's, of the little world. The PDF files are pages of the handbook; one text file
is written in GBK, as many programs in China do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3lab import paths
from qwen3lab.retrieval.damaged_pdf import excerpt
from qwen3lab.world import company, things
from qwen3lab.world.things import ATTRIBUTES, Thing

KEYS = {"en": ("Shops", "Name", "Prices", "Rules"), "zh": ("门店", "名称", "价格", "规定")}
PAGES = {"en": range(5, 8), "zh": range(23, 24)}  # of the handbook, counted from 0


@dataclass(frozen=True)
class Sample:
    """A question that one file answers: the file, the answer and its page or headings."""

    file: str
    question: str
    answer: str
    where: str


def make(folder: str | Path) -> list[Sample]:
    """Write the ten files below `folder`, and return a question for each.

    The Chinese files are in the subfolder `zh`.
    """
    samples: list[Sample] = []
    for language in ("en", "zh"):
        home = Path(folder) / ("zh" if language == "zh" else "")
        home.mkdir(parents=True, exist_ok=True)
        inside = "zh/" if language == "zh" else ""
        shops, name, prices, rules = KEYS[language]
        of = lambda kind: [thing for thing in _things(language) if thing.kind == kind]

        products = of("product")
        (home / "catalogue.pdf").write_bytes(excerpt(paths.HANDBOOK, PAGES[language]))
        page = "page 2" if language == "en" else "page 1"
        samples.append(_sample(inside + "catalogue.pdf", products[1], page))

        places = of("place")[:4]
        keys = ("town", "opens", "closes", "head")
        text = _markdown(shops, [name, *_labels("place", keys, language)], places, keys)
        (home / "shops.md").write_text(text, encoding="utf-8")
        samples.append(_sample(inside + "shops.md", places[1], shops, "opens"))

        people = of("person")[:5]
        (home / "people.html").write_text(_page(people, language), encoding="utf-8")
        samples.append(_sample(inside + "people.html", people[2], people[2].name))

        texts = [company.tell(thing)[0] for thing in of("rule")[:5]]
        encoding = "gb18030" if language == "zh" else "utf-8"
        (home / "rules.txt").write_text("\n\n".join([rules, *texts]), encoding=encoding)
        samples.append(_sample(inside + "rules.txt", of("rule")[1], rules))

        _word(home / "prices.docx", prices, name, products[-3:], language)
        samples.append(_sample(inside + "prices.docx", products[-2], prices, "price"))
    return samples


def _things(language: str) -> Sequence[Thing]:
    return company.ENGLISH if language == "en" else company.CHINESE


def _labels(kind: str, keys: Sequence[str], language: str) -> list[str]:
    return [ATTRIBUTES[kind, key].label[language] for key in keys]


def _sample(file: str, thing: Thing, where: str, key: str = "") -> Sample:
    key = key or next(iter(thing.values))
    return Sample(file, things.ask(thing, key, 0), thing.values[key], where)


def _markdown(title: str, names: list[str], rows: Sequence[Thing], keys: Sequence[str]) -> str:
    lines = [names, ["---"] * len(names)]
    lines += [[thing.name, *(thing.values.get(key, "") for key in keys)] for thing in rows]
    return f"# {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _page(people: Sequence[Thing], language: str) -> str:
    parts = [f"<h2>{thing.name}</h2>\n<p>{company.tell(thing)[0]}</p>" for thing in people]
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8"><title>-</title>'
        "<style>p {margin: 0}</style></head><body>\n<nav>home | people</nav>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _word(path: Path, title: str, name: str, products: Sequence[Thing], language: str) -> None:
    import docx

    document = docx.Document()
    document.add_heading(title, level=1)
    table = document.add_table(rows=0, cols=2)
    lines = [(name, *_labels("product", ["price"], language))]
    for line in [*lines, *((thing.name, thing.values["price"]) for thing in products)]:
        for cell, text in zip(table.add_row().cells, line):
            cell.text = text
    document.save(str(path))
