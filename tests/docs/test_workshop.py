"""The teacher's kit: section times as measured, a page that agrees with them, agendas that fit, and
an answer sheet with every exercise.
"""

import importlib.util
import json
import re
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qwen3lab import exercises, paths
from qwen3lab.course import cli, notebooks, section_times
from qwen3lab.errors import Qwen3labError
from qwen3lab.exercises import answer_sheet

FIVE = (
    "# Toy\n\nTwo words: `run()`. | - |",
    "## Build: a thing\n\nOne **bold** 中文 word.\n\n```python\n# no heading\nx = 1\n```",
    "**Exercise 1.1.** Do it.\n\n**Exercise 1.2** (demanding). More.",
    "## Look\n\nIt.\n\n## Try\n\nNothing.",
)


@pytest.fixture(scope="module")
def workshop():
    """docs/workshop.py as a module."""
    spec = importlib.util.spec_from_file_location("workshop", paths.ROOT / "docs" / "workshop.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["workshop"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def toy(folder, name="01_toy.ipynb", bad=False):
    """A notebook of four headings, with cells that sleep."""
    first, second, exercise, last = (
        new_markdown_cell(text, id=f"text-{number}") for number, text in enumerate(FIVE)
    )
    sleep = [
        new_code_cell(f"import time\ntime.sleep({seconds})", id=f"cell-{number}")
        for number, seconds in enumerate((0, 0.5, 0.3))
    ]
    cells = [
        first,
        sleep[0],
        second,
        sleep[1],
        exercise,
        sleep[2],
        last,
        *([new_code_cell("1 / 0", id="bad")] if bad else []),
    ]
    nbformat.write(new_notebook(cells=cells), folder / name)
    return folder / name


def test_sections_count_words_cells_and_exercises(tmp_path):
    read = nbformat.read(toy(tmp_path), as_version=4)
    code = (cell for cell in read.cells if cell.cell_type == "code")
    for cell, seconds in zip(code, (1, 2, 4), strict=True):  # as nbclient notes them
        cell.metadata["execution"] = {
            "iopub.execute_input": "2026-01-02T00:00:59.000000Z",
            "shell.execute_reply": f"2026-01-02T00:01:{seconds - 1:02}.000000Z",
        }
    found = section_times.split(read)
    assert [(one.id, one.title) for one in found] == [
        ("text-0", "Toy"),
        ("text-1", "Build: a thing"),
        ("text-3", "Look"),
        ("text-3.2", "Try"),
    ]
    assert [(one.cells, one.seconds, one.exercises) for one in found] == [
        (1, 1.0, 0),
        (2, 6.0, 2),
        (0, 0.0, 0),
        (0, 0.0, 0),
    ]
    # By hand: "# Toy", "Two words: `run()`." make 4; code in a fence does not count, nor what has
    # no letter or digit.
    assert [one.words for one in found] == [4, 3 + 4 + 4 + 4, 2, 2]


def test_a_run_measures_the_sections_and_keeps_what_it_did_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    toy(tmp_path), toy(tmp_path, "02_bad.ipynb", bad=True)
    file = tmp_path / "times.json"
    old = {
        "02_bad": {"measured": {}, "seconds": 1.0, "sections": []},
        "09_gone": {"measured": {}, "seconds": 1.0, "sections": []},
    }
    file.write_text(json.dumps(old))
    assert (
        cli.main(["run", "--into", str(tmp_path / "out"), "--times", str(file)]) == 1
    )  # the second fails
    read = section_times.load(file)
    assert list(read) == ["01_toy", "02_bad"] and read["02_bad"] == old["02_bad"]
    first, build, *_ = [section["seconds"] for section in read["01_toy"]["sections"]]
    assert first < 0.4 and 0.8 <= build < 1.6 and first + build < read["01_toy"]["seconds"]
    told = read["01_toy"]["measured"]
    assert (
        told["profile"] == "tiny"
        and told["notebooks at a time"] == 1
        and re.fullmatch(r"\d{4}-\d\d-\d\d", told["date"])
    )
    assert section_times.stale(file, tmp_path) == [
        "02_bad: section 'Toy' differs; run `make times`"
    ]


def test_times_that_cannot_be_read(tmp_path):
    with pytest.raises(
        Qwen3labError,
        match=r"There are no section times \(none.json is missing\). Run `make times`.",
    ):
        section_times.load(tmp_path / "none.json")
    for text, words in (
        ("{", "are no valid JSON"),
        ("[]", "holds no section times"),
        ('{"01": {}}', "holds no section times"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(Qwen3labError, match=words):
            section_times.load(tmp_path / "bad.json")


TIMES = {
    "01_toy": {
        "measured": {
            "date": "2026-01-02",
            "machine": "m",
            "profile": "tiny",
            "notebooks at a time": 1,
        },
        "seconds": 100.0,
        "sections": [
            {"id": "a", "title": "A", "cells": 2, "seconds": 30.0, "words": 240, "exercises": 0},
            {"id": "b", "title": "B", "cells": 1, "seconds": 60.0, "words": 60, "exercises": 3},
        ],
    }
}


def test_an_agenda_adds_up(workshop, monkeypatch):
    block = workshop.Block
    blocks = (
        block("all", "01"),
        block("some", "01", "b", 1),
        block("rest", minutes=15),
        block("none", "01", "a"),
    )
    monkeypatch.setattr(workshop, "AGENDAS", {"toy": (90, blocks)})
    monkeypatch.setattr(workshop, "WORDS_A_MINUTE", 120)
    monkeypatch.setattr(workshop, "EXERCISE_MINUTES", 6)
    # 1.5 + 2.5 + 18, 1 + 0.5 + 6, 15, 0.5 + 2: up to the next five 25, 10, 15 and 5.
    assert [workshop.minutes(one, TIMES) for one in blocks] == [
        (1.5, 2.5, 18, 0),
        (1.0, 0.5, 6, 0),
        (0, 0, 0, 15),
        (0.5, 2.0, 0, 0),
    ]
    table = workshop.agenda("toy", TIMES).splitlines()
    assert table[2:6] == [
        "| 0:00 | all | 01 | 1.5 | 2 | 18 | 25 |",
        "| 0:25 | some | 01 | 1.0 | 0 | 6 | 10 |",
        "| 0:35 | rest |  | | | | 15 |",
        "| 0:50 | none | 01 | 0.5 | 2 | 0 | 5 |",
    ]
    assert table[-1] == "It ends after 0:55 hours; 35 of 90 minutes are left for questions."


def test_what_an_agenda_cannot_find_is_told(workshop, monkeypatch):
    with pytest.raises(
        Qwen3labError, match="Notebook 01 has no section 'c' for the block 'x'. Choose from: a, b."
    ):
        workshop.sections(workshop.Block("x", "01", "c"), TIMES)
    with pytest.raises(Qwen3labError, match="There are no times of notebook 02. Run `make times`."):
        workshop.sections(workshop.Block("x", "02"), TIMES)
    monkeypatch.setattr(workshop, "AGENDAS", {})
    with pytest.raises(Qwen3labError, match="The page has no place for 'totals'"):
        workshop.fill("# page", TIMES)


def test_the_page_is_what_the_data_give_and_the_data_are_of_these_notebooks(workshop):
    page, times = workshop.PAGE.read_text(encoding="utf-8"), section_times.load()
    assert workshop.fill(page, times) == page, "run `python docs/workshop.py`"
    assert section_times.stale() == []
    assert list(times) == [path.stem for path in notebooks.find()]
    assert all(told["seconds"] < 60 and told["peak MB"] < 3000 for told in times.values())


def test_the_agendas_fit_and_the_long_one_has_everything(workshop):
    times = section_times.load()
    assert [(name, room) for name, (room, _) in workshop.AGENDAS.items()] == [
        ("half a day", 240),
        ("one day", 480),
        ("first of two days", 480),
        ("second of two days", 480),
    ]
    for name, (room, blocks) in workshop.AGENDAS.items():
        assert 0.7 * room <= sum(workshop.length(block, times) for block in blocks) <= room, name
    both = [
        block
        for name in ("first of two days", "second of two days")
        for block in workshop.AGENDAS[name][1]
        if block.notebook
    ]
    assert [block.notebook for block in both] == [name[:2] for name in times]
    assert all(not block.sections and block.exercises is None for block in both)


def test_the_answer_sheet_has_all_of_every_exercise(tmp_path, capsys):
    assert answer_sheet.main(["--out", str(tmp_path / "new" / "answers.md")]) == 0
    text = (tmp_path / "new" / "answers.md").read_text(encoding="utf-8")
    found = exercises.every()
    assert capsys.readouterr().out == f"answers.md: {len(found)} exercises\n"
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == [one.title for one in found]
    for part, one in zip(re.split(r"^### ", text, flags=re.MULTILINE)[1:], found, strict=True):
        assert all(words in part for words in (one.task, one.stub, one.source, one.why, *one.hints))
        assert part.count("```python") == 2 + len(one.mistakes)
        assert all(f"- {mistake.message}\n" in part for mistake in one.mistakes)
    (tmp_path / "file").write_text("")
    with pytest.raises(Qwen3labError, match="The answer sheet 'answers.md' could not be written"):
        answer_sheet.main(["--out", str(tmp_path / "file" / "answers.md")])


def test_the_sheet_shows_a_mistake_as_its_code():
    one = next(one for one in exercises.every() if one.id == "ex03.merge")
    code = "  ```python\n  def _no_scale(W, A, B, alpha):\n      return W + B @ A\n  ```\n"
    assert (
        f"- The scale is missing: the detour counts alpha / r times.\n\n{code}"
        in answer_sheet.sheet([one])
    )
