"""The record of the answers as tables: counted by hand from a made-up record, and the real one is
whole and fits the questions.
"""

from __future__ import annotations

import pytest

from qwen3lab import paths, plots
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import wilson
from qwen3lab.results import rag

TEST = tasks.load("handbook", "test")


def pick(keep, count):
    return [row for row in TEST if keep(row)][:count]


QUESTIONS = [
    *pick(rag.KINDS["taught"], 2),
    *pick(rag.KINDS["not taught"], 1),
    *pick(rag.KINDS["gap"], 1),
    *pick(rag.KINDS["stranger"], 1),
]


@pytest.fixture(scope="module")
def record():
    """Five questions: two taught, one not, a gap and a stranger."""
    search = {"n": 2, "recall@1": 1.0, "recall@2": 1.0}
    data = {
        "questions": [row["id"] for row in QUESTIONS],
        "scores": [0.9, 0.8, 0.7, 0.6, 0.2],
        "systems": {
            "base": {"codes": ["HHHHH"]},
            "RAG": {"codes": ["RRRRH"], "cited": ["111-0"]},
            "both": {"codes": ["RRHHH", "RRRRH"], "cited": ["11000", "111-0"]},
        },
        "by k": {"1": {"RAG": {"codes": ["RRRRH"]}}, "3": {"RAG": {"codes": ["RRDHH"]}}},
        "chosen": {"thresholds": {"RAG": None, "facts": 0.65}, "k": {}},
        "validation": {"scores": [0.9, 0.3, 0.5]},
        "grid": [
            {
                "tokens": 50,
                "k": 1,
                "codes": "RHR",
                "cited": "10-",
                "read": 1.0,
                "lost by cutting": 1,
                **search,
            },
            {
                "tokens": 50,
                "k": 2,
                "codes": "RRR",
                "cited": "11-",
                "read": 1.9,
                "lost by cutting": 0,
                **search,
            },
        ],
        "search": {"all": search},
        "waiting": {
            "here": {
                "n": 4,
                "all": {"p50": 80.0, "p95": 120.0, "longest": 200.0},
                "share under 300": 1.0,
            }
        },
    }
    return rag.Record(data)


def test_systems_and_kinds_are_counted(record):
    table = record.systems(("base", "RAG", "both"))
    assert table.accuracy.tolist() == pytest.approx(
        [0, 4 / 5, 3 / 5]
    ) and table.hallucination.tolist() == pytest.approx([1, 1 / 5, 2 / 5])
    assert tuple(table.loc["both", ["accuracy low", "accuracy high"]]) == pytest.approx(
        wilson(3, 5)
    )
    assert table.loc["both", ["lowest", "highest", "cited"]].tolist() == pytest.approx(
        [2 / 5, 4 / 5, 5 / 9]
    )
    kinds = record.kinds(("RAG", "both"))
    assert kinds.loc["RAG"].tolist() == [1, 1, 1, 0] and kinds.loc["both"].tolist() == [
        1,
        0.5,
        0.5,
        0,
    ]
    assert list(kinds.columns) == ["taught", "not taught", "gap", "stranger"]


def test_k_and_grid(record):
    assert record.by_k("RAG").accuracy.to_dict() == {1: 4 / 5, 3: 2 / 5}
    grid = record.grid()
    assert grid.recall.tolist() == pytest.approx(
        [2 / 3, 1.0]
    )  # one of three was torn apart by the cut
    answerable = [row["answerable"] for row in tasks.load("handbook", "validation")[:3]]
    assert grid.n.tolist() == [3, 3] and len(answerable) == 3
    assert grid.accuracy.tolist() == pytest.approx([2 / 3, 1.0])


def test_the_threshold_is_applied_to_every_training(record):
    assert record.thresholded("both", 0.65)["codes"] == ["RRHRR", "RRRRR"]
    table = record.before_and_after({"RAG": "RAG", "both": "facts"})
    assert list(table.index) == ["RAG", "both", "both, below 0.650 declined"]
    assert table.accuracy.tolist() == pytest.approx([4 / 5, 3 / 5, 9 / 10])


def test_waits(record):
    assert record.waiting().loc[
        "search and answer, no panel", ["all", "all p95", "n"]
    ].tolist() == [80, 120, 4]


def test_a_curve_is_the_marks_at_each_threshold():
    curve = rag.curve("RHH", [1.0, 0.5, 0.0], [True, True, False], steps=2)
    assert curve.threshold.tolist() == [0.0, 0.5, 1.0]
    assert curve.accuracy.tolist() == pytest.approx(
        [1 / 3, 2 / 3, 2 / 3]
    ) and curve.hallucination.tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_a_record_of_other_questions_is_refused(record):
    with pytest.raises(
        Qwen3labError, match="speaks of handbook.test.999, which data/tasks does not hold"
    ):
        rag.Record(record.data | {"questions": ["handbook.test.999"]})


def test_the_record_is_whole():
    record = rag.Record()
    n = len(record.rows)
    assert n == len(TEST) >= 300 and len(record.data["scores"]) == n
    assert {row["language"] for row in record.rows} == {"en", "zh"}
    for name, system in record.data["systems"].items():
        assert all(len(run) == n and set(run) <= set("RDH") for run in system["codes"]), name
        assert all(len(run) == n and set(run) <= set("10-") for run in system.get("cited", [])), (
            name
        )
        # An answer that was given is cited or not; one that declined is marked so. Rightly declined
        # or not, the letters agree.
        for codes, cited in zip(system["codes"], system.get("cited", [])):
            assert all(
                (letter == "D" or (letter == "R" and not row["answerable"])) == (mark == "-")
                for letter, mark, row in zip(codes, cited, record.rows)
            ), name
    assert all(
        len(record.data["systems"][name]["codes"]) >= 3
        for name in record.data["systems"]
        if name not in ("base", "RAG", "first three pages", "window by window")
    )
    assert all(line["share under 300 ms"] >= 0.95 for _, line in record.waiting().iterrows())


def heights(ax):
    return [round(bar.get_width(), 4) for bar in ax.patches]


def test_charts_show_the_shares(record):
    table = record.systems(("RAG", "both"))
    (ax,) = plots.answer_shares({"": table}).axes
    assert heights(ax) == [
        0.8,
        0.6,
        0.0,
        0.0,
        0.2,
        0.4,
    ]  # right, declined, invented, for both systems
    ax = plots.answers_by_kind(record.kinds(("RAG", "both"))).axes[0]
    assert [list(line.get_xdata()) for line in ax.lines[:4]] == [[1, 1], [1, 0.5], [1, 0.5], [0, 0]]
    left, right = plots.size_and_k(record.grid()).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([2 / 3, 1]) and list(
        right.lines[0].get_ydata()
    ) == pytest.approx([2 / 3, 1])
    curve = rag.curve("RHH", [1.0, 0.5, 0.0], [True, True, False], steps=2)
    ax = plots.threshold_curve({"validation": curve}, 0.4).axes[0]
    assert list(ax.lines[0].get_ydata()) == pytest.approx([1 / 3, 2 / 3, 2 / 3]) and set(
        ax.lines[2].get_xdata()
    ) == {0.4}
    waits = record.waiting().assign(**{"first piece": 40.0, "first piece p95": 60.0})
    assert heights(plots.waiting_bars(waits).axes[0]) == [40, 80]


def test_the_notebook_shows_the_record():
    import nbformat

    cells = {
        cell.id: cell
        for cell in nbformat.read(
            paths.ROOT / "notebooks" / "08_rag_knowledge_base.ipynb", as_version=4
        ).cells
    }
    shown = "".join(
        out.get("data", {}).get("text/plain", "") for out in cells["rag-record"].outputs
    )
    for name, line in rag.Record().systems().iterrows():
        row = next(text for text in shown.splitlines() if text.startswith(f"{name} "))
        assert f"{line.accuracy:.3f}" in row, name
