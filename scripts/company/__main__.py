"""`python -m scripts.company`: write the handbook and all task files; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from qwen3lab import paths
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from scripts.company import pdf, sets


def build(folder: Path) -> dict[str, int]:
    """Write `handbook/handbook.pdf` and `tasks/*.jsonl` under `folder`.

    Returns the number of rows of each task file.
    """
    (folder / "handbook").mkdir(parents=True, exist_ok=True)
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    pages = pdf.build(folder / "handbook" / "handbook.pdf")
    counts = {}
    for name, rows in sets.build(pages).items():
        tasks.write(rows, folder / "tasks" / f"{name}.jsonl")
        counts[name] = len(rows)
    return counts


def differences(ours: Path, theirs: Path) -> list[str]:
    """List files of `ours` (relative names) that `theirs` lacks or holds with other bytes."""
    files = sorted(p.relative_to(ours) for p in ours.rglob("*") if p.is_file())
    return [
        str(f)
        for f in files
        if not (theirs / f).exists() or (theirs / f).read_bytes() != (ours / f).read_bytes()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 when `--check` finds a difference or something is missing."""
    parser = argparse.ArgumentParser(prog="python -m scripts.company", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; say which files would change"
    )
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            for name, count in build(paths.DATA).items():
                print(f"{name:26} {count:5d} rows")
            return 0
        with tempfile.TemporaryDirectory() as scratch:
            build(Path(scratch))
            changed = differences(Path(scratch), paths.DATA)
    except Qwen3labError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"{name} would change" for name in changed) or "all files are up to date")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
