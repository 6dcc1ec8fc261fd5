"""Implement `qwen3lab progress`: which exercises this learner has solved."""

from __future__ import annotations

import argparse
from typing import Any

from qwen3lab.course import commands


def add(into: Any) -> None:
    """Add the command."""
    commands.parser(
        into,
        call,
        "progress",
        "which exercises you have solved; kept on this machine alone",
        "Show each exercise as open, tried or solved. The record is one file in your cache folder,"
        " and nothing is sent anywhere.",
        "qwen3lab progress",
    )


def call(_args: argparse.Namespace) -> int:
    """Print which exercises this learner has solved, tried and left open."""
    from qwen3lab import exercises

    print(exercises.report())
    return 0
