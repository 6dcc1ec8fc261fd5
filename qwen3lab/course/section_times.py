"""How long each section of the notebooks takes: seconds of its code, measured, and the words that
are to be read, counted.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError

FILE = paths.DATA / "section_times.json"
EXERCISE = re.compile(r"^\*\*Exercise \d+\.\d+", re.MULTILINE)


@dataclass
class Run:
    """An executed notebook that holds its cells' times, its total seconds and its kernel's peak."""

    executed: Path
    seconds: float
    peak_bytes: int


@dataclass
class Section:
    """What stands under one heading. `id` is the heading's cell; a second heading in the same cell
    gets ".2" behind it, and so on.
    """

    id: str
    title: str
    cells: int = 0  # of code
    seconds: float = 0.0  # of its code cells together
    words: int = 0  # of its text; numbers count, code does not
    exercises: int = 0


def split(notebook: Any) -> list[Section]:
    """Split a notebook, as nbformat reads it, into its sections in order: what comes first, under
    its title, then one for each `##` heading.

    They have seconds where nbclient has left each cell's times in the notebook.
    """
    found: list[Section] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            _read(cell, found)
        elif found:
            found[-1].cells += 1
            found[-1].seconds += _seconds(cell)
    return found


def _seconds(cell: Any) -> float:
    """Return a code cell's seconds, from when the kernel had read it until it answered."""
    times = cell.metadata.get("execution", {})
    ends = [times.get(name) for name in ("iopub.execute_input", "shell.execute_reply")]
    if not all(ends):  # it was not run, or to no end
        return 0.0
    began, ended = map(datetime.fromisoformat, ends)
    return (ended - began).total_seconds()


def _read(cell: Any, found: list[Section]) -> None:
    """Add a text cell to the last section, or begin new ones at its headings."""
    headings = 0
    text = re.sub(
        r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL
    )  # a comment in code is no heading
    for part in re.split(r"^(?=##? )", text, flags=re.MULTILINE):
        heading = re.match(r"##? (.*)", part)
        if heading:
            headings += 1
            found.append(
                Section(cell.id if headings == 1 else f"{cell.id}.{headings}", heading[1].strip())
            )
        if found:
            found[-1].words += len(re.findall(r"\S*\w\S*", part))
            found[-1].exercises += len(EXERCISE.findall(part))


def record(file: Path, runs: Sequence[Run], jobs: int = 1) -> dict[str, Any]:
    """Write the section times of executed notebooks into a JSON file.

    Notebooks of the course that are not among them keep their entries.

    Args:
        runs: those that ran to their end.
        jobs: notebooks that ran at a time, for the record.
    """
    import nbformat

    there = {path.stem for path in paths.NOTEBOOKS.glob("[0-9]*.ipynb")}
    kept = load(file) if file.is_file() else {}
    kept = {name: entry for name, entry in kept.items() if name in there}
    for run in runs:
        kept[run.executed.stem] = {
            "measured": _circumstances(jobs),
            "seconds": round(run.seconds, 1),
            "peak MB": round(run.peak_bytes / 1e6),
            "sections": [
                asdict(section) | {"seconds": round(section.seconds, 2)}
                for section in split(nbformat.read(run.executed, as_version=4))
            ],
        }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    return kept


def _circumstances(jobs: int) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "profile": profiles.get().name,
        "notebooks at a time": jobs,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


def load(file: Path | None = None) -> dict[str, Any]:
    """Read such a file, by default `data/section_times.json`: notebook name to measured, seconds,
    peak MB and sections.

    Raises Qwen3labError where it is missing or no such file.
    """
    file = file or FILE
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Qwen3labError(
            f"There are no section times ({file.name} is missing). Run `make times`."
        ) from None
    except ValueError as error:
        raise Qwen3labError(
            f"The section times {file.name} are no valid JSON ({error}). Delete the file and run"
            " `make times`."
        ) from error
    if not isinstance(read, dict) or not all(
        isinstance(entry, dict) and "sections" in entry for entry in read.values()
    ):
        raise Qwen3labError(
            f"{file.name} holds no section times. Give another file, or delete it and run `make"
            " times`."
        )
    return read


def stale(file: Path | None = None, folder: Path | None = None) -> list[str]:
    """Which notebooks' sections are not those of the file, a line each; empty where all agree."""
    import nbformat

    read, lines = load(file), []
    for path in sorted((folder or paths.NOTEBOOKS).glob("[0-9]*.ipynb")):
        there = [
            (section.id, section.title) for section in split(nbformat.read(path, as_version=4))
        ]
        known = [
            (section["id"], section["title"])
            for section in read.get(path.stem, {}).get("sections", [])
        ]
        if there != known:
            changed = (
                next(
                    (b or a for a, b in zip([*known, *[None] * len(there)], there) if a != b), None
                )
                or known[len(there)]
            )
            lines.append(f"{path.stem}: section {changed[1]!r} differs; run `make times`")
    return lines
