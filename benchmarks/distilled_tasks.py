"""Benchmark distillation over a mixture of tasks with thoughts, task by task against the teacher.

`python benchmarks/distilled_tasks.py`. The teacher is the bundled chat model as pre-training left
it, the student qwen3-tiny-draft, which was pre-trained on its own and has a quarter of the weights:
the two stand to each other as two released sizes do. The prompts are the training rows of the old
tasks, of sums and of word problems; the teacher writes its own answers, thoughts included, and the
student is trained on the teacher's distribution at every token of them. No gold answer is read.
Rate and number of steps are chosen on the validation rows with a separate seed. Continues an
interrupted run; writes `data/benchmarks/distilled_tasks.json`. Seconds are those of one processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, paths
from qwen3lab.data import tasks
from qwen3lab.training import distillation

FILES = ("chat", "addition", "word-problem")
BATCH, LONGEST = 16, 160
SETTINGS = ((300, 1e-3), (300, 4e-3), (600, 2e-3))  # steps, learning rate
CHOSEN_WITH = 100  # the seed of the trials on validation rows; the test seeds are 0, 1, 2
SCORED = 120  # rows of a file; of the old tasks all


def rows_of(split: str) -> list[dict[str, Any]]:
    """Load the rows of all files, to train on or to score."""
    found = []
    for name in FILES:
        rows = tasks.load(name, split)
        found += rows if split == "train" or name == "chat" else rows[:SCORED]
    return found


def student() -> Any:
    return models.load("qwen3-tiny-draft", dtype="float32")[0]


def right(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> str:
    """Score free answers: a digit a row."""
    found = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=LONGEST)
    return record.digits(found.correct)


def taught(
    teacher: Any,
    tokenizer: Any,
    answered: list[dict],
    setting: tuple[int, float],
    seed: int,
    split: str,
) -> dict[str, Any]:
    """Train one student and score it."""
    steps, rate = setting
    start = time.process_time()
    model = distillation.match(
        student(),
        teacher,
        tokenizer,
        answered,
        steps=steps,
        learning_rate=rate,
        batch_size=BATCH,
        seed=seed,
    )
    seconds = round(time.process_time() - start, 1)
    digits = right(model, tokenizer, rows_of(split))
    return {"seed": seed, "steps": steps, "rate": rate, "seconds": seconds, "right": digits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument(
        "--out", type=Path, default=paths.DATA / "benchmarks" / "distilled_tasks.json"
    )
    args = parser.parse_args()
    record.one_processor()
    parts = record.Parts("distilled_tasks")
    teacher, tokenizer = models.load("qwen3-tiny", dtype="float32")
    prompts = rows_of("train")
    answered = parts.once(
        "answered", lambda: distillation.answered(teacher, tokenizer, prompts, LONGEST)
    )
    above, before = (
        {
            split: parts.once(
                f"{name}, {split}", lambda split=split: right(model, tokenizer, rows_of(split))
            )
            for split in ("validation", "test")
        }
        for name, model in (("teacher", teacher), ("before", student()))
    )

    def run(setting: tuple[int, float], seed: int, split: str) -> dict[str, Any]:
        return parts.once(
            f"{setting[0]} steps, rate {setting[1]:g}, seed {seed}, {split}",
            lambda: taught(teacher, tokenizer, answered, setting, seed, split),
        )

    tried = [run(setting, CHOSEN_WITH, "validation") for setting in SETTINGS]
    best = max(tried, key=lambda line: line["right"].count("1"))
    record.write(
        args.out,
        {
            "prompts": len(prompts),
            "answered": len(answered),
            "tokens trained": sum(label >= 0 for row in answered for label in row["labels"]),
            "recipe": {"batch_size": BATCH, "longest": LONGEST, "loss": "KL(teacher, student)"},
            "parameters": {
                "teacher": teacher.num_parameters(),
                "student": student().num_parameters(),
            },
            "tasks": {
                split: [
                    f"{row['task']}, thoughts" if row["thinking"] else row["task"]
                    for row in rows_of(split)
                ]
                for split in above
            },
            "teacher": above,
            "student before": before,
            "chosen on validation": tried,
            "runs": [
                run((best["steps"], best["rate"]), seed, "test") for seed in range(args.seeds)
            ],
        },
        "distilled_tasks.py",
        ("torch", "transformers"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
