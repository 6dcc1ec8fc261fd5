"""Benchmark the recipe of notebook 03: rate and steps, with and without rehearsal.

`python benchmarks/recipe.py`: LoRA on the company's knowledge at three learning rates, the lower
ones for three and five times the steps, each with and without rows of the old tasks in the mix (a
quarter of all rows, and a third more steps, so that each fact is read equally often). Several seeds
each. Every run is scored on the validation and on the test wordings and on the old tasks of both
splits; the recipe is the one with the highest mean of new and old on validation, and only its test
scores, beside those of the first line, are told. Continues an interrupted run; writes
`data/benchmarks/recipe.json`.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import forgetting
import record

from qwen3lab import evaluation, paths
from qwen3lab.data import tasks
from qwen3lab.results import tables

GRID = {1e-2: 60, 4e-3: 180, 2e-3: 300}  # learning rate -> steps for the facts alone
OLD_ROWS = 170  # a quarter of all rows


def kept(model, tokenizer, rows: list[dict[str, Any]]) -> str:
    """Score old tasks: a digit a row, 1 where greedy decoding would give the reference."""
    encoded = [evaluation.example(tokenizer, row) for row in rows]
    return record.digits(evaluation.read_answers(model, encoded, batch_size=32).right)


def measure(rate: float, steps: int, rehearsal: bool, seed: int) -> dict[str, Any]:
    """Train once and score both splits, new and old."""
    mixed = tasks.load("chat", "train") if rehearsal else []
    old = random.Random(seed).sample(mixed, OLD_ROWS) if rehearsal else []
    run = forgetting.train("lora", rate, tasks.load("knowledge", "train"), old, seed, steps)
    line = {"seed": seed, "steps": run.steps, "seconds": round(run.seconds, 1)}
    for split in ("validation", "test"):
        line[split] = {
            "new": forgetting.ask(run, tasks.load("knowledge", split), 16),
            "old": kept(run.model, run.tokenizer, tasks.load("chat", split)),
        }
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: those of the grid")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "recipe.json")
    args = parser.parse_args()
    parts = record.Parts("recipe", keep=not args.steps)
    lines = [
        {"rate": rate, "steps": args.steps or steps, "rehearsal": rehearsal, "runs": []}
        for rehearsal in (False, True)
        for rate, steps in GRID.items()
    ]
    for seed in range(args.seeds):
        for line in lines:
            name = f"rate {line['rate']:g}, rehearsal {line['rehearsal']}, seed {seed}"
            settings = line["rate"], line["steps"], line["rehearsal"]
            line["runs"].append(parts.once(name, lambda s=settings: measure(*s, seed)))
    found = {
        "split": "validation",
        "old rows": OLD_ROWS,
        "lines": lines,
        "facts": {
            split: [row["fact"] for row in tasks.load("knowledge", split)]
            for split in ("validation", "test")
        },
    }
    table = tables.frontier(found)
    print(table.round(3).to_string())
    found["chosen"] = int((table.accuracy + table.old).to_numpy().argmax())
    record.write(args.out, found, "recipe.py", ("torch", "transformers", "trl", "peft"), args.note)
    parts.drop()


if __name__ == "__main__":
    main()
