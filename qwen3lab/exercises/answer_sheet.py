"""Generate the teachers' answer sheet: `python -m qwen3lab.exercises.answer_sheet`.

It is made from the exercises themselves.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from qwen3lab import exercises, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.exercises import exercise


def sheet(every: Iterable[exercise.Exercise] | None = None) -> str:
    """Render the answer sheet in Markdown.

    For each exercise: task, stub, hints, solution, and the known wrong answers with what the
    learner is told.
    """
    found = list(exercises.every() if every is None else every)
    wrong = sum(len(one.mistakes) for one in found)
    lines = [
        "# Answer sheet",
        "",
        (
            f"{len(found)} exercises with {wrong} known wrong answers. It is made from the"
            " exercises; do not hand it out."
        ),
        "",
    ]
    before = ""
    for one in found:
        if one.notebook != before:
            lines += [f"## Notebook {one.notebook}", ""]
            before = one.notebook
        lines += [*_entry(one), ""]
    return "\n".join(lines)


def _entry(one: exercise.Exercise) -> list[str]:
    """Render one exercise."""
    parts = [
        f"### {one.title}",
        "",
        one.task,
        "",
        "The learner starts from",
        "",
        *_code(one.stub),
        "",
    ]
    parts += ["Hints, from a nudge to nearly everything:", ""]
    parts += [f"{number}. {hint}" for number, hint in enumerate(one.hints, start=1)]
    parts += [
        "",
        "Solution",
        "",
        *_code(one.source),
        "",
        f"Why: {one.why}",
        "",
        "Wrong answers that are recognised, and what the learner reads:",
        "",
    ]
    for mistake in one.mistakes:
        code = _code(exercise.Exercise(mistake.answer, "", ()).source)
        parts += [
            f"- {mistake.message}",
            "",
            *textwrap.indent("\n".join(code), "  ").splitlines(),
            "",
        ]
    return parts[:-1]


def _code(text: str) -> list[str]:
    return ["```python", *text.splitlines(), "```"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen3lab.exercises.answer_sheet",
        description="Write the answer sheet for teachers.",
    )
    parser.add_argument(
        "--out", type=Path, default=paths.BUILD / "answers.md", help="default: build/answers.md"
    )
    args = parser.parse_args(argv)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(sheet() + "\n", encoding="utf-8")
    except OSError as error:
        raise Qwen3labError(
            f"The answer sheet {args.out.name!r} could not be written ({error.strerror}). Give"
            " another place with --out."
        ) from error
    print(f"{args.out.name}: {len(exercises.every())} exercises")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
