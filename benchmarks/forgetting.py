"""Benchmark forgetting: what full fine-tuning and LoRA learn, and what each forgets.

`python benchmarks/forgetting.py`, several seeds each, with the same rows for both. The new rows are
the company's knowledge, read equally often in every recipe. Scored are its test wordings and ten
old tasks. The learning rate of full fine-tuning is the best of `RATES` on the validation wordings;
that of LoRA is notebook 03's, found in the same way; two recipes take half and a quarter of it.
"rehearsal" mixes in rows of two of the old tasks; none of these rows is asked afterwards. Continues
an interrupted run; writes `data/benchmarks/forgetting.json`.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, paths, training
from qwen3lab.data import tasks
from qwen3lab.evaluation import statistics

RATES, RATE_SEEDS = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), 2
REHEARSED, OLD_ROWS = ("addition", "word-problem"), 85  # old rows of each: a quarter of all rows
SLOWER = {", half the rate": 2, ", a quarter of the rate": 4}
RECIPES = {
    f"{method}{change}": (method, change)
    for method in ("full", "lora")
    for change in ("", *SLOWER, ", rehearsal")
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


def share(answers: list[str]) -> dict[str, float]:
    """Average over seeds, with a 95 % bootstrap interval over questions, and the extremes.

    The extremes are the lowest and the highest seed.
    """
    shares = [text.count("1") / len(text) for text in answers]
    by_question = [sum(map(int, digits)) / len(answers) for digits in zip(*answers, strict=True)]
    low, high = statistics.bootstrap(by_question)
    return {
        key: round(value, 4)
        for key, value in {
            "share": sum(shares) / len(shares),
            "low": low,
            "high": high,
            "lowest": min(shares),
            "highest": max(shares),
        }.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each training; default: those of notebook 03")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "forgetting.json")
    args = parser.parse_args()
    recipe = training.company_recipe()
    steps = args.steps or recipe["steps"]
    new, validation, test = (
        tasks.load("knowledge", split) for split in ("train", "validation", "test")
    )
    asked = tasks.load("chat", "test")
    parts = record.Parts("forgetting", keep=not args.steps)

    def choosing(rate: float, seed: int) -> int:
        return ask(train("full", rate, new, [], seed, steps), validation, 16).count("1")

    def run_of(method: str, rate: float, change: str, seed: int) -> dict[str, Any]:
        old = (
            [
                row
                for task in REHEARSED
                for row in random.Random(seed).sample(tasks.load(task, "train"), OLD_ROWS)
            ]
            if change == ", rehearsal"
            else []
        )
        run = train(method, rate, new, old, seed, steps)
        return {
            "seed": seed,
            "steps": run.steps,
            "tokens": run.tokens,
            "trained": run.trained,
            "loss": round(float(run.history.loss.iloc[-1]), 4),
            "new": ask(run, test, 16),
            "old": ask(run, asked, 96),
        }

    rates = {
        str(rate): [
            parts.once(f"full, rate {rate}, seed {seed}", lambda: choosing(rate, seed))
            for seed in range(RATE_SEEDS)
        ]
        for rate in RATES
    }
    best = max(RATES, key=lambda rate: (sum(rates[str(rate)]), -rate))  # ties: the lower rate
    print(
        f"right of {len(validation)} validation questions by rate: {rates}; chosen: {best:g}",
        flush=True,
    )

    lines = []
    for name, (method, change) in RECIPES.items():
        rate = (best if method == "full" else recipe["learning_rate"]) / SLOWER.get(change, 1)
        runs = [
            parts.once(f"{name}, seed {seed}", lambda: run_of(method, rate, change, seed))
            for seed in range(args.seeds)
        ]
        kinds = {
            "old": range(len(asked)),
            "old, rehearsed tasks": [i for i, row in enumerate(asked) if row["task"] in REHEARSED],
            "old, other tasks": [i for i, row in enumerate(asked) if row["task"] not in REHEARSED],
        }
        lines.append(
            {
                "recipe": name,
                "method": method,
                "rate": rate,
                "trained": runs[0]["trained"],
                "steps": runs[0]["steps"],
                "runs": runs,
                "new": share([run["new"] for run in runs]),
            }
            | {
                kind: share(["".join(run["old"][i] for i in places) for run in runs])
                for kind, places in kinds.items()
            }
        )
        print(
            name,
            f"rate {rate:g}",
            [(run["new"].count("1"), run["old"].count("1")) for run in runs],
            flush=True,
        )
    record.write(
        args.out,
        {
            "recipe": {
                "steps": steps,
                "batch_size": recipe["batch_size"],
                "r": 16,
                "lora_alpha": 32,
                "new rows": len(new),
                "old rows": OLD_ROWS * len(REHEARSED),
            },
            "n": {"new": len(test), "old": len(asked), "validation": len(validation)},
            "rates on validation": rates,
            "rate": best,
            "rows": lines,
            "interval": (
                "95 %, bootstrap of the questions on the mean over seeds; lowest and highest:"
                " single seeds"
            ),
        },
        "forgetting.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
