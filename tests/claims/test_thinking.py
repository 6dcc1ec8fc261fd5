"""The record of which training keeps the thoughts, and what notebook 05 says of it."""

from __future__ import annotations

import pytest

from qwen3lab.results import records, tables
from qwen3lab.training import thinking as training_thinking


def test_the_table_of_the_committed_record():
    record = records.read("survival")
    table = tables.thinking_survival(record)
    stored = {
        (row["recipe"], tables.THINKING_MEASURES[key]): row[key]
        for row in record["rows"]
        for key in tables.THINKING_MEASURES
    }
    for line in table.itertuples():
        kept = stored[line.recipe, line.measure]
        assert (line.share, line.low, line.high) == pytest.approx(
            (kept["share"], kept["low"], kept["high"]), abs=1e-4
        )
        assert line.lowest <= line.share <= line.highest and line.right == round(
            line.share * line.n
        )
    assert [row["recipe"] for row in record["rows"]] == ["before", *training_thinking.RECIPES]


def test_what_the_notebook_says_of_the_committed_record():
    table = tables.thinking_survival(records.read("survival")).set_index(["recipe", "measure"])
    share, low, high = table.share, table.low, table.high
    thinks, sums, problems, answers = tables.THINKING_MEASURES.values()
    # Thoughts that are begun and no longer right; a masked block that costs nothing; old rows that
    # help, and more with the mask.
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
            high[f"block trained, {with_old}", answers] < low[f"block masked, {with_old}", answers]
        )
    assert (
        0.7 < share["block trained, 25 % think", sums] < 0.9
        and share["block trained, 75 % think", sums] == 1
    )
    runs = table.loc["block trained, 75 % think", problems]
    assert runs.highest - runs.lowest > 0.3  # seeds apart
