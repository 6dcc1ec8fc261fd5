"""Intervals and tests against scipy and scikit-learn, and the promise of a 95 % interval by
simulation.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from qwen3lab import evaluation
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import statistics

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (3, 12), (12, 3), (40, 55), (7, 7)])
def test_mcnemar_is_scipys_binomial_test(a, b):
    theirs = stats.binomtest(a, a + b).pvalue if a + b else 1.0
    assert statistics.mcnemar(a, b) == pytest.approx(theirs, abs=1e-12)


def test_bootstrap_is_scipys_within_the_draws():
    values = RNG.random(200) < 0.7
    ours = statistics.bootstrap(values.astype(float), draws=20_000)
    theirs = stats.bootstrap(
        (values.astype(float),), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.006)
    first, second = RNG.random(150) < 0.5, RNG.random(150) < 0.6
    difference = second.astype(float) - first
    theirs = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert statistics.bootstrap(first, second, draws=20_000) == pytest.approx(
        tuple(theirs), abs=0.008
    )


def test_groups_are_resampled_whole():
    """Two wordings of one fact tell no more than one of them, and single ones nothing else."""
    facts = RNG.random(100) < 0.7
    groups = [f"fact {place}" for place in range(100)]
    once = statistics.bootstrap_groups(facts, groups, draws=20_000)
    assert statistics.bootstrap_groups([*facts, *facts], groups * 2, draws=20_000) == once
    assert once == pytest.approx(statistics.bootstrap(facts, draws=20_000), abs=0.006)
    # Of two facts, one asked three times, draws give 0, 3/4 or 1.
    assert statistics.bootstrap_groups([1, 1, 1, 0], ["a", "a", "a", "b"]) == (0.0, 1.0)
    # Facts that are asked more often weigh more: a ratio of sums, drawn by hand.
    sizes = RNG.integers(1, 4, 60)
    right = [RNG.random(size) < 0.6 for size in sizes]
    drawn = RNG.integers(0, 60, (20_000, 60))
    ratios = np.array([part.sum() for part in right])[drawn].sum(1) / sizes[drawn].sum(1)
    found = statistics.bootstrap_groups(
        np.concatenate(right), np.repeat(np.arange(60), sizes), draws=20_000
    )
    assert found == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.006)
    assert statistics.bootstrap_groups([1, 0], ["a", "a"]) == (0.5, 0.5)
    with pytest.raises(Qwen3labError, match="2 answers and 1 groups cannot be paired"):
        statistics.bootstrap_groups([1, 0], ["a"])
    with pytest.raises(Qwen3labError, match="0 answers and 0 groups"):
        statistics.bootstrap_groups([], [])


def test_a_comparison_by_hand():
    first = [True] * 60 + [False] * 40
    second = [True] * 55 + [False] * 5 + [True] * 15 + [False] * 25
    found = statistics.compare(first, second)
    assert (found.n, found.first, found.second, found.only_first, found.only_second) == (
        100,
        0.6,
        0.7,
        5,
        15,
    )
    assert found.difference == pytest.approx(0.1) and found.p == pytest.approx(
        stats.binomtest(5, 20).pvalue
    )
    assert (
        found.low == pytest.approx(0.1 - 1.96 * math.sqrt((0.2 - 0.01) / 100), abs=0.02)
        and found.low < 0.1 < found.high
    )
    assert str(found).startswith("+10.0 points, 95 % interval ")


def test_pairs_tell_more_than_two_separate_tests():
    base = RNG.random(400) < 0.6
    better = base | (RNG.random(400) < 0.05)
    paired = statistics.compare(base, better)
    separate = math.hypot(*(side * math.sqrt(0.24 / 400) for side in (1.96, 1.96)))
    assert paired.high - paired.low < separate


@pytest.mark.parametrize(
    ("share", "n"), [(0.5, 240), (0.7, 235), (0.9, 210), (0.95, 105)]
)  # sizes of the course's own tests
def test_wilsons_interval_holds_the_truth_as_often_as_it_says(share, n):
    found = statistics.coverage(
        lambda answers, _: evaluation.wilson(int(answers.sum()), n), share, n, draws=1000, seed=3
    )
    assert 0.93 <= found <= 0.97
    held = [
        k for k in range(n + 1) if evaluation.wilson(k, n)[0] <= share <= evaluation.wilson(k, n)[1]
    ]
    assert found == pytest.approx(
        stats.binom.pmf(held, n, share).sum(), abs=0.021
    )  # three standard errors of 1,000 draws


def test_the_simple_interval_does_not():
    def simple(answers, _):
        share = answers.mean()
        half = 1.96 * math.sqrt(share * (1 - share) / len(answers))
        return share - half, share + half

    assert statistics.coverage(simple, 0.95, 40, draws=1000, seed=3) < 0.90


@pytest.mark.parametrize(
    ("share", "gain", "disagreement", "n"), [(0.6, 0.05, 0.2, 200), (0.8, 0.03, 0.1, 400)]
)
def test_the_paired_bootstrap_holds_the_truth_as_often_as_it_says(share, gain, disagreement, n):
    assert (
        0.93 <= statistics.paired_coverage(share, gain, disagreement, n, draws=1000, seed=1) <= 0.97
    )


@pytest.mark.parametrize("power", [0.8, 0.9])
def test_planned_sizes_have_the_power_they_promise(power):
    n, rng = (
        statistics.questions_needed(0.7, 0.1, paired_disagreement=0.3, power=power),
        np.random.default_rng(2),
    )
    kinds = rng.choice(3, (2000, n), p=[0.1, 0.2, 0.7])  # only first, only second, agree
    first, second = (kinds == 0).sum(1), (kinds == 1).sum(1)
    z = (second - first) / np.sqrt(first + second)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(power, abs=0.03)
    n = statistics.questions_needed(0.7, 0.1, power=power)
    a, b = rng.binomial(n, 0.7, 4000) / n, rng.binomial(n, 0.8, 4000) / n
    z = (b - a) / np.sqrt((a + b) / 2 * (1 - (a + b) / 2) * 2 / n)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(power, abs=0.03)


def test_three_points_need_thousands_of_questions_unless_paired():
    assert statistics.questions_needed(0.7, 0.03) == 3554
    assert statistics.questions_needed(0.7, 0.03, paired_disagreement=0.1) < 900


@pytest.mark.parametrize(
    ("n", "correct", "k"), [(5, 2, 1), (6, 1, 3), (8, 3, 4), (4, 0, 2), (4, 4, 2), (6, 4, 5)]
)
def test_pass_at_k_counts_all_draws(n, correct, k):
    draws = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert statistics.pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_kappa_is_that_of_scikit_learn():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        first = rng.integers(1, 6, 60)
        second = np.clip(first + rng.integers(-1, 2, 60), 1, 5)
        theirs = cohen_kappa_score(first, second, weights="quadratic", labels=[1, 2, 3, 4, 5])
        assert statistics.weighted_kappa(first.tolist(), second.tolist()) == pytest.approx(
            theirs, abs=1e-12
        )
    assert statistics.weighted_kappa([1, 5, 1, 5], [5, 1, 5, 1]) == pytest.approx(-1)
    assert math.isnan(statistics.weighted_kappa([3, 3], [3, 3]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.compare([True], [True, False]), "1 and 2 answers cannot be paired"),
        (lambda: statistics.compare([], []), "0 and 0 answers"),
        (lambda: statistics.bootstrap([]), "no answers to draw from"),
        (lambda: statistics.questions_needed(0.98, 0.03), "cannot be planned"),
        (
            lambda: statistics.questions_needed(0.5, 0.1, paired_disagreement=0.05),
            "Give 0.1 or more",
        ),
        (lambda: statistics.pass_at_k(3, 1, 4), "pass@4 cannot"),
        (lambda: statistics.weighted_kappa([1, 6], [1, 2]), r"the grades \[6\]"),
        (lambda: statistics.weighted_kappa([1], []), "1 and 0 ratings"),
        (lambda: statistics.paired_coverage(0.9, 0.05, 0.5, 100), "No two systems"),
    ],
)
def test_what_cannot_be_computed(call, words):
    with pytest.raises(Qwen3labError, match=words):
        call()
