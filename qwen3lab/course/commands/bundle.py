"""Implement `qwen3lab bundle`: one archive for offline use."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qwen3lab import measure
from qwen3lab.course import commands


def add(into: Any) -> None:
    """Add the command and its options."""
    packer = commands.parser(
        into,
        call,
        "bundle",
        "one archive for a room without a network",
        "Write one archive with the course and the wheels of everything that it needs, for machines"
        " with this system and this Python.\nWho gets it unpacks it and starts install.py; no index"
        " is asked. pip's own settings and cache are used to collect the wheels;\nwith --wheels"
        " nothing is fetched at all.",
        "qwen3lab bundle                           build/qwen3lab-bundle.zip",
        "qwen3lab bundle --check 03                then install it and run notebook 03",
        "qwen3lab bundle --wheels WHEELS --out bundle.zip",
    )
    packer.add_argument(
        "--out", type=Path, help="the file to write (default: build/qwen3lab-bundle.zip)"
    )
    packer.add_argument(
        "--wheels", type=Path, help="take every package from this folder, without an index"
    )
    packer.add_argument(
        "--check",
        metavar="NOTEBOOK",
        help="unpack the archive in a temporary folder, install it there and run this notebook",
    )


def call(args: argparse.Namespace) -> int:
    """Write the archive, optionally test it, and print what it holds."""
    from qwen3lab.course import bundle, notebooks

    if args.check:
        notebooks.find([args.check])
    made = bundle.make(args.out, args.wheels)
    commands.say(
        f"{made.path.name}: {made.bytes / 1e6:,.0f} MB, {made.files:,} files, of them {made.wheels}"
        " wheels"
    )
    if args.check:
        seconds = bundle.try_out(made.path, args.check)
        measure.note(f"notebook {args.check} ran from the unpacked bundle in {seconds:.0f} s")
    return 0
