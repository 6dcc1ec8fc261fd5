"""What notebook 07 says of three and two bits follows from the record."""

from __future__ import annotations

import pytest

from qwen3lab.results import records, tables


@pytest.fixture(scope="module")
def told():
    table = tables.low_bits(records.read("low_bits"))
    return table.set_index(["task", "method", "bits"])[
        (table.group != 32).tolist()
    ]  # whole groups of 128, and the files


def _lost(told, method: str, bits: int) -> dict[str, float]:
    return told.xs((method, bits), level=("method", "bits")).lost.to_dict()


def test_four_bits(told):
    assert max(_lost(told, "nearest", 4).values()) == pytest.approx(0.043, abs=0.001)
    assert max(_lost(told, "GPTQ", 4).values()) < 0.01
    assert max(_lost(told, "GGUF", 4).values()) < 0.03


def test_three_bits(told):
    lost = _lost(told, "nearest", 3)
    assert all(0.09 < lost[task] < 0.13 for task in ("sums", "word problems", "company facts"))
    assert max(lost["short texts"], lost["long texts"]) < 0.02
    assert max(_lost(told, "GPTQ", 3).values()) == pytest.approx(0.042, abs=0.001)


def test_two_bits(told):
    right = told.accuracy.to_dict()
    assert right["sums", "nearest", 2] == 0
    assert right["sums", "GPTQ", 2] == pytest.approx(1 / 3, abs=0.02)
    for task in ("short texts", "long texts"):
        assert right[task, "GPTQ", 2] == pytest.approx(0.95, abs=0.005)
        assert told.low[task, "GPTQ", 2] > told.high["sums", "GPTQ", 2]
    for task in told.index.unique("task"):  # and yet a smaller file
        assert told.accuracy[task, "GGUF", 2] > told.accuracy[task, "GPTQ", 2]
    assert told.MB["sums", "GGUF", 2] < 2 < told.MB["sums", "GPTQ", 2]


def test_the_divergence_shows_the_slope_before_a_score_does(told):
    for task in told.index.unique("task"):
        slope = [told.kl[task, "GPTQ", bits] for bits in (8, 4, 3, 2)]
        assert slope == sorted(slope) and slope[1] > 10 * slope[0]
