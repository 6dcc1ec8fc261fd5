"""Implement `qwen3lab tune`: from a file of rows to an examined adapter in one folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from qwen3lab.course import commands
from qwen3lab.errors import Qwen3labError
from qwen3lab.training.sft import METHODS


def add(into: Any) -> None:
    """Add the command and its options."""
    from qwen3lab.quantization.gguf import GGUF_TYPES
    from qwen3lab.tuning.pipeline import LIMIT

    made = commands.parser(
        into,
        call,
        "tune",
        "fine-tune a model on your rows, and examine it",
        "Read rows (CSV, JSON, Parquet, a folder, a hub id), split them, plan the memory, train,"
        " and examine before and after on rows held back. Call it again to go on after a stop.",
        "qwen3lab tune rows.csv",
        "qwen3lab tune rows.csv --columns frage=prompt,antwort=completion --dry-run",
        "qwen3lab tune rows.jsonl --model Qwen/Qwen3-0.6B --method qlora --epochs 3",
        "qwen3lab tune rows.jsonl --gguf q4_k_m --ollama",
    )
    made.add_argument("source", help="a file, a folder, a sample's name or a hub id")
    made.add_argument("--model", default="chat", help="a role, name, folder or hub id (chat)")
    made.add_argument("--method", choices=METHODS, default="lora", help="default: %(default)s")
    made.add_argument("--out", help="folder of the run (default: runs/<file>-<model>-<method>)")
    made.add_argument(
        "--columns", help="the file's columns and what they are: a=prompt,b=completion"
    )
    made.add_argument("--epochs", type=float, help="default: 3; small models train by steps")
    made.add_argument("--steps", type=int, help="optimiser steps, instead of epochs")
    made.add_argument("--rate", type=float, help="learning rate (default: by method and size)")
    made.add_argument("--batch", type=int, help="rows at a time (default: the profile's)")
    made.add_argument("--accumulate", type=int, default=1, help="batches a step (default: 1)")
    made.add_argument("--rank", type=int, default=16, help="of the LoRA (default: %(default)s)")
    made.add_argument(
        "--targets", choices=("attention", "all-linear"), help="of the LoRA (default: all-linear)"
    )
    made.add_argument("--held-out", type=float, default=0.15, help="share of rows (%(default)s)")
    made.add_argument("--answered", type=int, default=100, help="rows answered (%(default)s)")
    made.add_argument("--limit", type=int, default=LIMIT, help="rows drawn at most (%(default)s)")
    made.add_argument(
        "--clean", action="store_true", help="clean as notebook 02 does, and say what"
    )
    made.add_argument("--drop-long", action="store_true", help="leave out rows that are too long")
    made.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the decoder layers (default: where it gains)",
    )
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument("--merge", action="store_true", help="also write the merged model")
    made.add_argument("--gguf", choices=GGUF_TYPES, help="also write a GGUF file of this type")
    made.add_argument("--ollama", action="store_true", help="also write a Modelfile")
    made.add_argument("--push-to-hub", metavar="ID", help="upload the folder, rows left out")
    made.add_argument("--dry-run", action="store_true", help="stop before the training")


def call(args: argparse.Namespace) -> int:
    """Tune, with a transcript on standard output and the progress bar on standard error."""
    from qwen3lab.tuning import pipeline

    given = {key: getattr(args, key) for key in pipeline.Settings.__dataclass_fields__}
    settings = pipeline.Settings(**given | {"columns": columns(args.columns)})
    last = args.source.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    out = Path(args.out or f"runs/{last}-{args.model.rsplit('/', 1)[-1]}-{args.method}")
    forms = pipeline.Forms(
        merge=args.merge, gguf=args.gguf, ollama=args.ollama, push_to_hub=args.push_to_hub
    )
    try:
        pipeline.tune(
            settings,
            out,
            forms=forms,
            dry_run=args.dry_run,
            say=commands.say,
            progress=sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        commands.say(
            f"Stopped. What {out} holds is whole; the same command goes on from there.",
            file=sys.stderr,
        )
        return 1
    return 0


def columns(text: str | None) -> dict[str, str]:
    """Read `a=prompt,b=completion` as a dict.

    Raises Qwen3labError for anything else.
    """
    pairs = [pair.split("=") for pair in text.split(",")] if text else []
    if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise Qwen3labError(
            f"--columns {text!r} is no list of pairs. Write it as column=prompt,other=completion."
        )
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}
