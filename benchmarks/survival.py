"""Benchmark whether thinking survives fine-tuning on answers without thoughts: eight recipes.

`python benchmarks/survival.py`, several seeds each. The two recipes in which three of four rows
think take four times as long and get three seeds at most.

Every recipe trains all weights on the company's knowledge, each new row equally often: with old
rows beside them the training is correspondingly longer. Asked are three-digit sums and word
problems with thinking on, none of which is in any training (the old rows are sums of one to four
digits), and the company's test wordings with thinking off. Continues an interrupted run; writes
`data/benchmarks/survival.json`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import record

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.training import thinking

PASSES, BATCH, RATE = (3, 32, 1e-3)  # PASSES: how often each new row is read; RATE is notebook 05's
SUMS, PROBLEMS = 105, 75
LONG_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="new rows; default: all")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "survival.json")
    args = parser.parse_args()
    new, old = tasks.load("knowledge", "train")[: args.rows], tasks.load("addition", "train")
    exam = {
        "sums": [row for row in tasks.load("addition", "test") if row["digits"] == 3][:SUMS],
        "problems": tasks.load("word-problem", "test")[:PROBLEMS],
        "questions": tasks.load("knowledge", "test"),
    }
    n = {
        "thinks": SUMS + PROBLEMS,
        "sums": SUMS,
        "problems": PROBLEMS,
        "answers": len(exam["questions"]),
    }
    model, tokenizer = models.load("chat")
    lines = [{"recipe": "before", "runs": [thinking.examine(model, tokenizer, **exam)]}]
    parts = record.Parts("survival", keep=not args.rows)

    def measure(recipe: str, seed: int) -> dict[str, int]:
        rows = thinking.rows(tokenizer, recipe, new, old, seed)
        run = training.fine_tune(
            "chat",
            rows,
            method="full",
            steps=math.ceil(PASSES * len(rows) / BATCH),
            batch_size=BATCH,
            learning_rate=RATE,
            seed=seed,
        )
        return thinking.examine(run.model, tokenizer, **exam) | {
            "seed": seed,
            "steps": run.steps,
            "tokens": run.tokens,
        }

    for recipe in thinking.RECIPES:
        seeds = min(args.seeds, LONG_SEEDS) if thinking.RECIPES[recipe][1] > 0.5 else args.seeds
        runs = [
            parts.once(f"{recipe}, seed {seed}", lambda: measure(recipe, seed))
            for seed in range(seeds)
        ]
        lines.append({"recipe": recipe, "runs": runs})
        print(recipe, [[run[key] for key in n] for run in runs], flush=True)
    for line in lines:
        for key, count in n.items():
            right, of = sum(run[key] for run in line["runs"]), count * len(line["runs"])
            line[key] = dict(
                zip(
                    ("share", "low", "high"),
                    (round(value, 4) for value in (right / of, *evaluation.wilson(right, of))),
                )
            )
    record.write(
        args.out,
        {
            "recipe": {
                "passes": PASSES,
                "batch_size": BATCH,
                "learning_rate": RATE,
                "method": "full",
            },
            "n": n,
            "new rows": len(new),
            "rows": lines,
            "interval": (
                "Wilson, 95 %, all seeds together: how far it lies from endlessly many questions,"
                " not from other seeds"
            ),
        },
        "survival.py",
        ("torch", "transformers", "trl"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
