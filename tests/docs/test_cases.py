"""docs/cases.md: its tables are what the benchmarks' records say."""

from __future__ import annotations

import copy
import importlib.util

import pytest

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.results import records

spec = importlib.util.spec_from_file_location("cases", paths.ROOT / "docs" / "cases.py")
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
PAGE = (paths.ROOT / "docs" / "cases.md").read_text(encoding="utf-8")
RECORDS = {name: records.read(name) for name in ("rag", "tone", "assistant")}


def line(text: str, begins: str) -> list[str]:
    """The cells of the table row that begins so."""
    return next(
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in text.splitlines()
        if row.startswith(f"| {begins}")
    )


def test_the_page_is_what_the_records_say():
    assert cases.fill(PAGE) == PAGE, "run `python docs/cases.py`"


def test_the_figures_are_counted_from_the_records():
    tone, maths, rag = RECORDS["tone"], RECORDS["assistant"], RECORDS["rag"]
    marks = [run["all"].count("1") / 216 for run in tone["runs"]["with rehearsal"]]
    cells = line(PAGE, "all three marks (216)")
    assert cells[1].startswith("0.00 (0.00 to") and cells[2].startswith(
        f"{sum(marks) / len(marks):.2f} ("
    )
    assert f"{min(marks):.2f} to {max(marks):.2f} by seed" in cells[2]
    kept = tone["before"]["test"]["old"].count("1") / 240
    assert line(PAGE, "old tasks (240)")[1].startswith(f"{kept:.2f} (")
    cells = line(PAGE, "Python functions")
    assert cells[1].startswith("0.00 (") and cells[2].startswith(
        f"{maths['after']['functions']['correct'] / maths['after']['functions']['n']:.2f} ("
    )
    for name, label in (
        ("base", "the model alone"),
        ("RAG", "retrieval"),
        ("both", "fine-tuned, with retrieval"),
    ):
        codes = rag["systems"][name]["codes"]
        n = len(codes[0])
        assert n >= 300
        right, invented = (
            sum(run.count(letter) for run in codes) / len(codes) / n for letter in "RH"
        )
        cells = line(PAGE, f"{label} |")
        assert cells[1].startswith(f"{right:.2f} (") and cells[2].startswith(f"{invented:.2f} (")


def test_a_changed_number_or_a_lost_marker_is_seen():
    changed = copy.deepcopy(RECORDS)
    assert cases.fill(PAGE, changed) == PAGE
    changed["tone"]["before"]["test"]["all"] = "1" * 54 + "0" * 162
    assert line(cases.fill(PAGE, changed), "all three marks")[1].startswith("0.25 (")
    with pytest.raises(Qwen3labError, match="has no place for 'tone'. Put the two lines"):
        cases.fill(PAGE.replace("<!-- tone -->", ""))
