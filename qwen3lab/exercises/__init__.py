"""Define self-checking exercises that name the mistake and give hints, one file per notebook.

The files are ex01, ex02, ...

An exercise is its solution, decorated. The learner's answer is run on the exercise's cases and
compared with the expected results; a wrong answer is compared with the known mistakes, which are
written as code beside the solution:

    @exercise(why="Squares have no sign.", hints=("Multiply it with itself.",))
    def square(x):
        \"\"\"Square a number.\"\"\"
        return x * x

    @square.cases
    def _():
        yield case(3, expect=9, note="x = 3")

    @square.mistake("That is twice the number.")
    def _doubled(x):
        return 2 * x
"""

from __future__ import annotations

import importlib
import pkgutil

from qwen3lab.exercises import progress
from qwen3lab.exercises.exercise import Exercise, of_module
from qwen3lab.locale import translate


def every() -> list[Exercise]:
    """Collect all exercises of the course, in order."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if module.name.startswith("ex") and module.name[2:].isdigit()
    )
    return [
        found
        for name in names
        for found in of_module(importlib.import_module(f"{__name__}.{name}"))
    ]


def counts() -> dict[str, int]:
    """Count the exercises and the known wrong answers that they recognise."""
    found = every()
    return {"exercises": len(found), "wrong answers": sum(len(one.mistakes) for one in found)}


def report() -> str:
    """Report this learner's progress as text: state, tries, hints, solution shown or not."""
    record, fault = progress.load()
    lines = [f"{'exercise':<34} {'state':<8} {'tries':>5} {'hints':>5}  solution"]
    solved = 0
    for one in every():
        entry = progress.EMPTY | record.get(one.id, {})
        solved += entry["solved"]
        state = "solved" if entry["solved"] else "tried" if entry["tries"] else "open"
        lines.append(
            f"{one.title.removeprefix('Exercise '):<34} {state:<8} {entry['tries']:>5}"
            f" {entry['hints']:>5}  {'shown' if entry['solution'] else ''}".rstrip()
        )
    lines.append(translate(f"{solved} of {len(lines) - 1} solved", "exercise"))
    return "\n".join([*lines, translate(fault, "exercise")] if fault else lines)
