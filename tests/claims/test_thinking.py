"""The record of which training keeps the thoughts, and what notebook 05 says of it."""

from __future__ import annotations

import pytest

from qwen3lab.evaluation.statistics import wilson
from qwen3lab.results import records, tables
from qwen3lab.training import thinking as training_thinking


def test_the_table_of_the_committed_record():
    record = records.read("survival")
    table = tables.thinking_survival(record)
    counts = {
        (row["recipe"], name): [run[key] for run in row["runs"]]
        for row in record["rows"]
        for key, name in tables.THINKING_MEASURES.items()
    }
    asked = {name: record["n"][key] for key, name in tables.THINKING_MEASURES.items()}
    for line in table.itertuples():
        right, n = counts[line.recipe, line.measure], asked[line.measure]
        mean = sum(right) / len(right)
        assert (line.n, line.seeds) == (n, len(right))  # the unit is the question, not the answer
        assert (line.share, line.lowest, line.highest) == pytest.approx(
            (mean / n, min(right) / n, max(right) / n)
        )
        assert (line.low, line.high) == pytest.approx(wilson(mean, n))
    assert [row["recipe"] for row in record["rows"]] == ["before", *training_thinking.RECIPES]


def test_what_the_notebook_says_of_the_committed_record():
    table = tables.thinking_survival(records.read("survival")).set_index(["recipe", "measure"])
    share, low, high = table.share, table.low, table.high
    thinks, sums, problems, answers = tables.THINKING_MEASURES.values()
    # Thoughts that are begun and no longer right; a masked block that keeps them, with word
    # problems a little lower; old rows that help, and more with the mask.
    before, masked = ("before", problems), ("block masked", problems)
    assert (round(share[before], 2), round(share[masked], 2)) == (0.52, 0.47)
    assert low[before] < share[masked] and table.loc["before", problems].n == 75
    assert (
        share["block trained", thinks] > 0.9
        and share["block trained", sums] < 0.01
        and share["no block", thinks] < 0.05
    )
    assert (
        share["/no_think", thinks] > 0.9
        and share["/no_think", sums] == 0
        and high["/no_think", answers] < low["block trained", answers]
    )
    for recipe in ("block masked", "block masked, 25 % think", "block masked, 75 % think"):
        assert (
            share[recipe, thinks] == 1
            and share[recipe, sums] > 0.97
            and high[recipe, problems] > low["before", problems]
        )
    for with_old in ("25 % think", "75 % think"):
        assert (
            high[f"block trained, {with_old}", problems]
            < low[f"block masked, {with_old}", problems]
        )
        assert (
            share[f"block trained, {with_old}", answers] + 0.09
            < (share[f"block masked, {with_old}", answers])
        )
    assert (
        0.7 < share["block trained, 25 % think", sums] < 0.9
        and share["block trained, 75 % think", sums] == 1
    )
    runs = table.loc["block trained, 75 % think", problems]
    assert runs.highest - runs.lowest > 0.3  # seeds apart
