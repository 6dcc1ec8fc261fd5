"""The charts of quantised forms and faster decoding, drawn from the committed records."""

from __future__ import annotations

import pandas as pd
import pytest
from charts import bars, ends, intervals, labels, legend, ticks, widths, words, xs, ys

from qwen3lab import plots
from qwen3lab.from_scratch import speculative
from qwen3lab.results import records, tables
from qwen3lab.serving import ladder

ENGINES = ["transformers generate", "llama.cpp in process", "llama.cpp over HTTP", "vLLM"]


def test_ladder_shows_each_form_s_size_and_distance():
    table = ladder.table(records.read("ladder")["ladder"])
    figure = plots.ladder(table)
    size, distance = figure.axes
    disk, memory = bars(size)
    assert widths(disk) == pytest.approx((table.disk / 1e6).tolist())
    assert widths(memory) == pytest.approx((table.memory / 1e6).tolist())
    assert [bar.get_y() < other.get_y() for bar, other in zip(disk, memory)] == [True] * len(table)
    assert legend(size) == ["on disk", "in memory"]
    assert ticks(size.yaxis) == table.index.tolist() and size.yaxis_inverted()

    apart = table[table.kl_low > 0]  # the first form has no distance to itself
    assert table.index.difference(apart.index).tolist() == ["adapter"]
    (line,) = intervals(distance)
    assert xs(line.lines[0]) == apart.kl.tolist()
    assert ys(line.lines[0]) == list(range(1, len(table)))
    lows, highs = ends(line)
    assert lows == pytest.approx(apart.kl_low.tolist())
    assert highs == pytest.approx(apart.kl_high.tolist())
    assert distance.get_xscale() == "log"
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "MB",
        "KL from the first form, nats per token",
    ]


def test_low_bits_draws_a_panel_for_each_task_and_the_divergence():
    table = tables.low_bits(records.read("low_bits"))
    figure = plots.low_bits(table)
    found = list(dict.fromkeys(table.task))
    *panels, last = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == found
    assert legend(figure) == ["float32", "GPTQ", "rounded to nearest", "llama.cpp's mix"]
    for ax, task in zip(panels, found):
        assert ticks(ax.xaxis) == ["8", "4", "3", "2"]
        for drawn, method in zip(intervals(ax), ("GPTQ", "nearest", "GGUF"), strict=True):
            rows = table[(table.task == task) & (table.method == method)]
            rows = rows[(rows.group == 128) | (method == "GGUF")]
            assert ys(drawn.lines[0]) == rows.accuracy.tolist() and len(rows) == 4
            lows, highs = ends(drawn)
            assert lows == pytest.approx(rows.low.tolist())
            assert highs == pytest.approx(rows.high.tolist())
        (whole,) = [line for line in ax.lines if line.get_linestyle() == ":"]
        rows = table[(table.task == task) & (table.method == "float32")]
        assert set(ys(whole)) == {rows.accuracy.item()}
    assert last.get_yscale() == "log" and legend(last) == found
    for line, task in zip(last.lines, found):
        rows = table[(table.task == task) & (table.method == "GPTQ") & (table.group == 128)]
        assert ys(line) == rows.kl.tolist()


def test_calibrations_draws_the_mean_of_each_kind_and_every_draw():
    runs = pd.DataFrame(records.read("ladder")["calibration"])
    (ax,) = plots.calibrations(runs).axes
    means, draws = ax.lines[::2], ax.lines[1::2]
    assert legend(ax) == ["company", "general chat", "random tokens"]
    for line, dots, kind in zip(means, draws, legend(ax)):
        rows = runs[runs.texts == kind]
        assert xs(line) == [8, 32, 128]
        assert ys(line) == pytest.approx(
            [rows[rows["count"] == count].kl.mean() for count in (8, 32, 128)]
        )
        assert xs(dots) == rows["count"].tolist() and ys(dots) == rows.kl.tolist()
        assert dots.get_linestyle() == "None"
    assert len(means) == len(draws) == 3
    assert labels(ax) == ("calibration texts", "KL, nats a token")
    assert ticks(ax.xaxis) == ["8", "32", "128"] and ax.get_ylim()[0] == 0


def test_speculative_gain_draws_the_formula_once_a_cost():
    gpu = records.read("decoding_gpu")
    costs = {
        f"{line['target']}, CUDA graphs": line["cost, CUDA graphs"]["draft pass / target pass"]
        for line in gpu["shapes"]
    }
    costs["our tiny pair"] = records.read("decoding")["tiny"]["cost"]["draft pass / target pass"]
    (ax,) = plots.speculative_gain(costs, 4, speculative.expected_speedup, guides=2.1).axes
    assert legend(ax) == [f"{name}: {cost:.2f}" for name, cost in costs.items()]
    assert ax.get_legend().get_title().get_text() == "draft pass / target pass"
    for line, cost in zip(ax.lines, costs.values()):
        assert xs(line)[0] == 0.3 and xs(line)[-1] == 1
        assert ys(line)[-1] == pytest.approx(5 / (4 * cost + 1))  # all four guesses and one more
        at = xs(line).index(0.8)
        assert ys(line)[at] == speculative.expected_speedup(0.8, 4, cost)
    even, guides = ax.lines[len(costs) :]
    assert (ys(even), ys(guides)) == ([1, 1], [2.1, 2.1]) and words(ax) == ["guides: 2.1"]
    assert labels(ax) == ("how often a guess stays", "times faster")
    (ax,) = plots.speculative_gain(costs, 4, speculative.expected_speedup).axes
    assert len(ax.lines) == len(costs) + 1 and not words(ax)


def test_engine_load_shows_throughput_and_waiting_by_engine():
    table = tables.engine_speeds(records.read("serving"))
    figure = plots.engine_load(table, ENGINES)
    speed, wait = figure.axes
    assert legend(figure) == ENGINES and len(intervals(wait)) == 4
    for name, line, waited in zip(ENGINES, speed.lines, intervals(wait)):
        rows = table.loc[name]
        assert xs(line) == [0, 1, 2] and ys(line) == rows["tokens a second"].tolist()
        median, late = rows["first token p50, ms"] / 1000, rows["first token p95, ms"] / 1000
        assert ys(waited.lines[0]) == median.tolist()
        lows, highs = ends(waited)
        assert lows == median.tolist() and highs == pytest.approx(late.tolist())
    assert ticks(speed.xaxis) == ticks(wait.xaxis) == ["1", "8", "32"]
    assert labels(speed) == ("concurrent requests", "answer tokens a second")
    assert labels(wait) == ("concurrent requests", "seconds to the first token")
    assert wait.get_yscale() == "log"
