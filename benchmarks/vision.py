"""Benchmark LoRA on the tiny Qwen3-VL: the company's price tags, and what is forgotten for them.

`python benchmarks/vision.py`. Wildon's tags are yellow, with the old price struck out above the new
one, and are answered in a form of the company's own; the model has seen neither. Adapters on the
decoder alone, and on the vision encoder and its mergers too, the rest of the recipe the same. Three
seeds each; examined on tags of held-out prices, fonts and positions, on the old pictures, and on
questions about a text. Continues an interrupted run; writes `data/benchmarks/vision.json`. Seconds
are those of one processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, paths
from qwen3lab.data import tasks
from qwen3lab.models import vision
from qwen3lab.training import pictures as tuning
from qwen3lab.world import pictures

STEPS = 60
EXAM = 40  # pictures of each kind
KINDS = ("company", "scene", "tag", "receipt")


def examine(model, tokenizer, processor, exam: int) -> dict[str, str]:
    """Answer every kind of picture, and questions about a text: a digit a question."""
    found = {}
    for kind in KINDS:
        seen, asked = zip(*pictures.exam(kind, exam))
        written = vision.answer(
            model, tokenizer, processor, [one.image for one in seen], [one.text for one in asked]
        )
        found[kind] = record.digits(
            text == one.answer for text, one in zip(written, asked, strict=True)
        )
    rows = [row for row in tasks.load("context", "test") if row["language"] == "en"][:exam]
    answers = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=16)
    return found | {"text": record.digits(answers.correct)}


def trained(encoder: bool, seed: int, steps: int, exam: int) -> dict[str, Any]:
    """Train adapters on the company's tags and examine the model."""
    model, tokenizer, processor = vision.load()
    start = time.process_time()
    adapted, losses = tuning.fine_tune(
        model, tokenizer, processor, encoder=encoder, seed=seed, steps=steps
    )
    seconds = time.process_time() - start
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "trained": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        "losses": [round(loss, 3) for loss in losses],
        **examine(adapted.eval(), tokenizer, processor, exam),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: the recipe's")
    parser.add_argument("--exam", type=int, default=EXAM, help="questions of each kind")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "vision.json")
    args = parser.parse_args()
    record.one_processor()
    parts = record.Parts("vision", keep=not args.steps)
    before = parts.once("before", lambda: examine(*vision.load(), args.exam))
    runs: dict[str, list] = {}
    for seed in range(args.seeds):
        for way, encoder in (("decoder", False), ("decoder and encoder", True)):
            runs.setdefault(way, []).append(
                parts.once(
                    f"{way}, seed {seed}",
                    lambda encoder=encoder, seed=seed: trained(
                        encoder, seed, args.steps or STEPS, args.exam
                    ),
                )
            )
    record.write(
        args.out,
        {
            "recipe": tuning.RECIPE | {"steps": args.steps or STEPS},
            "questions": {kind: args.exam for kind in (*KINDS, "text")},
            "before": before,
            "runs": runs,
        },
        "vision.py",
        ("torch", "transformers", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
