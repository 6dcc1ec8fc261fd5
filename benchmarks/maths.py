"""Benchmark the maths case: word problems by short thoughts, digit by digit, by a calculator.

`python benchmarks/maths.py` trains all weights on the 400 `word-problem` training rows, a quarter
of all rows being sums of `addition` (rehearsal), in four ways (`qwen3lab.world.arithmetic`): with
thoughts of whole steps, `27 + 9 = 36.`; with each step worked digit by digit as pre-training worked
its sums, differences by borrowing; the same with differences worked as sums of complements; and
with a call of a calculator, whose response is answered. The number of steps is chosen on the
validation rows with one seed; then several seeds of each way are scored on the test rows, by kind
of problem, with the first fault of each wrong answer, and on three-digit sums. The calculator, with
the longest rows and nothing wrong on validation, gets one seed. Continues an interrupted run;
writes `data/benchmarks/maths.json`.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from functools import partial
from typing import Any

import record

from qwen3lab import chat, evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import generation
from qwen3lab.world import arithmetic

COMMON = {"method": "full", "batch_size": 16, "learning_rate": 1e-3}
STEPS = (240, 400)
SUMS = 133  # a quarter of all rows
OLD = 60  # three-digit sums of the exam
MOST = 200  # tokens of an answer
WAYS = ("whole steps", "digit by digit", "complements", "calculator")


def rows_of(way: str, seed: int) -> list[dict[str, Any]]:
    """Build the training rows of a way: word problems and, for rehearsal, sums."""
    problems = tasks.load("word-problem", "train")
    if way == "calculator":
        problems = [new for row in problems for new in arithmetic.calculator_rows(row)]
    elif way != "whole steps":
        worked = partial(arithmetic.worked, complements=way == "complements")
        problems = [
            row | {"thoughts": worked(row["thoughts"], row["language"])} for row in problems
        ]
    return problems + random.Random(seed).sample(tasks.load("addition", "train"), SUMS)


def kind(row: dict[str, Any]) -> str:
    """Name a problem by its two operations, for example `* -`."""
    return " ".join(op for _, op, _, _ in arithmetic.steps(row["thoughts"]))


def fault_of_call(said: str, wanted: str) -> str:
    """Name the fault of a call's expression against the thoughts that it stands for."""
    if not said:
        return "no call"
    return "" if said == arithmetic.expression(wanted) else "set-up"


def call(model, tokenizer, problems: list[dict[str, Any]]) -> tuple[list[bool], list[str]]:
    """Let the model ask the calculator and answer from its response.

    Returns:
        (right, faults), one each a problem. A call that cannot be worked out is no call, and the
        text is the answer.
    """
    offer = {"tools": [arithmetic.CALCULATOR], "max_new_tokens": 64}
    asked = [row["messages"] for row in problems]
    texts = generation.generate(model, tokenizer, asked, **offer)
    said = [""] * len(problems)
    for place, text in enumerate(texts):
        for one in chat.extract_tool_calls(text, offer["tools"]):
            try:
                arithmetic.calculate(one["arguments"].get("expression"))
            except Qwen3labError:
                continue
            said[place] = one["arguments"]["expression"]
    places = [place for place, expression in enumerate(said) if expression]
    told = [arithmetic.called(asked[place], said[place]) for place in places]
    for place, text in zip(places, generation.generate(model, tokenizer, told, **offer)):
        texts[place] = text
    right = [evaluation.exact_match(text, row["answer"]) for text, row in zip(texts, problems)]
    return right, [fault_of_call(one, row["thoughts"]) for one, row in zip(said, problems)]


def examine(model, tokenizer, split: str, way: str = "") -> dict[str, Any]:
    """Score a split: a digit a problem and a sum, 1 for right; and the faults of the wrong."""
    problems = tasks.load("word-problem", split)
    sums = [row for row in tasks.load("addition", split) if row["digits"] == 3][:OLD]
    if way == "calculator":
        right, named = call(model, tokenizer, problems)
    else:
        answers = evaluation.evaluate_tasks(model, tokenizer, problems, max_new_tokens=MOST)
        right = list(answers.correct)
        named = [
            arithmetic.fault(thoughts or "", row["thoughts"])
            for row, thoughts in zip(problems, answers.thoughts)
        ]
    old = evaluation.evaluate_tasks(model, tokenizer, sums, max_new_tokens=96)
    faults = Counter(
        (kind(row), fault or "answer")
        for row, fault, good in zip(problems, named, right)
        if not good
    )
    return {
        "problems": record.digits(right),
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
        return found | examine(run.model, run.tokenizer, split, way)

    tried = {
        steps: parts.once(f"{steps} steps", lambda s=steps: trained(WAYS[1], s, "validation"))
        for steps in ([args.steps] if args.steps else STEPS)
    }
    best = max(tried, key=lambda s: tried[s]["problems"].count("1") + tried[s]["sums"].count("1"))
    before = parts.once("before", lambda: examine(*models.load("chat"), "test"))
    runs: dict[str, list] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        for way in WAYS:
            if way == "calculator" and seed:
                continue
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
