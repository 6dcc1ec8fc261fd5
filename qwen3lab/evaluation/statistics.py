"""Compute confidence intervals, paired tests, sample sizes and rater agreement.

Two systems that answer the same questions are compared question by question: what both get right or
both get wrong says nothing about which is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from qwen3lab.errors import Qwen3labError

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two systems on the same questions.

    `difference` is second minus first, in [-1, 1], with the 95 % interval low to high. only_first,
    only_second: questions that only one of them has right. p: of McNemar's exact test.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float

    def __str__(self) -> str:
        return (
            f"{100 * self.difference:+.1f} points, 95 % interval {100 * self.low:+.1f} to"
            f" {100 * self.high:+.1f} (n={self.n}); only the first right: {self.only_first}, only"
            f" the second: {self.only_second}, p = {self.p:.2g}"
        )


def compare(
    first: Sequence[Any], second: Sequence[Any], *, draws: int = 2000, seed: int = 0
) -> Comparison:
    """Compare two systems by the paired bootstrap and McNemar's test.

    Args:
        first, second: one value per question, in the same order: right or wrong.
    Raises:
        Qwen3labError: different numbers of questions, or none.
    """
    a, b = _pair(first, second)
    low, high = bootstrap(a, b, draws=draws, seed=seed)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return Comparison(
        len(a),
        float(a.mean()),
        float(b.mean()),
        float(b.mean() - a.mean()),
        low,
        high,
        only_first,
        only_second,
        mcnemar(only_first, only_second),
    )


def _pair(first: Sequence[Any], second: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise Qwen3labError(
            f"{len(a)} and {len(b)} answers cannot be paired. Give both systems the same questions,"
            " at least one."
        )
    return a, b


def bootstrap(
    first: Sequence[float],
    second: Sequence[float] | None = None,
    *,
    statistic: Callable[[np.ndarray], Any] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean, or of the mean paired difference.

    Questions are resampled with replacement.

    Args:
        first: one value per question.
        second: in the same order; then the differences second - first are resampled, so pairs stay
            together.
        statistic: of the values [..., n] along the last axis; default: their mean.
        draws: number of resamples.
        level: confidence level of the interval.
    Returns:
        (low, high) of `scipy.stats.bootstrap(method="percentile")`. Efron 1979, "Bootstrap
        methods".
    """
    values = (
        np.asarray(first, dtype=float)
        if second is None
        else np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    )
    if not len(values):
        raise Qwen3labError("There are no answers to draw from. Give at least one.")
    if len(values) == 1:  # nothing to resample, which scipy refuses
        only = float(np.mean(values) if statistic is None else statistic(values[None])[0])
        return only, only
    found = stats.bootstrap(
        (values,),
        np.mean if statistic is None else lambda drawn, axis: statistic(drawn),
        n_resamples=draws,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def bootstrap_groups(
    values: Sequence[float], groups: Sequence[Any], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of a mean whose values come in groups.

    Groups are resampled, each with all its values: a fact that is asked in two wordings is one
    thing that a model knows or does not.

    Args:
        values: one per question; differences of two systems for a paired comparison.
        groups: the group of each question, for example its fact.
    Returns:
        (low, high) of `scipy.stats.bootstrap` on the groups' sums and sizes.
    Raises:
        Qwen3labError: no values, or not one group for each.
    """
    if not len(values) or len(values) != len(groups):
        raise Qwen3labError(
            f"{len(values)} answers and {len(groups)} groups cannot be paired. Give each answer its"
            " group, and at least one."
        )
    _, places = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    sums, sizes = np.bincount(places, np.asarray(values, dtype=float)), np.bincount(places)
    if len(sums) == 1:  # nothing to resample, which scipy refuses
        return float(np.mean(values)), float(np.mean(values))
    found = stats.bootstrap(
        (sums, sizes),
        lambda drawn, many, axis: drawn.sum(axis) / many.sum(axis),
        n_resamples=draws,
        method="percentile",
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute McNemar's exact test: the two-sided p value for two paired systems.

    It is the probability that two equally good systems differ at least as unevenly on the questions
    where exactly one is right: `scipy.stats.binomtest` with 1/2; McNemar 1947.
    """
    total = only_first + only_second
    return float(stats.binomtest(only_first, total).pvalue) if total else 1.0


def questions_needed(
    share: float,
    gain: float,
    *,
    paired_disagreement: float | None = None,
    power: float = 0.8,
    z: float = Z95,
) -> int:
    """Compute the sample size that shows a gain with the wanted power, at the 5 % level.

    Args:
        share: accuracy of the first system, in (0, 1).
        gain: added by the second, for example 0.03.
        paired_disagreement: share of questions on which exactly one of the two is right, when both
            answer the same questions; None for two separate sets, each of the returned size.
        power: the probability of detecting the gain.
    Returns:
        Questions (for each of two sets). Fleiss, Levin & Paik 2003, "Statistical Methods for Rates
        and Proportions", without continuity correction; for pairs Connor 1987.
    Raises:
        Qwen3labError: impossible shares, or a disagreement smaller than the gain.
    """
    second = share + gain
    if not (0 < share < 1 and 0 < second < 1) or not gain:
        raise Qwen3labError(
            f"A gain from {share} to {second} cannot be planned. Give shares between 0 and 1, and a"
            " gain that is not 0."
        )
    z_power = _normal_quantile(power)
    if paired_disagreement is None:
        mean = (share + second) / 2
        root = z * math.sqrt(2 * mean * (1 - mean)) + z_power * math.sqrt(
            share * (1 - share) + second * (1 - second)
        )
        return math.ceil((root / gain) ** 2)
    if paired_disagreement < abs(gain):
        raise Qwen3labError(
            f"Systems that differ by {abs(gain):g} disagree on at least that share of the"
            f" questions. Give {abs(gain):g} or more."
        )
    root = z * math.sqrt(paired_disagreement) + z_power * math.sqrt(
        paired_disagreement - gain * gain
    )
    return math.ceil((root / gain) ** 2)


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def coverage(
    interval: Callable[[np.ndarray, int], tuple[float, float]],
    share: float,
    n: int,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> float:
    """Simulate the coverage of an interval: how often it contains the true share.

    In `draws` tests of `n` questions, each right with probability `share`. `interval` takes the
    answers (bool [n]) and the number of the draw, and returns (low, high).
    """
    rng = np.random.default_rng(seed)
    hits = 0
    for draw in range(draws):
        low, high = interval(rng.random(n) < share, draw)
        hits += low <= share <= high
    return hits / draws


def paired_coverage(
    share: float, gain: float, disagreement: float, n: int, *, draws: int = 1000, seed: int = 0
) -> float:
    """Simulate the coverage of the paired bootstrap: how often its interval contains the true gain.

    In `draws` tests of `n` questions.

    Args:
        disagreement: probability that exactly one of the two systems is right.
    """
    only_second, only_first = (disagreement + gain) / 2, (disagreement - gain) / 2
    both = share - only_first
    if min(only_first, only_second, both, 1 - both - disagreement) < 0:
        raise Qwen3labError(
            "No two systems have such shares. Give a disagreement between the gain and what the"
            " shares allow."
        )
    rng, hits = np.random.default_rng(seed), 0
    for draw in range(draws):
        kinds = rng.choice(4, n, p=[both, only_first, only_second, 1 - both - disagreement])
        low, high = bootstrap(
            (kinds < 2).astype(float), np.isin(kinds, (0, 2)).astype(float), draws=1000, seed=draw
        )
        hits += low <= gain <= high
    return hits / draws


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Estimate pass@k without bias: 1 - C(n - correct, k) / C(n, k).

    It is the chance that at least one of k tries, drawn from n of which `correct` passed, passes.
    Unbiased, unlike 1 - (1 - correct / n)^k. Chen et al. 2021, "Evaluating Large Language Models
    Trained on Code", equation 1. Raises Qwen3labError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise Qwen3labError(
            f"pass@{k} cannot be estimated from {correct} passes in {n} tries. Give at least k"
            " tries."
        )
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def weighted_kappa(
    first: Sequence[int], second: Sequence[int], levels: Sequence[int] = (1, 2, 3, 4, 5)
) -> float:
    """Compute quadratic weighted kappa: agreement of two raters beyond chance, in [-1, 1].

    A difference of two grades counts four times as much as one of one grade. Cohen 1968,
    by `sklearn.metrics.cohen_kappa_score`. NaN if both gave one
    and the same grade throughout: chance then explains everything. Raises Qwen3labError for unequal
    numbers of ratings, none, or a grade that is not a level.
    """
    strange = (set(first) | set(second)) - set(levels)
    if len(first) != len(second) or not len(first) or strange:
        what = (
            f"the grades {sorted(strange)}"
            if strange
            else f"{len(first)} and {len(second)} ratings"
        )
        raise Qwen3labError(
            f"Agreement cannot be computed from {what}. Give both raters the same items and grades"
            f" from {levels[0]} to {levels[-1]}."
        )
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) == 1:
        return float("nan")
    return float(cohen_kappa_score(first, second, labels=list(levels), weights="quadratic"))


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % score interval for a share of `successes` in `n` trials.

    Unlike share ± z * standard error it stays within 0 and 1 and has a width even at 0 of n and n
    of n. `successes` may be a mean over several trainings, which scipy refuses; for whole numbers
    it equals `scipy.stats.binomtest(...).proportion_ci(method="wilson")`. Wilson 1927, "Probable
    inference, the law of succession, and statistical inference". Raises Qwen3labError unless
    0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n < 1:
        raise Qwen3labError(
            f"There is no share of {successes} in {n}. Give at least one trial and at most as many"
            " successes."
        )
    share, z = successes / n, Z95
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding errors can put the ends slightly outside [0, 1].
    low = max(0.0, middle - half) if successes else 0.0
    return low, min(1.0, middle + half) if successes < n else 1.0
