"""The charts of search and answers, drawn from the committed records."""

from __future__ import annotations

import pandas as pd
import pytest
from charts import bars, ends, intervals, labels, legend, named, ticks, widths, words, xs, ys

from qwen3lab import plots
from qwen3lab.results import rag, records


@pytest.fixture(scope="module")
def answers():
    return rag.Record()


@pytest.fixture(scope="module")
def ranked():
    return records.read("rerank")["sets"]


def test_search_trade_off_has_a_panel_a_size_and_a_line_an_index():
    lines = pd.DataFrame(records.read("indexes")["indexes"])
    figure = plots.search_trade_off(lines)
    names = {"exact": "flat", "HNSW (graph)": "hnsw", "IVF (cells)": "ivf"}
    sizes = sorted(lines.n.unique())
    assert legend(figure) == list(names) and len(figure.axes) == 3
    for ax, size in zip(figure.axes, sizes):
        assert ax.get_title() == f"{size:,} vectors"
        for name, line in named(ax).items():
            part = lines[(lines.n == size) & (lines["index"] == names[name])]
            part = part.sort_values("milliseconds")
            assert xs(line) == part.milliseconds.tolist() and ys(line) == part.recall.tolist()
        assert xs(named(ax)["exact"]) == lines[lines.n == size].milliseconds.tolist()[:1]
        assert ax.get_xlabel() == "ms a question" and ax.get_xscale() == "log"
    assert [ax.get_ylabel() for ax in figure.axes] == ["recall of the 10 nearest", "", ""]


def test_ranking_marks_name_the_questions_and_write_each_mark(ranked):
    panels = {
        f"{name} set": pd.DataFrame(
            {
                search: {key: value for key, value in line.items() if key != "ranks"}
                for search, line in part["lines"].items()
            }
        ).T
        for name, part in ranked.items()
    }
    figure = plots.ranking_marks(panels)
    titles = ["harder set (300 questions)", "handbook set (210 questions)"]
    assert [ax.get_title() for ax in figure.axes] == titles
    for ax, table in zip(figure.axes, panels.values()):
        (lines,) = intervals(ax)
        lows, highs = ends(lines)
        assert lows == pytest.approx(table["MRR low"].tolist())
        assert highs == pytest.approx(table["MRR high"].tolist())
        points = [line for line in ax.lines if len(line.get_xdata()) == 1]
        assert [xs(point)[0] for point in points] == table.MRR.tolist()
        places = [ys(point)[0] for point in points]
        assert places == sorted(places, reverse=True)  # the first search stands on top
        assert words(ax) == [f"{value:.2f}" for value in table.MRR]
        assert ax.get_xlabel() == "MRR (lines: 95 %)"
        for point, search in zip(points, table.index):  # filled where a reranker has sorted
            assert (point.get_markerfacecolor() == "white") == (", " not in search)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "search alone",
        "reranked",
    ]
    assert ticks(figure.axes[0].yaxis) == list(panels["harder set"].index)


def test_answer_shares_add_up_to_all_questions(answers):
    tables = {
        text: answers.systems(keep=lambda row: row["language"] == language)
        for language, text in {"en": "English", "zh": "Chinese"}.items()
    }
    figure = plots.answer_shares(tables)
    assert [ax.get_title() for ax in figure.axes] == ["English", "Chinese"]
    assert [ax.get_xlabel() for ax in figure.axes] == [
        f"share of {n} questions" for n in (210, 105)
    ]
    assert legend(figure) == [
        "right, or declined where there is no answer",
        "declined although there is one",
        "invented",
    ]
    for ax, table in zip(figure.axes, tables.values()):
        right, declined, invented = bars(ax)
        assert widths(right) == table.accuracy.tolist()
        assert widths(invented) == pytest.approx(table.hallucination.tolist())
        for parts in zip(right, declined, invented):
            assert sum(part.get_width() for part in parts) == pytest.approx(1)
            assert [part.get_x() for part in parts] == pytest.approx(
                [0, parts[0].get_width(), 1 - parts[2].get_width()]
            )
        lows, highs = ends(intervals(ax)[0])
        assert lows == pytest.approx(table["accuracy low"].tolist())
        assert highs == pytest.approx(table["accuracy high"].tolist())
        assert words(ax) == [f"{value:.2f}" for value in table.accuracy]
    assert ticks(figure.axes[0].yaxis) == list(rag.FIVE)
    # Of a single group, the panel needs no title.
    (ax,) = plots.answer_shares({"": answers.systems()}).axes
    assert ax.get_title() == "" and ax.get_xlabel() == "share of 315 questions"


def test_answers_by_kind_has_a_marker_a_kind(answers):
    table = answers.kinds()
    figure = plots.answers_by_kind(table)
    (ax,) = figure.axes
    assert legend(figure) == ["taught", "not taught", "gap", "stranger"] == list(named(ax))
    for kind, line in named(ax).items():
        assert xs(line) == table[kind].tolist()
        assert [round(place) for place in ys(line)] == list(range(len(table)))
    assert ticks(ax.yaxis) == list(rag.FIVE) and ax.yaxis_inverted()
    assert labels(ax) == ("share answered right (or rightly declined)", "")


def test_size_and_k_draws_search_and_answers_for_each_size(answers):
    grid = answers.grid()
    figure = plots.size_and_k(grid)
    search, answered = figure.axes
    assert legend(figure) == [f"{size} tokens a chunk" for size in (50, 100, 200, 400)]
    points = [line for line in answered.lines if len(line.get_xdata()) == 4]
    for place, (size, rows) in enumerate(grid.groupby("tokens")):
        found = named(search)[f"{size} tokens a chunk"]
        assert ys(found) == rows.recall.tolist()
        assert [round(x) for x in xs(found)] == [1, 2, 3, 5]
        lows, highs = ends(intervals(answered)[place])
        assert lows == pytest.approx(rows["accuracy low"].tolist())
        assert highs == pytest.approx(rows["accuracy high"].tolist())
        assert rows.accuracy.tolist() in [ys(line) for line in points]
    assert [ax.get_title() for ax in figure.axes] == [
        "search: recall@k",
        "answers: accuracy (lines: 95 %)",
    ]
    assert [labels(ax) for ax in figure.axes] == [("k (chunks in the prompt)", "")] * 2
    assert ticks(search.xaxis) == ["1", "2", "3", "5"]


def test_threshold_curve_draws_both_sets_and_the_choice(answers):
    data, chosen = answers.data, answers.data["chosen"]
    validated = data["validation"]["runs"]["facts"][str(chosen["k"]["facts"])]["codes"]
    there = [[row["answerable"] for row in rows] for rows in (answers.validation, answers.rows)]
    curves = {
        "both, validation": rag.curve(validated, data["validation"]["scores"], there[0]),
        "both, test": rag.curve(data["systems"]["both"]["codes"][0], data["scores"], there[1]),
    }
    figure = plots.threshold_curve(curves, chosen["thresholds"]["facts"])
    assert legend(figure) == ["accuracy", "hallucination", "chosen on validation"]
    for ax, (name, curve) in zip(figure.axes, curves.items()):
        accuracy, hallucination, choice = ax.lines
        assert xs(accuracy) == curve.threshold.tolist() == xs(hallucination)
        assert ys(accuracy) == curve.accuracy.tolist()
        assert ys(hallucination) == curve.hallucination.tolist()
        assert xs(choice) == [chosen["thresholds"]["facts"]] * 2
        assert ax.get_title() == name
        assert ax.get_xlabel() == "decline below this score of the best chunk"
    unchosen = plots.threshold_curve(curves, None)
    assert legend(unchosen) == ["accuracy", "hallucination"]
    assert [len(ax.lines) for ax in unchosen.axes] == [2, 2]


def test_waiting_bars_are_medians_with_the_95th_percentile(answers):
    table = answers.waiting().dropna(subset="first piece")
    figure = plots.waiting_bars(table)
    (ax,) = figure.axes
    assert sorted(legend(figure)) == ["300 ms", "until the first piece", "until the whole answer"]
    for what, group, lines in zip(("first piece", "all"), bars(ax), intervals(ax)):
        assert widths(group) == table[what].tolist()
        lows, highs = ends(lines)
        assert lows == table[what].tolist()
        assert highs == pytest.approx(table[f"{what} p95"].tolist())
    assert [group.get_label() for group in bars(ax)] == [
        "until the first piece",
        "until the whole answer",
    ]
    assert xs(named(ax)["300 ms"]) == [300, 300]
    assert ticks(ax.yaxis) == ["panel, model in this process", "panel, model over HTTP"]
    assert labels(ax) == ("milliseconds (bars: median, whiskers: 95th percentile)", "")
    (ax,) = plots.waiting_bars(table, limit=20).axes
    assert xs(named(ax)["20 ms"]) == [20, 20]
    assert ax.get_xlim()[1] > table["all p95"].max()  # the longest wait is still within
