"""`qwen3lab run`: execute notebooks, with a bar that moves with each cell."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from qwen3lab import paths
from qwen3lab.course import commands


def add(into: argparse._SubParsersAction) -> None:
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
        "qwen3lab run 08 --into build/handed-out",
    )
    runner.add_argument("names", nargs="*", help="the numbers, for example 03; all without one")
    runner.add_argument(
        "--profile", help="tiny, small, medium or large (default: QWEN3LAB_PROFILE, else tiny)"
    )
    runner.add_argument(
        "--into",
        type=Path,
        default=paths.BUILD / "notebooks",
        help="folder for the executed copies (default: build/notebooks)",
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


def call(args: argparse.Namespace) -> int:
    """Run the notebooks and print their times; 1 where one failed."""
    import nbformat
    from tqdm import tqdm

    import qwen3lab
    from qwen3lab.course import notebooks

    files = [(path, args.into / path.name) for path in notebooks.find(args.names)]
    notebooks.check_folder(args.into)
    if args.profile:
        qwen3lab.use(args.profile)
    cells = sum(
        bool(cell.source.strip())
        for path, _ in files
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    )
    jobs = notebooks.default_jobs() if args.jobs == "auto" else int(args.jobs)
    results, began = [], time.perf_counter()
    with tqdm(total=cells, unit="cell", disable=None) as bar:  # None: no bar where nobody watches

        def after_cell(name: str) -> None:
            bar.set_description(name, refresh=False)
            bar.update()

        for result in notebooks.run_all(files, jobs, after_cell, args.timeout):
            results.append(result)
            bar.write(f"{result.name}: {result.error or 'done'} in {result.seconds:.1f} s")
    print(notebooks.table(results, time.perf_counter() - began))
    print(f"the executed copies: {_shown(args.into)}")
    return 1 if any(result.error for result in results) else 0


def _shown(folder: Path) -> str:
    return str(folder.relative_to(paths.ROOT)) if folder.is_relative_to(paths.ROOT) else str(folder)
