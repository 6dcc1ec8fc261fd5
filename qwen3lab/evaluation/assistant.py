"""Evaluate a maths and code assistant: word problems by answer, Python functions by tests.

The word problems are answered with thoughts. This is a case study.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.data import tasks
from qwen3lab.data.rows import as_exams
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import sandbox, scoring, statistics
from qwen3lab.evaluation.answered_code import code_of

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


LONGEST = {
    "code": 64,
    "word-problem": 64,
    "addition": 96,
}  # max_new_tokens: 1.5 times the longest reference answer


def mixture(
    problems: Sequence[dict[str, Any]], code: Sequence[dict[str, Any]], seed: int = 0
) -> list[dict[str, Any]]:
    """Mix the rows of both tasks in a random order, with and without thoughts.

    Raises Qwen3labError if either is empty: an assistant for both needs both.
    """
    if not problems or not code:
        raise Qwen3labError("The mixture needs word problems and functions. Give rows of both.")
    rows = [*problems, *code]
    random.Random(seed).shuffle(rows)
    return rows


def passes(row: dict[str, Any], answer: str, **limits: Any) -> sandbox.Result:
    """Run an answer to a code row against the row's tests; `limits` as in `sandbox.run`.

    Raises Qwen3labError for a row without tests.
    """
    if not row.get("tests"):
        raise Qwen3labError(
            f"The row {row.get('id', '')!r} has no tests. Give a row of the task code."
        )
    return sandbox.run(code_of(answer, row["tests"]), row["tests"], **limits)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    **limits: Any,
) -> pd.DataFrame:
    """Generate greedy answers and score them by running their tests, else by exact match.

    Rows without tests are scored as in `evaluation.evaluate_tasks`.

    Returns:
        The columns of `evaluate_tasks` and, per row: status ("" without tests) and message of the
        sandbox, and exact (the exact match with the reference, which is also `correct` for rows
        without tests).
    """
    import pandas as pd

    rows = as_exams(rows)
    longest = max(LONGEST.get(row.get("task", ""), 96) for row in rows) if rows else None
    answers = scoring.evaluate_tasks(model, tokenizer, rows, max_new_tokens=longest)
    results = [
        passes(row, text, **limits) if row.get("tests") else None
        for row, text in zip(rows, answers.prediction)
    ]
    right = [
        exact if result is None else result.passed
        for result, exact in zip(results, answers.correct)
    ]
    return answers.assign(
        exact=answers.correct,
        correct=pd.Series(right, dtype=bool),
        status=[result.status if result else "" for result in results],
        message=[result.message if result else "" for result in results],
    )


def examine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    exam: dict[str, Sequence[dict[str, Any]]],
) -> dict[str, list[int]]:
    """Score the rows of each part of an exam; returns 1 (right) or 0 per row, part by part."""
    return {
        part: evaluate(model, tokenizer, rows).correct.astype(int).tolist()
        for part, rows in exam.items()
    }


def summary(runs: Sequence[dict[str, Sequence[int]]]) -> pd.DataFrame:
    """Pool the counts of several runs (seeds) of `examine`, one row per part of the exam.

    Returns:
        n and correct over all runs, accuracy with its 95 % Wilson interval (low, high), and lowest
        and highest, the counts of single runs. The interval covers the sampling of questions, not
        other seeds.
    """
    import pandas as pd

    if not runs:
        raise Qwen3labError("There are no runs to put together. Give at least one.")
    lines = {}
    for part in runs[0]:
        counts = [sum(run[part]) for run in runs]
        n, correct = sum(len(run[part]) for run in runs), sum(counts)
        low, high = statistics.wilson(correct, n)
        lines[part] = {
            "n": n,
            "correct": correct,
            "accuracy": correct / n,
            "low": low,
            "high": high,
            "lowest": min(counts),
            "highest": max(counts),
        }
    return pd.DataFrame(lines.values(), index=pd.Index(lines, name="part"))


def exam(split: str = "test", old: int = 60) -> dict[str, list[dict[str, Any]]]:
    """Load the assistant's exam: word problems, functions and `old` three-digit sums.

    Word problems and functions are all those of the split; the sums stand for a task that it knew
    before.
    """
    sums = [row for row in tasks.load("addition", split) if row["digits"] == 3]
    return {
        "word problems": tasks.load("word-problem", split),
        "functions": tasks.load("code", split),
        "sums": sums[:old],
    }


def tests_of(row: dict[str, Any]) -> list[str]:
    """Generate `assert <call> == <value>` lines for a row whose reference is a one-line function.

    The function takes x, v, s or a and b, as in the pre-training data. The reference is executed in
    this very process to get the values, so pass only rows of your own data. The inputs are close to
    the numbers in the reference, where a wrong comparison or number shows. Raises Qwen3labError if
    the reference is no such function.
    """
    found = re.fullmatch(r"def (\w+)\((x|v|s|a, b)\): return (.+)", row["answer"])
    if not found:
        raise Qwen3labError(
            f"The reference of the row {row.get('id', '')!r} is no one-line function of x, v, s or"
            " a, b. Give it tests of its own."
        )
    name, arguments, body = found.groups()
    numbers = [int(number) for number in re.findall(r"\d+", body)] or [5]
    inputs = {
        "x": [(number + step,) for number in numbers for step in (-1, 0, 1)],
        "v": [([(place * 37) % 101 for place in range(100)],)],
        "s": [
            (
                (
                    "One lamp and two chairs went to the new house in spring, and nobody was at"
                    " home that day."
                ),
            ),
            ("Wildon",),
        ],
        "a, b": [(3, 8), (8, 3)],
    }[arguments]
    space: dict[str, Any] = {}
    exec(row["answer"], space)  # noqa: S102
    return [
        f"assert {name}({', '.join(map(repr, values))}) == {space[name](*values)!r}"
        for values in inputs
    ]
