"""Benchmark distillation: how much of a teacher's accuracy a student keeps, by method.

`python benchmarks/distillation.py`. The teacher is qwen3-tiny, all weights trained on the company's
knowledge. Two students: "half", its layers 1 and 3 of 4 with its embeddings (half of the weights
outside the embedding table), and "quarter", qwen3-tiny-draft, pre-trained on its own (a quarter of
all weights). Every method gets the same prompts, the same number of steps (the last two twice as
many: what on-policy steps add to a student trained on answers, compared with more of the same) and
the same number of candidate learning rates; the rates, the teacher's too, are chosen on the
validation wordings with a separate seed. The distilled students never see a gold answer. Scored are
the test wordings and, as tasks that were not distilled, the old tasks. Continues an interrupted
run; writes `data/benchmarks/distillation.json`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.training import distillation

BATCH, STEPS, TEACHER_STEPS = 32, 48, 96  # 48 steps read each of the 510 prompts three times
RATES, TEACHER_RATES = (2e-3, 4e-3, 8e-3), (1e-3, 2e-3)
CHOSEN_WITH = 100  # the seed of the trials on validation rows; the test seeds are 0, 1, 2
OLD = 120  # rows of the old tasks
STUDENTS = ("half", "quarter")
WAYS = (
    "gold labels",
    "teacher's answers",
    "teacher's distributions",
    "on-policy",
    "teacher's answers, twice as long",
    "teacher's answers, then on-policy",
)

KEPT = paths.BUILD / "distillation-teacher"
TRAIN, VALIDATION, TEST = (tasks.load("knowledge", split) for split in tasks.SPLITS)
OLD_ROWS = tasks.load("chat", "test")[:OLD]


def student(name: str, teacher: Any) -> Any:
    return (
        distillation.half(teacher)
        if name == "half"
        else models.load("qwen3-tiny-draft", dtype="float32")[0]
    )


def teach(
    way: str,
    model: Any,
    teacher: Any,
    tokenizer: Any,
    rows: list[dict],
    answered: list[dict],
    rate: float,
    first: float,
    seed: int,
) -> Any:
    """Train a student in place and return it.

    `first` is the learning rate of the training on answers that precedes on-policy steps.
    """
    common: dict[str, Any] = {"learning_rate": rate, "batch_size": BATCH, "seed": seed}

    def fit(data: list[dict], steps: int, rate: float = rate) -> Any:
        return training.fine_tune(
            model,
            data,
            method="full",
            steps=steps,
            tokenizer=tokenizer,
            **common | {"learning_rate": rate},
        ).model

    if way == "gold labels":
        return fit(rows, STEPS)
    if way == "teacher's answers":
        return fit(answered, STEPS)
    if way == "teacher's answers, twice as long":
        return fit(answered, 2 * STEPS)
    if way == "teacher's distributions":
        return distillation.match(model, teacher, tokenizer, answered, steps=STEPS, **common)
    if way == "on-policy":
        return distillation.on_policy(model, teacher, tokenizer, rows, steps=STEPS, **common)
    model = fit(answered, STEPS, first)
    return distillation.on_policy(model, teacher, tokenizer, rows, steps=STEPS, **common)


def right(model: Any, tokenizer: Any, rows: list[dict], longest: int = distillation.LONGEST) -> int:
    return int(
        evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=longest).correct.sum()
    )


def teacher_at(rate: float, seed: int) -> Any:
    return training.fine_tune(
        "qwen3-tiny",
        TRAIN,
        method="full",
        steps=TEACHER_STEPS,
        batch_size=BATCH,
        learning_rate=rate,
        seed=seed,
    )


def examined(rate: float) -> dict[str, int]:
    """Score a teacher candidate on the validation rows."""
    run = teacher_at(rate, CHOSEN_WITH)
    return {"new": right(run.model, run.tokenizer, VALIDATION)}


def taught(
    name: str, way: str, rate: float, first: float, seed: int, trial: bool
) -> dict[str, Any]:
    """Train and score one student, on the validation rows or on test rows and old tasks."""
    teacher, tokenizer = models.load(KEPT, dtype="float32")
    answered = distillation.answered(teacher, tokenizer, TRAIN)
    started = time.perf_counter()
    model = teach(
        way, student(name, teacher), teacher, tokenizer, TRAIN, answered, rate, first, seed
    )
    seconds = round(time.perf_counter() - started, 1)
    found = {"new": right(model, tokenizer, VALIDATION if trial else TEST)}
    return (
        found
        | ({} if trial else {"old": right(model, tokenizer, OLD_ROWS, 128)})
        | {"seed": seed, "seconds": seconds}
    )


def share(counts: list[int], each: int) -> dict[str, float]:
    found = (
        sum(counts) / (each * len(counts)),
        *evaluation.wilson(sum(counts), each * len(counts)),
    )
    return dict(zip(("share", "low", "high"), (round(value, 4) for value in found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one core")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "distillation.json")
    args = parser.parse_args()
    parts = record.Parts("distillation")
    done = parts.found

    def every(work: dict[str, tuple]) -> None:
        """Run the jobs that are not done yet: key -> function and its arguments."""
        with ProcessPoolExecutor(
            args.jobs, mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            begun = {pool.submit(*call): key for key, call in work.items() if key not in done}
            for future in as_completed(begun):
                print(begun[future], parts.put(begun[future], future.result()), flush=True)

    every({f"teacher, validation, {rate}": (examined, rate) for rate in TEACHER_RATES})
    tried = {rate: done[f"teacher, validation, {rate}"]["new"] for rate in TEACHER_RATES}
    rate = max(tried, key=lambda rate: tried[rate])
    if not (KEPT / "config.json").is_file():
        run = teacher_at(rate, 0)
        run.model.save_pretrained(KEPT), run.tokenizer.save_pretrained(KEPT)
    teacher, tokenizer = models.load(KEPT, dtype="float32")
    answered = distillation.answered(teacher, tokenizer, TRAIN)
    both = lambda model: {
        "new": right(model, tokenizer, TEST),
        "old": right(model, tokenizer, OLD_ROWS, 128),
    }
    above, before = (
        parts.once("teacher", lambda: both(teacher)),
        parts.once("before", lambda: both(models.load("qwen3-tiny")[0])),
    )
    trials: dict[tuple[str, str], dict[float, int]] = {}
    best: dict[tuple[str, str], float] = {}
    last = WAYS[-1]
    for ways in (WAYS[:-1], (last,)):  # the last way starts with the best "teacher's answers" rate
        pairs = [(name, way) for name in STUDENTS for way in ways]
        first = {name: best.get((name, "teacher's answers"), 0.0) for name in STUDENTS}
        every(
            {
                f"{name}, {way}, validation, {rate}": (
                    taught,
                    name,
                    way,
                    rate,
                    first[name],
                    CHOSEN_WITH,
                    True,
                )
                for name, way in pairs
                for rate in RATES
            }
        )
        for name, way in pairs:
            trials[name, way] = {
                rate: done[f"{name}, {way}, validation, {rate}"]["new"] for rate in RATES
            }
            best[name, way] = max(RATES, key=lambda rate: trials[name, way][rate])
    first = {name: best[name, "teacher's answers"] for name in STUDENTS}
    best = {(name, way): best[name, way] for name in STUDENTS for way in WAYS}
    every(
        {
            f"{name}, {way}, test, {rate}, seed {seed}": (
                taught,
                name,
                way,
                rate,
                first[name],
                seed,
                False,
            )
            for (name, way), rate in best.items()
            for seed in range(args.seeds)
        }
    )
    lines = []
    for (name, way), rate_of in best.items():
        runs = [done[f"{name}, {way}, test, {rate_of}, seed {seed}"] for seed in range(args.seeds)]
        new, size = share([run["new"] for run in runs], len(TEST)), student(name, teacher)
        lines.append(
            {
                "student": name,
                "way": way,
                "rate": rate_of,
                "validation": {str(key): count for key, count in trials[name, way].items()},
                "runs": runs,
                "new": new,
                "old": share([run["old"] for run in runs], OLD),
                "kept": round(
                    sum(run["new"] for run in runs) / len(runs) / max(1, above["new"]), 4
                ),
                "kept old": round(
                    sum(run["old"] for run in runs) / len(runs) / max(1, above["old"]), 4
                ),
                "parameters": size.num_parameters(),
                "outside the table": size.num_parameters() - size.model.embed_tokens.weight.numel(),
            }
        )
    record.write(
        args.out,
        {
            "teacher": {
                "parameters": teacher.num_parameters(),
                "outside the table": (
                    teacher.num_parameters() - teacher.model.embed_tokens.weight.numel()
                ),
                "rate": rate,
                "steps": TEACHER_STEPS,
                "validation": {str(key): value for key, value in tried.items()},
                "right": above,
                "before": before,
                "new": share([above["new"]], len(TEST)),
                "old": share([above["old"]], OLD),
            },
            "n": {
                "new": len(TEST),
                "old": OLD,
                "validation": len(VALIDATION),
                "prompts": len(TRAIN),
                "answered": len(answered),
                "answers equal to gold": sum(
                    training.encode(tokenizer, row) in answered for row in TRAIN
                ),
            },
            "recipe": {
                "steps": STEPS,
                "steps of the last two ways": 2 * STEPS,
                "batch_size": BATCH,
                "temperature": 1.0,
                "beta": 1.0,
                "on-policy": "TRL's DistillationTrainer",
            },
            "rows": lines,
            "interval": (
                "Wilson, 95 %, all seeds together: how far it lies from endlessly many questions,"
                " not from other seeds"
            ),
        },
        "distillation.py",
        ("torch", "transformers", "trl"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
