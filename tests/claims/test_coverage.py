"""The measured coverage of our intervals and the count of seeds: the records follow from the code,
and keep the course's promise.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwen3lab.evaluation import statistics
from qwen3lab.results import records


def record(name):
    return records.read(name)


def test_intervals_of_tests_of_the_courses_size_hold_the_truth_as_often_as_they_say():
    told = record("coverage")
    large = [
        row
        for row in told["rows"]
        if row["n"] >= 235 and row["interval"] != "simple" and row.get("share") != 0.99
    ]
    assert told["draws"] == 1000 and len(large) == 2 * (3 + 3 + 3 + 3 + 1)
    assert all(0.93 <= row["coverage"] <= 0.97 for row in large)


def test_what_holds_up_to_ninety_nine_per_cent():
    rows = [row for row in record("coverage")["rows"] if row.get("share") == 0.99]
    exact = {(row["interval"], row["n"]): row["exact"] for row in rows if "exact" in row}
    drawn = {row["n"]: row["coverage"] for row in rows if row["interval"] == "bootstrap"}
    assert min(value for (name, _), value in exact.items() if name == "Clopper-Pearson") >= 0.95
    assert min(value for (name, _), value in exact.items() if name == "Wilson") > 0.90
    assert drawn[20] < 0.2 and drawn[100] < 0.7 and drawn[235] < 0.91 and drawn[1000] > 0.95


def test_what_the_notebook_says_of_small_tests():
    rows = record("coverage")["rows"]
    found = {
        (row["interval"], row["n"], row["share"]): row["coverage"]
        for row in rows
        if row["interval"] in ("Wilson", "bootstrap", "simple")
    }
    wilson = [
        value for (name, _, share), value in found.items() if name == "Wilson" and share < 0.99
    ]
    assert len(wilson) == 18 and min(wilson) > 0.91
    assert found["bootstrap", 10, 0.95] < 0.5 and found["simple", 10, 0.95] < 0.5
    rare = {
        row["n"]: row["coverage"]
        for row in rows
        if row["interval"] == "paired bootstrap" and row["disagreement"] == 0.03
    }
    assert rare[10] < 0.5 and rare[100] < 0.93 <= rare[235]
    assert all(
        abs(row["coverage"] - row["exact"])
        < 3.3 * math.sqrt(row["exact"] * (1 - row["exact"]) / 1000)
        for row in rows
        if "exact" in row
    )


def test_the_record_is_what_the_command_gives(script, monkeypatch):
    coverage, told = (
        script("coverage"),
        [
            row
            for row in record("coverage")["rows"]
            if row["n"] == 10 and row.get("share", 0.9) >= 0.9
        ],
    )
    monkeypatch.setattr(coverage, "SHARES", (0.95, 0.99))
    monkeypatch.setattr(coverage, "GAINS", coverage.GAINS[-1:])
    monkeypatch.setattr(
        coverage, "kappa_coverage", lambda n, seed: (told[-1]["coverage"], told[-1]["kappa"])
    )  # a million answers take too long here
    assert coverage.rows((10,)) == told and len(told) == 10


def test_simulated_raters_have_the_kappa_of_the_record(script):
    coverage, rng = script("coverage"), np.random.default_rng(5)
    found = [
        statistics.weighted_kappa(*(grades.tolist() for grades in coverage.raters(2000, rng)))
        for _ in range(10)
    ]
    assert np.mean(found) == pytest.approx(record("coverage")["rows"][-1]["kappa"], abs=0.02)


def test_the_exact_coverage_by_hand(script):
    coverage = script("coverage")
    # Of 3 trials with share 1/2, an interval that holds 1/2 after 1 or 2 right answers: 6 of 8
    # outcomes.
    assert coverage.exact(
        lambda answers, _: (0.0, 1.0) if 0 < answers.sum() < 3 else (0.9, 1.0), 0.5, 3
    ) == pytest.approx(6 / 8)


def test_seeds_by_hand(script):
    # Means 50 and 52; of the nine comparisons one is a tie (50, 50) and one goes the other way (51,
    # 50).
    found = script("seeds").compare([49.0, 50.0, 51.0], [50.0, 52.0, 54.0])
    assert found == {
        "gap": 2.0,
        "comparisons": 9,
        "other order": 1,
        "tie": 1,
        "other order, held out": 1,
    }
    # One lucky seed: it makes the mean, against four of six comparisons; and whichever seed is left
    # out, it goes against the rest.
    lucky = script("seeds").compare([10.0, 10.0], [9.0, 9.0, 15.0])
    assert (lucky["other order"], lucky["other order, held out"]) == (4, 6)


def test_the_record_of_seeds_follows_from_the_other_records(script):
    told, seeds = record("seeds"), script("seeds")
    assert told["rows"] == seeds.table() and told["scores"] == {
        name: len(recipes) for name, recipes in seeds.scores().items()
    }
    near, some, far, very_far, everything = told["rows"]
    assert everything["comparisons"] == sum(
        row["comparisons"] for row in told["rows"][:-1]
    ) and everything["pairs"] == sum(row["pairs"] for row in told["rows"][:-1])
    assert (
        near["share, held out"]
        > some["share, held out"]
        > far["share, held out"]
        > very_far["share, held out"]
    )
    assert some["share, held out"] > 0.1 and very_far["share, held out"] < 0.01
