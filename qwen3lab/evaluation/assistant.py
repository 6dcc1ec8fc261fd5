"""Case study: a maths and code assistant. Word problems with thoughts are scored by their answer,
Python functions by running their tests.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import sandbox, scoring, statistics

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


LONGEST = {
    "code": 64,
    "word-problem": 64,
    "addition": 96,
}  # new tokens of an answer; half as many again as the longest right one has


def mixture(
    problems: Sequence[dict[str, Any]], code: Sequence[dict[str, Any]], seed: int = 0
) -> list[dict[str, Any]]:
    """All rows of both tasks in an order drawn by `seed`; those that think and those that do not
    stand side by side.

    Raises Qwen3labError where either is empty: an assistant for both needs both.
    """
    if not problems or not code:
        raise Qwen3labError("The mixture needs word problems and functions. Give rows of both.")
    rows = [*problems, *code]
    random.Random(seed).shuffle(rows)
    return rows


def code_of(answer: str) -> str:
    """The Python of an answer: its first fenced block where it has one (large models write some),
    else all of it.
    """
    fenced = re.search(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return fenced[1] if fenced else answer


def passes(row: dict[str, Any], answer: str, **limits: Any) -> sandbox.Result:
    """Run an answer to a code row against the row's tests; `limits` as in `sandbox.run`.

    Raises Qwen3labError for a row without tests.
    """
    if not row.get("tests"):
        raise Qwen3labError(
            f"The row {row.get('id', '')!r} has no tests. Give a row of the task code."
        )
    return sandbox.run(code_of(answer), row["tests"], **limits)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    **limits: Any,
) -> pd.DataFrame:
    """Answer rows greedily and score them; as `evaluation.evaluate_tasks`, but rows with tests are
    right when they pass.

    Returns:
        The columns of `evaluate_tasks` and, per row: status ("" without tests) and message of the
            sandbox, exact (the
        reference letter by letter, which `correct` means for rows without tests).
    """
    import pandas as pd

    longest = max(LONGEST.get(row["task"], 96) for row in rows) if rows else None
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
    """Ask the rows of each part of an exam; returns a 1 (right) or 0 a row, part by part."""
    return {
        part: evaluate(model, tokenizer, rows).correct.astype(int).tolist()
        for part, rows in exam.items()
    }


def summary(runs: Sequence[dict[str, Sequence[int]]]) -> pd.DataFrame:
    """Counts of several runs (seeds) of `examine` put together, a row a part of the exam.

    Returns:
        n and correct over all runs, accuracy with its 95 % Wilson interval (low, high), and lowest
        and highest, the counts of single runs. The interval is for the questions as drawn, not for
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
    """What the assistant is asked: word problems and functions of a split, and `old` sums of three
    digits as a task it knew before.
    """
    sums = [row for row in tasks.load("addition", split) if row["digits"] == 3]
    return {
        "word problems": tasks.load("word-problem", split),
        "functions": tasks.load("code", split),
        "sums": sums[:old],
    }


def tests_of(row: dict[str, Any]) -> list[str]:
    """Lines `assert <call> == <value>` for a row whose reference is a one-line function of x, v, s
    or a and b, as pre-training has them.

    The reference is run in this very process to get the values, so give rows of your own data
    alone. Inputs lie around the numbers in the reference, where a wrong comparison or number shows.
    Raises Qwen3labError where the reference is no such function.
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
