"""Rehearse a run: every cell as it is, but few steps and short answers (`QWEN3LAB_REHEARSAL=1`).

For a workshop on a large model: whether all of it runs on this machine shows in minutes. What a
rehearsed cell measures says nothing about the model, and `Profile.describe` says so.
"""

from __future__ import annotations

import os

VARIABLE = "QWEN3LAB_REHEARSAL"
STEPS = 3  # optimiser steps of a training, at most
TOKENS = 4  # new tokens of an answer, at most
WHAT = (
    f"trainings end after {STEPS} steps and answers after {TOKENS} tokens: it shows that all runs,"
    " not what a model can do"
)


def on() -> bool:
    """Return whether the environment asks for a rehearsal."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("", "0", "no", "false")


def steps(wanted: int) -> int:
    """Return how many of the wanted steps to train."""
    return min(wanted, STEPS) if on() else wanted


def tokens(wanted: int) -> int:
    """Return how many of the wanted new tokens to write."""
    return min(wanted, TOKENS) if on() else wanted


def suffix() -> str:
    """Return what marks the folder of a rehearsed training, so that no real run finds it."""
    return "-rehearsal" if on() else ""
