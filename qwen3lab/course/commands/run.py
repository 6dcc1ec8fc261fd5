"""`qwen3lab run`: execute copies of the notebooks with nbmake, then clean and keep them."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from qwen3lab import paths, profiles
from qwen3lab.course import commands
from qwen3lab.errors import Qwen3labError


def add(into: Any) -> None:
    """Describe the command and its options."""
    runner = commands.parser(
        into,
        call,
        "run",
        "run notebooks from top to bottom, each in a fresh kernel",
        "Run notebooks from top to bottom, each in a fresh kernel, and keep the executed copies."
        " The notebooks themselves stay as they are.\nExercises that are still open stop nothing."
        " The exit code is 1 if a notebook failed.",
        "qwen3lab run                              all eight",
        "qwen3lab run 03 04",
        "qwen3lab run 03 --profile small           on Qwen3-0.6B",
        "qwen3lab run --profile small --smoke   does it all run here? In minutes",
        "qwen3lab run 08 --into build/handed-out",
    )
    runner.add_argument("names", nargs="*", help="the numbers, for example 03; all without one")
    runner.add_argument(
        "--profile", help="tiny, small, medium or large (default: QWEN3LAB_PROFILE, else tiny)"
    )
    runner.add_argument(
        "--smoke",
        action="store_true",
        help="trainings of a few steps and answers of a few tokens: does all of it run here?",
    )
    runner.add_argument(
        "--into",
        type=Path,
        default=paths.BUILD / "notebooks",
        help=(
            "folder for the executed copies, from where their relative paths start (default:"
            " build/notebooks)"
        ),
    )
    runner.add_argument(
        "--jobs",
        choices=("1", "2", "auto"),
        default="1",
        help=(
            "notebooks at a time, each on its own CPUs; auto: two where the CPUs and the memory"
            " allow it (default: %(default)s)"
        ),
    )
    runner.add_argument(
        "--timeout",
        type=int,
        default=600,
        help="seconds that one cell may take (default: %(default)s)",
    )
    runner.add_argument(
        "--in-place",
        action="store_true",
        help="write the outputs into the notebooks themselves, too, where they ran to their end",
    )
    runner.add_argument(
        "--times",
        type=Path,
        help="JSON file that gets the seconds of each section, for docs/workshop.md",
    )


class _Reports(list):
    """Collect pytest's reports on what it ran."""

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call":
            self.append(report)


def call(args: argparse.Namespace) -> int:
    """Run the notebooks and print their times; 1 where one failed."""
    import nbformat
    import pytest

    import qwen3lab
    from qwen3lab.course import kernels, notebooks, section_times

    chosen = {path.stem: path for path in notebooks.find(args.names)}
    _check_folder(args.into)
    if args.profile:
        qwen3lab.use(args.profile)
    if args.smoke:
        if args.in_place:
            raise Qwen3labError(
                "The outputs of a smoke run say nothing about a model, so they do not belong into"
                " the notebooks. Leave out --in-place or --smoke."
            )
        os.environ[profiles.SMOKE] = "1"
    copies = {name: args.into.resolve() / path.name for name, path in chosen.items()}
    for name, path in chosen.items():
        nbformat.write(_empty(nbformat.read(path, as_version=4)), copies[name])
    jobs = min(kernels.jobs() if args.jobs == "auto" else int(args.jobs), len(copies))
    if jobs > 1:
        commands.say(
            f"{jobs} notebooks at a time, each on its own CPUs: each takes longer than alone, all"
            " of them together less.",
            flush=True,
        )
    options = "--nbmake --overwrite --nbmake-kernel python3 --noconftest --assert plain -q"
    options += " -o addopts= -p no:cacheprovider -p qwen3lab.course.kernels"
    # A worker even for one at a time: nbclient takes Ctrl-C for the end of one kernel, and in this
    # process the next notebook would begin.
    options += f" --nbmake-timeout {args.timeout} -n {jobs}"
    reports = _Reports()
    code = pytest.main([*options.split(), *map(str, copies.values())], plugins=[reports])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise Qwen3labError(
            f"pytest could not run the notebooks (exit code {int(code)}). Look at its lines above."
        )
    passed = {kernels.name(report): report for report in reports if report.passed}
    if args.times:
        runs = [
            section_times.Run(copies[name], report.duration, kernels.peak(report))
            for name, report in passed.items()
        ]
        section_times.record(args.times, runs, jobs)
    for name, copy in copies.items():
        nbformat.write(notebooks.clean(nbformat.read(copy, as_version=4)), copy)
        if args.in_place and name in passed:
            shutil.copyfile(copy, chosen[name])
    commands.say(f"the executed copies: {_shown(args.into)}")
    return int(code)


def _empty(notebook):
    """Drop the outputs, so that a kernel that dies leaves none of an earlier run."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _check_folder(folder: Path) -> None:
    """Create the folder of the copies and check that files can be written into it."""
    if folder.resolve() == paths.NOTEBOOKS.resolve():
        raise Qwen3labError(
            "The copies cannot lie in the folder of the notebooks themselves. Give another one, or"
            " --in-place."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Qwen3labError(
            f"Nothing can be written into the folder {folder.name!r} ({error.strerror}). Give"
            " another one."
        ) from error


def _shown(folder: Path) -> str:
    return str(folder.relative_to(paths.ROOT)) if folder.is_relative_to(paths.ROOT) else str(folder)
