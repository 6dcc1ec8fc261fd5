"""The guide map: all 49 claims of the guide, and every place that it names is there."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import nbformat
import pytest

from qwen3lab import paths
from qwen3lab.course import claims, notebooks

DOCS = paths.ROOT / "docs"
SECTIONS = tomllib.loads((DOCS / "guide_map.toml").read_text(encoding="utf-8"))["section"]
CLAIMS = [claim for section in SECTIONS for claim in section.get("claim", [])]


def slug(heading: str) -> str:
    """The anchor of a heading, as MyST and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture(scope="module")
def places() -> set[str]:
    """Every place that may be named: cells of notebooks, rows of the claims table, headings of
    pages, files.
    """
    cells = {
        f"{path.name[:2]}:{cell.id}"
        for path in notebooks.every()
        for cell in nbformat.read(path, as_version=4).cells
    }
    pages = {
        f"page:{path.stem}#{slug(heading)}"
        for path in DOCS.glob("*.md")
        for heading in re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
    }
    files = {
        f"file:{path.relative_to(paths.ROOT).as_posix()}"
        for path in (paths.ROOT / "docker").iterdir()
    }
    return cells | pages | files | {f"claim:{name}" for name in claims.load()}


def test_it_has_all_claims_of_the_guide_in_order():
    assert [claim["number"] for claim in CLAIMS] == list(range(1, 50))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["title"])
def test_every_place_is_there(section: dict[str, Any], places: set[str]):
    rows = [section, *section.get("claim", []), *section.get("template", [])]
    assert not [where for row in rows for where in row["see"] if where not in places]
    assert all(row["see"] for row in rows[1:]), "each row has a place"


def test_rows_are_short_sentences():
    for claim in CLAIMS:
        assert set(claim) == {"number", "guide", "verdict", "answer", "see"}, claim["number"]
        assert claim["answer"].endswith(".") and len(claim["answer"]) < 200, claim["number"]
        assert len(set(claim["see"])) == len(claim["see"]), claim["number"]
