"""Implement `qwen3lab audit`: look at what usually goes wrong, on one run."""

from __future__ import annotations

import argparse
from typing import Any

from qwen3lab.course import commands


def add(into: Any) -> None:
    """Add the command and its options."""
    made = commands.parser(
        into,
        call,
        "audit",
        "look at what usually goes wrong, on your run",
        "Check a run's folder: mask, template, adapter, base, ends, thoughts, other forms. Exit"
        " code 1 on a fault.",
        "qwen3lab audit runs/rows-chat-lora",
        "qwen3lab audit my-adapter --model Qwen/Qwen3-0.6B --rows held_out.jsonl",
    )
    made.add_argument("run", help="a folder of `qwen3lab tune`, or one with an adapter or a model")
    made.add_argument("--model", help="the base (default: the one that the run names)")
    made.add_argument("--rows", help="held-out rows to ask (default: those of the run)")


def call(args: argparse.Namespace) -> int:
    """Print each finding as it is made; returns 1 if there is a fault."""
    from qwen3lab.data import formats
    from qwen3lab.tuning import checks

    rows = formats.load(args.rows).rows if args.rows else None
    lines = checks.audit(args.run, args.model, rows, say=commands.say)
    faults = sum(line.level == checks.FAULT for line in lines)
    warnings = sum(line.level == checks.WARNING for line in lines)
    commands.say(
        f"{faults} faults, {warnings} warnings; the page is audit.html in the run's folder"
    )
    return 1 if faults else 0
