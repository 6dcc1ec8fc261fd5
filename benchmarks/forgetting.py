"""Benchmark forgetting: what full fine-tuning and LoRA learn, and what each forgets.

`python benchmarks/forgetting.py`, several seeds each, with the same rows for both. The new rows are
the company's knowledge, read equally often in every recipe. Scored are its test wordings and ten
old tasks. Each method has its own best learning rate, chosen on the validation wordings: that of
full fine-tuning from `RATES`, which grow until the best is not the largest; that of LoRA from the
rates that `benchmarks/lora.py` tried. Two recipes take half and a quarter of it. "rehearsal" mixes
in rows of two of the old tasks, at the best rate and at half of it; none of these rows is asked
afterwards. Runs of the committed record are kept where recipe and rate are the same, each with its
date; `--again` trains them anew. Continues an interrupted run; writes
`data/benchmarks/forgetting.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, paths, training
from qwen3lab.data import tasks

RATES, RATE_SEEDS = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), 2
REHEARSED, OLD_ROWS = ("addition", "word-problem"), 85  # old rows of each: a quarter of all rows
SLOWER = {"": 1, ", half the rate": 2, ", a quarter of the rate": 4}
RECIPES = {
    f"{method}{mix}{change}": (method, SLOWER[change], bool(mix))
    for method in ("full", "lora")
    for mix, changes in (("", SLOWER), (", rehearsal", list(SLOWER)[:2]))
    for change in changes
}


def train(
    method: str,
    rate: float,
    new: list[dict[str, Any]],
    old: list[dict[str, Any]],
    seed: int,
    steps: int,
) -> training.Run:
    """Train on new and old rows.

    `steps` is for the new rows alone, and grows with the old ones so that each new row is read
    equally often.
    """
    rows = new + old
    return training.fine_tune(
        "chat",
        rows,
        method=method,
        steps=math.ceil(steps * len(rows) / len(new)),
        batch_size=training.company_recipe()["batch_size"],
        learning_rate=rate,
        seed=seed,
    )


def ask(run: training.Run, rows: list[dict[str, Any]], longest: int) -> str:
    """Score the rows as a string of digits in their order: 1 for right, 0 for wrong."""
    answers = evaluation.evaluate_tasks(run.model, run.tokenizer, rows, max_new_tokens=longest)
    return record.digits(answers.correct)


def lora_rates() -> dict[str, list[int]]:
    """Return how many validation questions LoRA got right at each rate of the ablation."""
    path = paths.DATA / "benchmarks" / "lora.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    recipe = training.company_recipe()["learning_rate"]
    tried = {
        recipe if row["setting"] == "recipe" else float(row["value"]): row["runs"]
        for row in rows
        if row["setting"] in ("recipe", "learning rate")
    }
    return {f"{rate:g}": [run["right"] for run in tried[rate]] for rate in sorted(tried)}


def best_of(rates: dict[str, list[int]]) -> float:
    """Return the rate with the most right answers; of equals the lowest."""
    return max(map(float, rates), key=lambda rate: (sum(rates[f"{rate:g}"]), -rate))


def run_name(method: str, rate: float, rehearsal: bool, seed: int) -> str:
    """Name a run by all that makes it."""
    return f"{method}{', rehearsal' if rehearsal else ''}, rate {rate:g}, seed {seed}"


def stored(path: Path, recipe: dict[str, Any]) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Read the committed rates and runs, if they were made by the same recipe.

    Returns:
        Right validation answers by rate of full fine-tuning; runs by name, each with its date.
    """
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if told.get("recipe") != recipe:
        return {}, {}
    rates = told["rates on validation"]
    runs = {
        run_name(row["method"], row["rate"], "rehearsal" in row["recipe"], run["seed"]): {
            "date": told["measured"]["date"]
        }
        | run
        for row in told["rows"]
        for run in row["runs"]
    }
    return rates.get("full", rates), runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: those of notebook 03")
    parser.add_argument("--again", action="store_true", help="keep no run of the committed record")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "forgetting.json")
    args = parser.parse_args()
    company = training.company_recipe()
    steps = args.steps or company["steps"]
    recipe = {
        "steps": steps,
        "batch_size": company["batch_size"],
        "r": 16,
        "lora_alpha": 32,
        "new rows": len(tasks.load("knowledge", "train")),
        "old rows": OLD_ROWS * len(REHEARSED),
    }
    new, validation, test = (
        tasks.load("knowledge", split) for split in ("train", "validation", "test")
    )
    asked = tasks.load("chat", "test")
    known_rates, known = ({}, {}) if args.again else stored(args.out, recipe)
    parts = record.Parts("forgetting", keep=not args.steps)

    def choosing(rate: float) -> list[int]:
        return known_rates.get(f"{rate:g}") or [
            parts.once(
                f"full, rate {rate}, seed {seed}",
                lambda s=seed: ask(train("full", rate, new, [], s, steps), validation, 16).count(
                    "1"
                ),
            )
            for seed in range(RATE_SEEDS)
        ]

    def run_of(method: str, rate: float, rehearsal: bool, seed: int) -> dict[str, Any]:
        mixed = REHEARSED if rehearsal else ()
        old = [
            row
            for task in mixed
            for row in random.Random(seed).sample(tasks.load(task, "train"), OLD_ROWS)
        ]
        run = train(method, rate, new, old, seed, steps)
        return {
            "date": date.today().isoformat(),
            "seed": seed,
            "steps": run.steps,
            "tokens": run.tokens,
            "trained": run.trained,
            "loss": round(float(run.history.loss.iloc[-1]), 4),
            "new": ask(run, test, 16),
            "old": ask(run, asked, 96),
        }

    # 1. Each method's own rate. The grid of full fine-tuning grows until its best lies inside.
    rates = {f"{rate:g}": choosing(rate) for rate in RATES}
    while best_of(rates) == float(list(rates)[-1]):
        top = 2 * float(list(rates)[-1])
        rates[f"{top:g}"] = choosing(top)
    on_validation = {"full": rates, "lora": lora_rates()}
    best = {method: best_of(found) for method, found in on_validation.items()}
    print(f"right of {len(validation)} validation questions: {on_validation}; {best}", flush=True)

    # 2. The recipes, several seeds each.
    lines = []
    for name, (method, slower, rehearsal) in RECIPES.items():
        rate, runs = best[method] / slower, []
        for seed in range(args.seeds):
            key = run_name(method, rate, rehearsal, seed)
            measure = partial(run_of, method, rate, rehearsal, seed)
            runs.append(known.get(key) or parts.once(key, measure))
        lines.append(
            {
                "recipe": name,
                "method": method,
                "rate": rate,
                "rehearsal": rehearsal,
                "trained": runs[0]["trained"],
                "steps": runs[0]["steps"],
                "runs": runs,
            }
        )
        counts = [(run["new"].count("1"), run["old"].count("1")) for run in runs]
        print(name, f"rate {rate:g}", counts, flush=True)
    record.write(
        args.out,
        {
            "recipe": recipe,
            "n": {"new": len(test), "old": len(asked), "validation": len(validation)},
            "facts": [row["fact"] for row in test],
            "tasks": [row["task"] for row in asked],
            "rehearsed": list(REHEARSED),
            "rates on validation": on_validation,
            "rates": best,
            "rows": lines,
        },
        "forgetting.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
