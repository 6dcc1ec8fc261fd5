"""Benchmark training with rewards: reading repaired, rejection sampling beside it.

`python benchmarks/rewards.py`. The company's LoRA adapter, merged, has forgotten to read. GRPO with
an exact-match reward trains all weights on questions on a text of the rehearsal rows (`chat`,
train; the names in the exam are unseen); rejection sampling draws as many answers to fewer
questions, keeps the right ones and fine-tunes on them, in about the same seconds. Three seeds each,
scored on 200 test questions on a text and on the company's facts. Rates and steps are the first
that were tried on the validation rows. Continues an interrupted run; writes
`data/benchmarks/rewards.json`. Seconds are those of one processor.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.quantization import variants
from qwen3lab.training import rewards

STEPS, RATE = 24, 1e-4
REJECTION = {"questions": 80, "steps": 12, "batch_size": 16, "learning_rate": 2e-4}


def company() -> tuple[Any, Any]:
    """Load the chat model with the company's adapter merged into it."""
    merged = variants.merged("chat", training.company_adapter(), "float32")
    return models.load(merged, dtype="float32")


def examine(model, tokenizer, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Answer rows greedily: a digit a row for right ones, and for refusals."""
    answers = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=16)
    return {"right": record.digits(answers.correct), "refused": record.digits(answers.refused)}


def scored(model, tokenizer) -> dict[str, Any]:
    """Score reading and the company's facts."""
    return {
        "reading": examine(model, tokenizer, rewards.reading_exam()),
        "facts": examine(model, tokenizer, tasks.load("knowledge", "test")),
    }


def by_grpo(seed: int, steps: int) -> dict[str, Any]:
    model, tokenizer = company()
    history = rewards.grpo(
        model, tokenizer, rewards.reading_rows(), steps=steps, learning_rate=RATE, seed=seed
    )
    return {
        "seed": seed,
        "seconds": round(history.seconds.sum(), 1),
        "rewards": history.reward.round(4).tolist(),
        **scored(model, tokenizer),
    }


def by_rejection(seed: int, steps: int) -> dict[str, Any]:
    model, tokenizer = company()
    rows = random.Random(seed).sample(rewards.reading_rows(), REJECTION["questions"])
    start = time.process_time()
    kept = rewards.accepted(model, tokenizer, rows, seed=seed)
    training.fine_tune(
        model,
        kept,
        tokenizer=tokenizer,
        method="full",
        steps=steps,
        batch_size=REJECTION["batch_size"],
        learning_rate=REJECTION["learning_rate"],
        seed=seed,
    )
    seconds = time.process_time() - start
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "kept": len(kept),
        **scored(model.eval(), tokenizer),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: the recipe's")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "rewards.json")
    args = parser.parse_args()
    record.one_processor()
    parts = record.Parts("rewards", keep=not args.steps)
    before = parts.once("before", lambda: scored(*company()))
    ways = {"GRPO": (by_grpo, STEPS), "rejection sampling": (by_rejection, REJECTION["steps"])}
    runs: dict[str, list] = {way: [] for way in ways}
    for seed in range(args.seeds):
        for way, (measure, steps) in ways.items():
            runs[way].append(
                parts.once(
                    f"{way}, seed {seed}",
                    lambda measure=measure, seed=seed, steps=steps: measure(
                        seed, args.steps or steps
                    ),
                )
            )
    record.write(
        args.out,
        {
            "recipe": {
                "GRPO": {"steps": STEPS, "learning_rate": RATE, "prompts": 8, "draws": 8},
                "rejection sampling": REJECTION,
            },
            "questions": [row["id"] for row in rewards.reading_exam()],
            "facts": [row["fact"] for row in tasks.load("knowledge", "test")],
            "before": before,
            "runs": runs,
        },
        "rewards.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
