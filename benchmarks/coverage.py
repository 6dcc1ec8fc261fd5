"""Simulate the coverage of 95 % intervals, in 1,000 simulated tests for each size and share.

`python benchmarks/coverage.py` takes Wilson's interval, Clopper and Pearson's, and the percentile
bootstrap for the share of right answers, the paired bootstrap for the gain of a second system on
the same questions, the bootstrap for the quadratic weighted kappa of two raters, and the simple
interval (share ± 1.96 standard errors) for comparison. For intervals that depend only on the count
the exact coverage is added, summed over all counts. The simulated raters see the same true grade
(normal, mean 3, deviation 1) with errors of their own (0.7), rounded to 1 to 5. Three minutes;
writes `data/benchmarks/coverage.json`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
from scipy import stats

from qwen3lab import evaluation, paths
from qwen3lab.evaluation import statistics
from qwen3lab.evaluation.ratings import session

SIZES, SHARES = (10, 20, 50, 100, 235, 1000), (0.5, 0.8, 0.95, 0.99)
GAINS = (
    (0.6, 0.05, 0.2),
    (0.8, 0.03, 0.1),
    (0.9, 0.02, 0.03),
)  # share of the first system, gain, disagreement
DRAWS, RESAMPLES = 1000, 1000


def wilson(answers: np.ndarray, _draw: int) -> tuple[float, float]:
    return evaluation.wilson(int(answers.sum()), len(answers))


def clopper_pearson(answers: np.ndarray, _draw: int) -> tuple[float, float]:
    found = stats.binomtest(int(answers.sum()), len(answers)).proportion_ci(method="exact")
    return float(found.low), float(found.high)


def simple(answers: np.ndarray, _draw: int) -> tuple[float, float]:
    share = float(answers.mean())
    half = evaluation.Z95 * math.sqrt(share * (1 - share) / len(answers))
    return share - half, share + half


def bootstrap(answers: np.ndarray, draw: int) -> tuple[float, float]:
    return statistics.bootstrap(answers, draws=RESAMPLES, seed=draw)


WAYS: dict[str, Callable[[np.ndarray, int], tuple[float, float]]] = {
    "Wilson": wilson,
    "Clopper-Pearson": clopper_pearson,
    "bootstrap": bootstrap,
    "simple": simple,
}


def exact(
    interval: Callable[[np.ndarray, int], tuple[float, float]], share: float, n: int
) -> float:
    """Compute the exact coverage of an interval that depends only on the number right."""
    ends = [interval(np.arange(n) < right, 0) for right in range(n + 1)]
    return float(
        stats.binom.pmf(
            [right for right, (low, high) in enumerate(ends) if low <= share <= high], n, share
        ).sum()
    )


def raters(n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Simulate the grades of two raters for n answers."""
    true = rng.normal(3, 1, n)
    return tuple(np.clip(np.rint(true + rng.normal(0, 0.7, n)), 1, 5).astype(int) for _ in range(2))


def kappa_coverage(n: int, seed: int) -> tuple[float, float]:
    """Simulate the coverage of the kappa interval for studies of n answers.

    Returns:
        The share of studies whose interval contains the true kappa, and that kappa, from a million
        answers.
    """
    rng = np.random.default_rng(seed)
    truth = statistics.weighted_kappa(*(grades.tolist() for grades in raters(1_000_000, rng)))
    hits = 0
    for draw in range(DRAWS):
        low, high = session.kappa_interval(*raters(n, rng), draws=RESAMPLES, seed=draw)
        hits += low <= truth <= high
    return hits / DRAWS, truth


def rows(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> list[dict[str, Any]]:
    """Compute the coverage, one line per interval, size and share (or gain)."""
    found = []
    for n in sizes:
        for share in SHARES:
            for name, interval in WAYS.items():
                line = {
                    "interval": name,
                    "n": n,
                    "share": share,
                    "coverage": statistics.coverage(interval, share, n, draws=DRAWS, seed=seed),
                }
                found.append(
                    line
                    if name == "bootstrap"
                    else line | {"exact": round(exact(interval, share, n), 4)}
                )
        for share, gain, disagreement in GAINS:
            found.append(
                {
                    "interval": "paired bootstrap",
                    "n": n,
                    "share": share,
                    "gain": gain,
                    "disagreement": disagreement,
                    "coverage": statistics.paired_coverage(
                        share, gain, disagreement, n, draws=DRAWS, seed=seed
                    ),
                }
            )
        held, truth = kappa_coverage(n, seed)
        found.append(
            {"interval": "kappa, bootstrap", "n": n, "kappa": round(truth, 4), "coverage": held}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "coverage.json")
    args = parser.parse_args()
    found = rows(tuple(args.sizes))
    for line in found:
        print(*(f"{key} {value}" for key, value in line.items()), sep=", ")
    record.write(
        args.out,
        {
            "draws": DRAWS,
            "resamples": RESAMPLES,
            "standard error of a coverage of 0.95": round(math.sqrt(0.95 * 0.05 / DRAWS), 4),
            "rows": found,
        },
        "coverage.py",
        ("numpy", "scipy"),
        args.note,
    )


if __name__ == "__main__":
    main()
