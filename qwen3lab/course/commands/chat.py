"""Implement `qwen3lab chat`: talk to a run's model in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from qwen3lab.course import commands


def add(into: Any) -> None:
    """Add the command and its options."""
    made = commands.parser(
        into,
        call,
        "chat",
        "talk to your tuned model",
        "Talk to a run's model; /think and /adapter switch thoughts and the adapter.",
        "qwen3lab chat runs/rows-chat-lora",
    )
    made.add_argument("run", help="a folder of `qwen3lab tune`, or one with an adapter or a model")
    made.add_argument("--model", help="the base (default: the one that the run names)")
    made.add_argument("--think", action="store_true", help="begin with thoughts on")
    made.add_argument("--tokens", type=int, default=256, help="of an answer (default: %(default)s)")


def call(args: argparse.Namespace) -> int:
    """Hold the conversation; returns 0."""
    from qwen3lab.tuning import conversation

    opened = conversation.open_run(
        args.run, args.model, thinking=args.think, max_new_tokens=args.tokens
    )
    conversation.talk(opened)
    return 0
