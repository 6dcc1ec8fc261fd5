"""The charts of metrics, intervals, wordings and judges, read back from the drawn figures."""

from __future__ import annotations

import pandas as pd
import pytest
from charts import ends, intervals, labels, legend, named, ticks, xs, ys

from qwen3lab import plots
from qwen3lab.evaluation import judge, statistics
from qwen3lab.results import records


def test_paired_differences_draws_how_much_better_the_new_one_is():
    right = [1] * 60 + [0] * 40
    found = {
        "facts": statistics.compare(right, [1] * 70 + [0] * 30),
        "old tasks": statistics.compare(right, [0] * 5 + right[5:]),
    }
    (ax,) = plots.paired_differences(found).axes
    zero, dots = ax.lines[0], ax.lines[-1]
    assert xs(zero) == [0, 0] and xs(dots) == pytest.approx([10, -5]) and ys(dots) == [0, 1]
    lows, highs = ends(intervals(ax)[0])
    assert lows == pytest.approx([100 * pair.low for pair in found.values()])
    assert highs == pytest.approx([100 * pair.high for pair in found.values()])
    assert ticks(ax.yaxis) == [
        "facts (n=100)\nonly old 0, only new 10",
        "old tasks (n=100)\nonly old 5, only new 0",
    ]
    assert ax.yaxis_inverted() and labels(ax)[0] == "new minus old, points (lines: 95 % interval)"


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
