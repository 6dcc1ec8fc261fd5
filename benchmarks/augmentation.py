"""Benchmark data augmentation: held-out accuracy after the same training on augmented rows.

`python benchmarks/augmentation.py`. Model, steps and learning rate are those of notebook 03 (LoRA
on the company's knowledge); only the rows differ: as they are, or with added copies by one method
of `augmentation.METHODS`. Two sets of rows: one wording of each fact, where more wordings could
help, and all of them. Scored on the test wordings, which none of the rows has. Writes
`data/benchmarks/augmentation.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import record

from qwen3lab import evaluation, measure, paths, training
from qwen3lab.data import augmentation, splits, tasks

SETS = {"one wording": 3, "all wordings": 1}  # copies of each row
DRAWS = 10_000  # of the bootstrap


def rows_of(name: str) -> list[dict[str, Any]]:
    """Load the training rows of a set: the first wording of each fact, or all."""
    rows = tasks.load("knowledge", "train")
    return (
        list({row["fact"]: row for row in reversed(rows)}.values())
        if name == "one wording"
        else rows
    )


def by_fact(right: np.ndarray, facts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Count right answers and questions per fact over all seeds.

    `right` is [seeds, questions] of 0 and 1.
    """
    order = {fact: place for place, fact in enumerate(dict.fromkeys(facts))}
    places = np.array([order[fact] for fact in facts])
    return np.bincount(places, right.sum(axis=0), len(order)), np.bincount(
        places, minlength=len(order)
    ) * len(right)


def interval(
    right: np.ndarray, facts: list[str], base: np.ndarray | None = None
) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of the accuracy, or of its difference to `base`.

    Each of the `DRAWS` draws resamples facts with replacement, not questions, because a fact that
    was not learned is wrong in every wording.
    """
    hits, n = by_fact(right - (0 if base is None else base), facts)
    draws = np.random.default_rng(0).integers(0, len(n), (DRAWS, len(n)))
    values = hits[draws].sum(axis=1) / n[draws].sum(axis=1)
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: those of notebook 03")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "augmentation.json")
    args = parser.parse_args()
    recipe = training.company_recipe() | ({"steps": args.steps} if args.steps else {})
    test, seeds, lines = tasks.load("knowledge", "test"), list(range(args.seeds)), []
    facts = [row["fact"] for row in test]
    for name, copies in SETS.items():
        originals, base = rows_of(name), None
        for method in ("none", *augmentation.METHODS):
            right, harm, damaged = [], {}, np.zeros((len(seeds), len(test)), bool)
            for seed in seeds:
                new = (
                    []
                    if method == "none"
                    else augmentation.augment(originals, method, copies=copies, seed=seed)
                )
                assert not splits.leaks(new, test)
                repeated = [row for row in originals for _ in range(copies)]
                counts = augmentation.harm(repeated, new) if new else {}
                harm = {key: harm.get(key, 0) + value for key, value in counts.items()}
                changed = {
                    row["fact"]
                    for row, copy in zip(repeated, new)
                    if row["answer"] != copy["answer"]
                }
                damaged[seed] = [fact in changed for fact in facts]
                with measure.clock(f"{name}, {method}, seed {seed}"):
                    run = training.fine_tune("chat", [*originals, *new], **recipe, seed=seed)
                    scored = evaluation.evaluate_tasks(
                        run.model, run.tokenizer, test, max_new_tokens=16, batch_size=64
                    )
                right.append(scored.correct.to_numpy())
            right = np.array(right, float)
            base = right if base is None else base
            low, high = interval(right, facts)
            line = {
                "set": name,
                "method": method,
                "rows": len(originals) + len(new),
                "n": len(test),
                "right": right.sum(axis=1).astype(int).tolist(),
                "accuracy": right.mean(),
                "low": low,
                "high": high,
                "difference": right.mean() - base.mean(),
                "difference low": interval(right, facts, base)[0],
                "difference high": interval(right, facts, base)[1],
                "harm": harm,
            }
            if damaged.any():
                line["facts with a changed answer"] = {
                    "answers": int(damaged.sum()),
                    "accuracy": right[damaged].mean(),
                    "without augmentation": base[damaged].mean(),
                }
                line["other facts"] = {
                    "answers": int((~damaged).sum()),
                    "accuracy": right[~damaged].mean(),
                    "without augmentation": base[~damaged].mean(),
                }
            lines.append(line)
            print(
                f"{name}, {method}: {line['accuracy']:.3f} ({low:.3f} to {high:.3f}), right of"
                f" {len(test)} by seed: {line['right']}",
                flush=True,
            )
    record.write(
        args.out,
        {
            "recipe": recipe,
            "seeds": seeds,
            "copies": SETS,
            "rows": json.loads(json.dumps(lines), parse_float=lambda text: round(float(text), 4)),
            "interval": (
                f"the middle 95 % of {DRAWS:,} bootstrap draws of facts, all seeds together"
            ),
        },
        "augmentation.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )


if __name__ == "__main__":
    main()
