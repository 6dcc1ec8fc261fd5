"""Benchmark the maths case: word problems with short thoughts and worked digit by digit.

`python benchmarks/maths.py` trains all weights on the 400 `word-problem` training rows, a quarter
of all rows being sums of `addition` (rehearsal): once with thoughts of whole steps, `27 + 9 = 36.`,
once with each step worked digit by digit as pre-training worked its sums
(`qwen3lab.world.arithmetic`). The number of steps is chosen on the validation rows with one seed;
then several seeds of both ways are scored on the test rows, by kind of problem, with the first
fault of each wrong answer, and on three-digit sums. Continues an interrupted run; writes
`data/benchmarks/maths.json`.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from typing import Any

import record

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.world import arithmetic

COMMON = {"method": "full", "batch_size": 16, "learning_rate": 1e-3}
STEPS = (240, 400)
SUMS = 133  # a quarter of all rows
OLD = 60  # three-digit sums of the exam
WAYS = ("whole steps", "digit by digit")


def rows_of(way: str, seed: int) -> list[dict[str, Any]]:
    """Build the training rows of a way: word problems and, for rehearsal, sums."""
    problems = tasks.load("word-problem", "train")
    if way == WAYS[1]:
        problems = [
            row | {"thoughts": arithmetic.worked(row["thoughts"], row["language"])}
            for row in problems
        ]
    return problems + random.Random(seed).sample(tasks.load("addition", "train"), SUMS)


def kind(row: dict[str, Any]) -> str:
    """Name a problem by its two operations, for example `* -`."""
    return " ".join(op for _, op, _, _ in arithmetic.steps(row["thoughts"]))


def examine(model, tokenizer, split: str) -> dict[str, Any]:
    """Score a split: a digit a problem and a sum, 1 for right; and the faults of the wrong."""
    problems = tasks.load("word-problem", split)
    sums = [row for row in tasks.load("addition", split) if row["digits"] == 3][:OLD]
    answers = evaluation.evaluate_tasks(model, tokenizer, problems, max_new_tokens=200)
    old = evaluation.evaluate_tasks(model, tokenizer, sums, max_new_tokens=96)
    faults = Counter(
        (kind(row), arithmetic.fault(thoughts or "", row["thoughts"]) or "answer")
        for row, thoughts, right in zip(problems, answers.thoughts, answers.correct)
        if not right
    )
    return {
        "problems": record.digits(answers.correct),
        "sums": record.digits(old.correct),
        "faults": {" | ".join(key): count for key, count in sorted(faults.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help=f"of each training; default: one of {STEPS}")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", default=paths.DATA / "benchmarks" / "maths.json")
    args = parser.parse_args()
    parts = record.Parts("maths", keep=not args.steps)

    def trained(way: str, steps: int, split: str, seed: int = 0) -> dict[str, Any]:
        run = training.fine_tune("chat", rows_of(way, seed), **COMMON, steps=steps, seed=seed)
        found = {"seed": seed, "steps": run.steps, "tokens": run.tokens}
        found["seconds"] = round(run.seconds, 1)
        return found | examine(run.model, run.tokenizer, split)

    tried = {
        steps: parts.once(f"{steps} steps", lambda s=steps: trained(WAYS[1], s, "validation"))
        for steps in ([args.steps] if args.steps else STEPS)
    }
    best = max(tried, key=lambda s: tried[s]["problems"].count("1") + tried[s]["sums"].count("1"))
    before = parts.once("before", lambda: examine(*models.load("chat"), "test"))
    runs: dict[str, list] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        for way in WAYS:
            name = f"{way}, seed {seed}"
            runs[way].append(
                parts.once(name, lambda w=way, s=seed: trained(w, int(best), "test", s))
            )
    record.write(
        args.out,
        {
            "recipe": COMMON | {"steps": int(best), "sums": SUMS},
            "kinds": [kind(row) for row in tasks.load("word-problem", "test")],
            "chosen on validation": {str(steps): found for steps, found in tried.items()},
            "before": before,
            "runs": runs,
        },
        "maths.py",
        ("torch", "transformers", "trl"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
