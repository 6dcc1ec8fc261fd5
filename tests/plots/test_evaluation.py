"""The charts of metrics, intervals, wordings and judges, read back from the drawn figures."""

from __future__ import annotations

import pandas as pd
import pytest
from charts import ends, intervals, labels, legend, named, ticks, words, xs, ys

from qwen3lab import evaluation, plots
from qwen3lab.evaluation import judge
from qwen3lab.results import records


def test_metric_bars_gives_each_metric_a_panel_and_a_scale():
    table = pd.DataFrame(
        {
            "before": {"perplexity": 588.558, "BLEU-4": 0.214, "ROUGE-L": 0.098, "exact match": 0},
            "after": {
                "perplexity": 6.624,
                "BLEU-4": 30.186,
                "ROUGE-L": 0.461,
                "exact match": 0.042,
            },
        }
    )
    best = {"BLEU-4": 100, "ROUGE-L": 1, "exact match": 1}
    axes = plots.metric_bars(table, best=best).axes
    assert [ax.get_ylabel() for ax in axes] == list(table.index)
    for ax, (metric, row) in zip(axes, table.iterrows()):
        assert [bar.get_height() for bar in ax.patches] == row.tolist()
        assert ticks(ax.xaxis) == ["before", "after"]
        assert ax.get_ylim() == pytest.approx((0, best.get(metric, 588.558 * 1.15)))
    assert [words(ax) for ax in axes] == [
        ["589", "6.62"],
        ["0.214", "30.2"],
        ["0.098", "0.461"],
        ["0", "0.042"],
    ]


def test_intervals_narrow_with_the_number_of_questions():
    right = [pair["first right"] for pair in records.read("judge")["pairs"]]
    lines = []
    for n in (10, 25, 50, 100, len(right)):
        hits = sum(right[:n])
        low, high = evaluation.wilson(hits, n)
        lines.append({"n": n, "accuracy": hits / n, "low": low, "high": high})
    table, truth = pd.DataFrame(lines), sum(right) / len(right)
    (ax,) = plots.intervals(table, truth=truth).axes
    (drawn,) = intervals(ax)
    assert xs(drawn.lines[0]) == [10, 25, 50, 100, 235]
    assert ys(drawn.lines[0]) == table.accuracy.tolist()
    lows, highs = ends(drawn)
    assert lows == pytest.approx(table.low.tolist())
    assert highs == pytest.approx(table.high.tolist())
    assert ys(named(ax)["all questions"]) == [truth, truth] and legend(ax) == ["all questions"]
    assert ticks(ax.xaxis) == ["10", "25", "50", "100", "235"]
    assert labels(ax) == ("number of questions (logarithmic)", "exact match")
    assert plots.intervals(table).axes[0].get_legend() is None


def test_wording_dots_holds_every_wording_against_the_first():
    table = pd.DataFrame(records.read("wordings")["tasks"]["knowledge"]["table"])
    table = table.set_index("wording")
    (ax,) = plots.wording_dots(table).axes
    first, dots = ax.lines[0], ax.lines[-1]
    assert xs(first) == [0.9149, 0.9149] and legend(ax) == ["as written"]
    assert xs(dots) == table.accuracy.tolist() and ys(dots) == list(range(len(table)))
    lows, highs = ends(intervals(ax)[0])
    assert lows == pytest.approx(table.low.tolist())
    assert highs == pytest.approx(table.high.tolist())
    assert ticks(ax.yaxis) == [f"{name} (n={n})" for name, n in zip(table.index, table.n)]
    assert "other mark (n=35)" in ticks(ax.yaxis) and ax.yaxis_inverted()
    assert labels(ax) == ("exact match (lines: 95 % interval)", "")


def test_coverage_draws_a_line_an_interval_and_the_good_band():
    rows = pd.DataFrame(records.read("coverage")["rows"])
    table = rows[rows.share == 0.95].pivot(index="n", columns="interval", values="coverage")
    table = table[["Wilson", "bootstrap", "simple"]]
    (ax,) = plots.coverage(table).axes
    assert legend(ax) == ["Wilson", "bootstrap", "simple"] == list(named(ax))
    for name, line in named(ax).items():
        assert xs(line) == table.index.tolist() and ys(line) == table[name].tolist()
    assert ys(ax.lines[0]) == [0.95, 0.95]
    (band,) = ax.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.93, 0.97))
    assert ticks(ax.xaxis) == ["10", "20", "50", "100", "235", "1,000"]
    assert labels(ax) == ("questions in the test (logarithmic)", "intervals that\nhold the truth")
    assert ax.get_ylim()[0] < table.min().min() < 0.4  # the worst interval is not cut off


def test_judged_orders_has_a_point_a_question():
    pairs = pd.DataFrame(records.read("judge")["pairs"])
    judged = judge.both_orders(pairs.leading, pairs.trailing, pairs.mass)
    figure = plots.judged_orders(judged)
    (ax,) = figure.axes
    same, changed = ax.lines[:2]
    for line, part in ((same, judged[~judged.changes]), (changed, judged[judged.changes])):
        assert xs(line) == part.leading.tolist() and ys(line) == part.trailing.tolist()
    assert legend(figure) == ["the same choice twice: 27", "changed with the order: 208"]
    # The grey fields are where both orders agree, and every point lies where its marker says.
    fields = [patch.get_bbox() for patch in ax.patches]
    assert [field.extents.tolist() for field in fields] == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    for line, twice in ((same, True), (changed, False)):
        for point in zip(xs(line), ys(line)):
            assert any(field.contains(*point) for field in fields) is twice
    assert labels(ax) == ("p(first answer) where it is A", "p(first answer) where it is B")
