"""Count how often two recipes swap their order when each is trained with one seed, not several.

`python benchmarks/seeds.py` trains nothing: it counts in
`data/benchmarks/{forgetting,survival,lora}.json`. Two recipes of a file are compared on a score;
every seed of the one is set against every seed of the other. "other order": the single seeds say
the opposite of the means over all seeds; "tie": they say nothing. A single seed is part of the
mean, which flatters it, so "other order, held out" takes the means of the remaining seeds. Grouped
by the difference of the means, in points. Writes `data/benchmarks/seeds.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import record

from qwen3lab import paths

GAPS = (1, 3, 10, 100)  # upper ends, in points
FOLDER = paths.DATA / "benchmarks"


def scores() -> dict[str, dict[str, list[float]]]:
    """Collect "file: score" -> recipe -> one share per seed, in points.

    Recipes of one seed are left out.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in _rows("forgetting"):
        for name in ("new", "old"):
            found.setdefault(f"forgetting: {name}", {})[row["recipe"]] = [
                100 * run[name].count("1") / len(run[name]) for run in row["runs"]
            ]
    n = json.loads((FOLDER / "survival.json").read_text())["n"]
    for row in _rows("survival"):
        for name, count in n.items():
            found.setdefault(f"survival: {name}", {})[row["recipe"]] = [
                100 * run[name] / count for run in row["runs"]
            ]
    for row in _rows("lora"):
        model = (
            "mixture" if row["setting"] == "mixture" else "dense"
        )  # two models are not two recipes of the same score
        for name, right, count in (("new", "right", "n"), ("old", "old right", "old n")):
            found.setdefault(f"lora, {model}: {name}", {})[f"{row['setting']} {row['value']}"] = [
                100 * run[right] / run[count] for run in row["runs"]
            ]
    return {
        name: {recipe: runs for recipe, runs in recipes.items() if len(runs) > 1}
        for name, recipes in found.items()
    }


def _rows(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.json").read_text())["rows"]


def compare(first: list[float], second: list[float]) -> dict[str, Any]:
    """Count over all pairs of single seeds; `gap` is the difference of the means in points."""
    gap = _mean(first) - _mean(second)
    counts = {
        "gap": abs(gap),
        "comparisons": 0,
        "other order": 0,
        "tie": 0,
        "other order, held out": 0,
    }
    for (i, one), (j, two) in itertools.product(enumerate(first), enumerate(second)):
        rest = _mean(first[:i] + first[i + 1 :]) - _mean(second[:j] + second[j + 1 :])
        counts["comparisons"] += 1
        counts["tie"] += one == two
        counts["other order"] += (one - two) * gap < 0
        counts["other order, held out"] += (one - two) * rest < 0
    return counts


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table() -> list[dict[str, Any]]:
    """Tabulate the counts, one line per range of gaps and one for all.

    Pairs of recipes, comparisons of single seeds, and how many went the other way.
    """
    pairs = [
        compare(one, two)
        for recipes in scores().values()
        for one, two in itertools.combinations(recipes.values(), 2)
    ]
    pairs = [pair for pair in pairs if pair["gap"] > 1e-9]  # equal means have no order
    lines = []
    for low, high in [*itertools.pairwise((0, *GAPS)), (0, GAPS[-1])]:
        inside = [pair for pair in pairs if low < pair["gap"] <= high]
        total = {
            key: sum(pair[key] for pair in inside)
            for key in ("comparisons", "other order", "tie", "other order, held out")
        }
        lines.append(
            {
                "points apart": f"{low} to {high}" if (low, high) != (0, GAPS[-1]) else "all",
                "pairs": len(inside),
                **total,
                "share": round(total["other order"] / total["comparisons"], 4),
                "share, held out": round(total["other order, held out"] / total["comparisons"], 4),
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--note", default="", help="for example which files are not final")
    parser.add_argument("--out", type=Path, default=FOLDER / "seeds.json")
    args = parser.parse_args()
    lines = table()
    for line in lines:
        print(*(f"{key} {value}" for key, value in line.items()), sep=", ")
    seeds = sorted({len(runs) for recipes in scores().values() for runs in recipes.values()})
    record.write(
        args.out,
        {
            "scores": {name: len(recipes) for name, recipes in scores().items()},
            "seeds a recipe": seeds,
            "rows": lines,
        },
        "seeds.py",
        (),
        args.note,
    )


if __name__ == "__main__":
    main()
