"""The record of LoRA on pictures: its table, and the bounds of what notebook 01 says of it."""

from __future__ import annotations

from qwen3lab.results import records, vision

RECORD = records.read("vision")


def test_the_table_counts_the_digits_of_the_record():
    table = vision.learned_and_forgotten(RECORD).set_index(["recipe", "measure"])
    assert list(table.index.levels[0]) == ["before", "decoder", "decoder and encoder"]
    for recipe, runs in ({"before": [RECORD["before"]]} | RECORD["runs"]).items():
        for kind, measure in vision.MEASURES.items():
            line = table.loc[recipe, measure]
            right = sum(run[kind].count("1") for run in runs)
            assert line.n == RECORD["questions"][kind] == len(runs[0][kind])
            assert (
                line.share == right / (line.n * len(runs)) and line.low <= line.share <= line.high
            )


def test_the_form_is_learned_the_price_is_not_and_texts_are_forgotten():
    table = vision.learned_and_forgotten(RECORD).set_index(["recipe", "measure"])
    for recipe, runs in RECORD["runs"].items():
        assert all(run["losses"][0] > 7 and run["losses"][-1] < 1 for run in runs)
        assert table.loc[recipe, "company's tags"].share < 0.1
        assert (
            table.loc[recipe, "questions on a text"].high
            < table.loc["before", "questions on a text"].low
        )
