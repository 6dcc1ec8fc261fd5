"""Benchmark fine-tuning for maths and code, before and after, over several seeds.

`python benchmarks/assistant.py` trains on the word problems (with thoughts) and the functions of
`data/tasks`; each function combines two operations that pre-training knew only separately. The test
rows are scored: word problems by their answer, functions by running their tests in
`qwen3lab.evaluation.sandbox`, and three-digit sums as an old task that is not in the training.
Method, learning rate and the number of word problems in the mixture are the best of `WAYS` on the
validation rows of the two tasks, with the first seed; every candidate reads equally many rows.
Continues an interrupted run; writes `data/benchmarks/assistant.json`.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import record

from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.evaluation import assistant

STEPS, BATCH = (
    240,
    8,
)  # small batches: on validation rows, twice the rows per step and half the steps were worse
WAYS = (
    ("full", 5e-4, 400),
    ("full", 1e-3, 400),
    ("full", 2e-3, 400),
    ("full", 1e-3, 200),
    ("lora", 4e-3, 200),
)  # method, rate, word problems
OLD = 60  # sums


def train(method: str, rate: float, problems: int, seed: int, steps: int) -> training.Run:
    """Train the chat model on `problems` word problems and all functions."""
    rows = assistant.mixture(
        random.Random(seed).sample(tasks.load("word-problem", "train"), problems),
        tasks.load("code", "train"),
        seed,
    )
    return training.fine_tune(
        "chat", rows, method=method, steps=steps, batch_size=BATCH, learning_rate=rate, seed=seed
    )


def counts(found: dict[str, list[int]]) -> dict[str, int]:
    return {part: sum(right) for part, right in found.items()}


def table(
    runs: list[dict[str, list[int]]], exam: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Summarise all runs with intervals, part by part.

    Functions are also split by whether training had their combination of operations.
    """
    for run in runs:
        for part, unseen in (
            ("functions, combination trained", False),
            ("functions, combination new", True),
        ):
            run[part] = [
                right
                for right, row in zip(run["functions"], exam["functions"], strict=True)
                if row["unseen"] == unseen
            ]
    return {
        part: {key: round(value, 4) for key, value in line.items()}
        for part, line in assistant.summary(runs).to_dict("index").items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps",
        type=int,
        help=f"of each training; default: {STEPS}; given, nothing is kept for the next start",
    )
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "assistant.json")
    args = parser.parse_args()
    steps = args.steps or STEPS
    exam, choosing = assistant.exam("test", OLD), assistant.exam("validation", OLD)
    parts = record.Parts("assistant", keep=not args.steps)

    def ask(
        way: tuple[str, float, int], seed: int, rows: dict[str, list[dict[str, Any]]]
    ) -> dict[str, Any]:
        run = train(*way, seed, steps)
        return {
            "seed": seed,
            "steps": run.steps,
            "tokens": run.tokens,
            "trained": run.trained,
            "loss": round(float(run.history.loss.iloc[-1]), 4),
            "answers": assistant.examine(run.model, run.tokenizer, rows),
        }

    def plain(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[int]]:
        return assistant.examine(*models.load("chat"), rows)

    ways = [{"method": None, **counts(parts.once("before, validation", lambda: plain(choosing)))}]
    for way in WAYS:
        found = parts.once(f"{way}, validation", lambda: ask(way, 0, choosing))["answers"]
        ways.append(dict(zip(("method", "rate", "problems"), way)) | counts(found))
        print(ways[-1], flush=True)
    best = max(
        WAYS,
        key=lambda way: sum(
            ways[1 + WAYS.index(way)][part] for part in ("word problems", "functions")
        ),
    )  # ties: the first
    before = parts.once("before, test", lambda: plain(exam))
    runs = [
        parts.once(f"{best}, seed {seed}", lambda: ask(best, seed, exam))
        for seed in range(args.seeds)
    ]
    shown = [
        {key: value for key, value in run.items() if key != "answers"} | counts(run["answers"])
        for run in runs
    ]
    print(counts(before), [counts(run["answers"]) for run in runs], flush=True)
    after = [dict(run["answers"]) for run in runs]
    record.write(
        args.out,
        {
            "recipe": {
                "method": best[0],
                "learning_rate": best[1],
                "steps": steps,
                "batch_size": BATCH,
                "rows": {"word-problem": best[2], "code": len(tasks.load("code", "train"))},
            },
            "n": {name: len(rows) for name, rows in exam.items()},
            "n validation": {name: len(rows) for name, rows in choosing.items()},
            "ways on validation": ways,
            "before": table([dict(before)], exam),
            "after": table(after, exam),
            "runs": shown,
            "interval": (
                "Wilson, 95 %, all seeds together: how far it lies from endlessly many questions,"
                " not from other seeds; lowest and highest: single seeds"
            ),
        },
        "assistant.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
