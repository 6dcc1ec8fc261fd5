"""The table of LoRA's settings: pooled seeds, intervals, and what the notebook says of the
committed record.
"""

from __future__ import annotations

import pytest

from qwen3lab import evaluation, plots
from qwen3lab.results import records, tables


def _run(right, old, n=100, old_n=50):
    return {
        "seed": 0,
        "right": right,
        "n": n,
        "old right": old,
        "old n": old_n,
        "loss": 0.1,
        "trained": 7,
        "seconds": 1.0,
    }


RECORD = {
    "rows": [
        {"setting": "recipe", "value": "as is", "runs": [_run(90, 20), _run(80, 30)]},
        {"setting": "rank", "value": "1", "runs": [_run(10, 50)]},
    ]
}


def test_seeds_are_no_questions():
    """Two models that are asked the same hundred questions were asked a hundred questions."""
    first, second = tables.ablation(RECORD).to_dict("records")
    assert (first["seeds"], first["n"], first["right"], first["trained"]) == (2, 100, 170, 7)
    assert (first["accuracy"], first["lowest"], first["highest"], first["old"]) == (
        0.85,
        0.8,
        0.9,
        0.5,
    )
    assert (first["low"], first["high"]) == evaluation.wilson(85, 100) and (
        first["old_low"],
        first["old_high"],
    ) == evaluation.wilson(25, 50)
    assert (second["n"], second["accuracy"], second["old"]) == (100, 0.1, 1.0)


def test_charts_show_the_numbers():
    table = tables.ablation(RECORD)
    filled, open_ = plots.ablation(table).axes[0].containers
    assert filled.lines[0].get_xdata().tolist() == [0.85, 0.1] and open_.lines[
        0
    ].get_xdata().tolist() == [0.5, 1.0]


def test_what_the_notebook_says_of_the_committed_record():
    table = tables.ablation(records.read("lora")).set_index(["setting", "value"])
    assert (table.seeds == 3).all() and (table.n == 135).all()
    right = table.right
    assert (
        right["recipe", "as notebook 03"] == 376
        and right["rank", "1"] == 53
        and right["learning rate", "0.0005"] == 10
    )
    # The rate decides most; query and value alone are the worst bargain; the feed-forward layers
    # keep more than the recipe.
    span = {
        setting: table.accuracy[setting].max() - table.accuracy[setting].min()
        for setting in ("rank", "alpha / rank", "layers", "dropout", "learning rate")
    }
    assert max(span, key=span.get) == "learning rate" and min(span, key=span.get) == "dropout"
    assert table.accuracy["layers"].idxmin() == "query and value" == table.old["layers"].idxmin()
    # At equal learning they differ in what they keep, so they are no single knob.
    slow, thin = table.loc[("learning rate", "0.004")], table.loc[("rank", "4")]
    assert abs(slow.accuracy - thin.accuracy) < 0.01 and slow.old_low > thin.old_high
    assert table.old["layers", "MLP"] > table.old["recipe", "as notebook 03"] + 0.15
    assert table.high["dropout", "0.05"] >= table.low["recipe", "as notebook 03"]
    # On a mixture the experts take up the facts, and the old tasks suffer no more.
    attention, experts = (
        table.loc[("mixture", "attention")],
        table.loc[("mixture", "attention and experts")],
    )
    assert (
        attention.high < 0.65
        and experts.low > 0.85
        and experts.old_high > attention.old
        and experts.trained / attention.trained == 9
    )


def test_the_interval_of_the_record_is_wilsons():
    line = tables.ablation(records.read("lora")).iloc[0]
    assert (line.low, line.high) == evaluation.wilson(376 / 3, 135)
    assert (line.low, line.high) == pytest.approx((0.872, 0.961), abs=1e-3)
