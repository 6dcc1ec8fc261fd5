"""Fill the table of docs/colab.md from the planner: `python docs/colab.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from qwen3lab import paths
from qwen3lab.course import pages
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import gpus, planner

PAGE = Path(__file__).with_name("colab.md")
CARD = gpus.CARDS["T4 16 GB"]
MODELS = ("0.6B", "1.7B", "4B", "8B", "14B")
LENGTH = 1024  # tokens of the row with which a step is planned
MOST = 32_768  # tokens; longer rows were not asked for


def line(model: str, method: str) -> str:
    """Format the line of one model and method: bytes without a batch, with one row, longest row."""
    static = planner.plan(model, method, float16=True)
    step = planner.plan(model, method, float16=True, batch=1, length=LENGTH)
    longest = gpus.longest(CARD, model, method, most=MOST)
    rows = f"{longest:,}" + (" or more" if longest == MOST else "") if longest else "does not fit"
    return (
        f"| Qwen3-{model} | {planner.LABELS[method]} | {static.total / 1e9:.2f} |"
        f" {step.total / 1e9:.2f} | {CARD.share(step):.0%} | {rows} |"
    )


def table() -> str:
    """Tabulate what the card can train."""
    head = (
        f"| model | method | GB without a batch | GB with a row of {LENGTH:,} tokens"
        " | of the card, reserve included | longest row, tokens |"
    )
    methods = [method for method in planner.METHODS if method != "inference"]
    lines = [line(model, method) for model in MODELS for method in methods]
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def card() -> str:
    """Say which card and which reserve the table is about."""
    return (
        f"The card has {CARD.mib:,} MiB, which is {CARD.bytes / 1e9:.1f} GB (10^9 bytes), and"
        f" {gpus.RESERVE / 1e9:.0f} GB of it is kept free for driver\nand libraries. Float16 with"
        " a scaled loss, adapters of rank 16 on every linear layer in float32, AdamW, activation"
        " checkpointing,\none row a step (more by `gradient_accumulation_steps`)."
    )


def packages() -> str:
    """List the packages of the light installation."""
    text = (paths.ROOT / "requirements-training.txt").read_text(encoding="utf-8")
    names = [re.split("[<>=]", entry)[0] for entry in text.splitlines() if entry[:1] not in "#"]
    return ", ".join(names) + "."


def fill(text: str) -> str:
    """Regenerate what the page has from the planner and from the list of packages.

    Raises Qwen3labError if a marker is missing.
    """
    return pages.fill(text, {"card": card(), "t4": table(), "packages": packages()})


def main() -> int:
    """Print the table and rewrite the page; returns the exit code."""
    print(table())
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
