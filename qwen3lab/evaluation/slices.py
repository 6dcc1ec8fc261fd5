"""Find slices where a model is worse than elsewhere, with multiple-testing correction.

If you look at many groups, you find a bad one. So each group is tested against all other rows, and
the p values are corrected for the number of groups that were looked at, including those that turned
out well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from qwen3lab.data.rows import records
from qwen3lab.data.splits import question, units
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import statistics

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


LEAST = 20  # rows per slice: even for 20 of 20 right the interval begins at 0.84
METHODS = ("bh", "by", "bonferroni", "none")
LENGTHS = ("short", "middle", "long")


def describe(answers: pd.DataFrame, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Add prompt length to answers: the columns words and length ("short", "middle", "long").

    Chinese characters count as words. The lengths are thirds of each language's rows, so that
    "long" does not simply mean "Chinese".

    Args:
        answers: of `evaluation.evaluate_tasks`, in the order of `rows`, which are of any kind that
            it takes.
    Raises:
        Qwen3labError: another number of rows than of answers.
    """
    rows = records(rows)
    if len(answers) != len(rows):
        raise Qwen3labError(
            f"{len(answers)} answers do not belong to {len(rows)} rows. Give the rows that were"
            " answered."
        )
    found = answers.assign(words=[len(units(question(row))) for row in rows])
    place = found.groupby("language").words.rank(method="average", pct=True)
    return found.assign(length=[LENGTHS[min(2, int(3 * (share - 1e-9)))] for share in place])


def worst(
    answers: pd.DataFrame,
    by: Sequence[str] = ("language", "task", "length"),
    *,
    pairs: bool = True,
    least: int = LEAST,
    method: str = "bh",
    level: float = 0.05,
) -> pd.DataFrame:
    """Compare every slice by one column, or two, with all other answers; most significant first.

    Args:
        answers: one row per question with "correct" (bool) and the columns of `by`; columns with a
            single value, or missing, are left out.
        pairs: also slices by two columns at once.
        least: smaller slices are left out (`attrs["left out"]` counts them): they would be all
            noise.
        method: the correction of p for multiple tests. "bh": of the slices called bad at most the
            share `level` is expected to be so by chance alone (Benjamini & Hochberg 1995, for
            slices that are independent or positively dependent); "by": also for other dependence
            (Benjamini & Yekutieli 2001); "bonferroni": not even one by chance, with a probability
            of 1 - `level`; "none": what to expect without a correction.
        level: the adjusted p up to which a slice is called bad.
    Returns:
        One row per slice: slice (text), n, correct, accuracy, low, high (Wilson, 95 %, for this
        slice alone), rest (accuracy of all other answers), p (Fisher's exact test, one-sided: as
        few right answers by chance), adjusted, bad (bool). `attrs["tests"]` is the number of slices
        that were tested. Slices of the same rows are kept once.
    Raises:
        Qwen3labError: no answers, an unknown method, or no column to slice by.
    """
    import pandas as pd
    from scipy.stats import hypergeom

    if method not in METHODS:
        raise Qwen3labError(f"Unknown correction {method!r}. Use one of: {', '.join(METHODS)}.")
    columns = [column for column in by if column in answers and answers[column].nunique() > 1]
    if not len(answers) or not columns:
        raise Qwen3labError(
            f"There is nothing to slice by {', '.join(by)}. Give answers with at least one column"
            " that has several values."
        )
    total, right, lines, seen, left_out = len(answers), int(answers.correct.sum()), [], set(), 0
    for chosen in [(column,) for column in columns] + (
        list(combinations(columns, 2)) if pairs else []
    ):
        for values, group in answers.groupby(list(chosen), sort=True):
            rows = tuple(group.index)
            if rows in seen or len(group) == total:
                continue
            seen.add(rows)
            if len(group) < least:
                left_out += 1
                continue
            n, correct = len(group), int(group.correct.sum())
            low, high = statistics.wilson(correct, n)
            lines.append(
                {
                    "slice": ", ".join(
                        f"{column} = {value}" for column, value in zip(chosen, values)
                    ),
                    "n": n,
                    "correct": correct,
                    "accuracy": correct / n,
                    "low": low,
                    "high": high,
                    "rest": (right - correct) / (total - n),
                    "p": float(hypergeom.cdf(correct, total, right, n)),
                }
            )
    table = pd.DataFrame(
        lines, columns=["slice", "n", "correct", "accuracy", "low", "high", "rest", "p"]
    )
    table["adjusted"] = adjust(table.p.to_numpy(dtype=float), method)
    table["bad"] = table.adjusted <= level
    table = table.sort_values(["adjusted", "p", "accuracy", "slice"], ignore_index=True)
    table.attrs.update({"tests": len(table), "left out": left_out})
    return table


def adjust(p: np.ndarray, method: str = "bh") -> np.ndarray:
    """Correct p values [tests] for multiple testing, in the same order; methods as in `worst`.

    Compare the results with the wanted level. "bh" and "by" are
    `scipy.stats.false_discovery_control`; "bonferroni" is p times the number of tests, 1 at most.
    """
    import numpy as np
    from scipy.stats import false_discovery_control

    if method in ("bh", "by"):
        return false_discovery_control(p, method=method) if len(p) else p
    return np.minimum(1.0, p * len(p)) if method == "bonferroni" else p
