"""The record of LoRA on pictures: its table, and the bounds of what notebook 01 says of it."""

from __future__ import annotations

import json

import pytest

from qwen3lab import paths
from qwen3lab.results import records, vision

RECORD = records.read("vision")


def test_the_table_counts_the_digits_of_the_record():
    table = vision.learned_and_forgotten(RECORD).set_index(["recipe", "measure"])
    assert list(table.index.levels[0]) == ["before", "decoder", "decoder and encoder"]
    for recipe, runs in ({"before": [RECORD["before"]]} | RECORD["runs"]).items():
        for measure, kinds in vision.MEASURES.items():
            line = table.loc[recipe, measure]
            right = sum(run[kind].count("1") for run in runs for kind in kinds)
            assert line.n == sum(len(runs[0][kind]) for kind in kinds)
            assert line.n == sum(RECORD["questions"][kind] for kind in kinds)
            assert line.share == pytest.approx(right / (line.n * len(runs)))
            assert line.low <= line.share <= line.high


def test_prices_are_learned_more_with_the_encoder_and_old_pictures_forgotten_more():
    table = vision.learned_and_forgotten(RECORD).set_index(["recipe", "measure"])
    before, frozen, both = (
        table.loc[name] for name in ("before", "decoder", "decoder and encoder")
    )
    assert before.loc["company's tags"].high < 0.1
    assert frozen.loc["company's tags"].low > 0.5 and both.loc["company's tags"].low > 0.7
    for old in ("other tags, receipts", "shapes"):
        assert before.loc[old].share > frozen.loc[old].share > both.loc[old].share
        assert both.loc[old].high < before.loc[old].low
    for runs in RECORD["runs"].values():
        assert all(run["losses"][0] > 5 and run["losses"][-1] < 0.3 for run in runs)


def test_the_companion_tells_what_the_record_has():
    table = vision.learned_and_forgotten(RECORD).set_index(["recipe", "measure"]).share
    for recipe, measure, told in (
        ("decoder", "company's tags", 0.71),
        ("decoder and encoder", "company's tags", 0.83),
        ("before", "shapes", 0.98),
        ("decoder", "shapes", 0.90),
        ("decoder and encoder", "shapes", 0.66),
        ("before", "other tags, receipts", 0.96),
        ("decoder", "other tags, receipts", 0.80),
        ("decoder and encoder", "other tags, receipts", 0.40),
    ):
        assert table[recipe, measure] == pytest.approx(told, abs=0.0051)


def test_the_companion_tells_the_scores_of_the_card():
    scores = json.loads((paths.MODELS / "results.json").read_text())
    seen = scores["qwen3-tiny-vl"]
    part = lambda name: seen[f"shapes of held-out combinations: {name}"]
    assert all(part(name)["right"] == part(name)["n"] for name in ("shape", "colour"))
    assert part("count")["n"] == 140 and part("count")["right"] == 140 - 6  # "six of 140"
    assert part("place")["n"] == 19
    tags = seen["price tags, held-out prices, fonts and positions"]
    assert tags["right"] / tags["n"] == 19 / 20
    for model, told in (("qwen3-tiny-vl", 0.83), ("qwen3-tiny", 0.99)):
        english = scores[model]["context en"]
        assert round(english["right"] / english["n"], 2) == told
