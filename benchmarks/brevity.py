"""Benchmark a preference for which there is no gold answer: brief replies.

`python benchmarks/brevity.py`. The staff of a company put stock phrases behind their answers by the
toss of a coin. The company's model, trained on such replies with rows of the old tasks in the mix
(a quarter), draws two for each training question, and where both are right the briefer is
preferred. DPO learns from both replies, SFT from the preferred ones alone, in twice the steps. The
win rate is over the test questions, against a draw of the model before; the old tasks are those of
`chat.test`. SFT's learning rate is chosen on the validation rows; DPO's is the first that was tried
there. Continues an interrupted run; writes `data/benchmarks/brevity.json`. Seconds are those of one
processor.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import recipe
import record
from preferences import company

from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.training import preferences, rewards

OLD_ROWS = 340  # a quarter of all rows
WORDY = {"method": "full", "batch_size": 16, "learning_rate": 5e-4, "steps": 80}
BRIEF = {"steps": 12, "batch_size": 16}
RATES = {"DPO": (2e-4,), "SFT": (3e-4, 1e-3)}
LONGEST, TEMPERATURE = 64, 0.5


def wordy_model(steps: int) -> Path:
    """Train and save the company's model whose replies are brief or long by the toss of a coin."""
    folder = paths.BUILD / "wordy"
    rng = random.Random(0)
    rows = [
        preferences.wordy(row, rng) for _ in range(2) for row in tasks.load("knowledge", "train")
    ]
    rows += random.Random(0).sample(tasks.load("chat", "train"), OLD_ROWS)
    model, tokenizer = company()
    training.fine_tune(model, rows, tokenizer=tokenizer, **WORDY | {"steps": steps}, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def replies(model, tokenizer, rows: list[dict[str, Any]], draws: int, seed: int) -> list[str]:
    """Draw replies to rows, those to one row side by side."""
    import torch

    torch.manual_seed(seed)
    said = []
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        _, _, texts, _ = rewards.draw(
            model, tokenizer, batch, rewards.right, draws, longest=LONGEST, temperature=TEMPERATURE
        )
        said += texts
    return said


def preferred(folder: Path, seed: int) -> list[tuple[int, str, str]]:
    """Draw two replies to each training question: (place of the row, briefer, longer).

    Only where both are right and differ in length.
    """
    rows = tasks.load("knowledge", "train")
    said = replies(*models.load(folder, dtype="float32"), rows, 2, seed)
    found = []
    for place, (row, first, second) in enumerate(zip(rows, said[::2], said[1::2])):
        sizes = preferences.padding(first, row), preferences.padding(second, row)
        if None not in sizes and sizes[0] != sizes[1] and max(sizes) <= 4:  # 4: no loops
            order = (first, second) if sizes[0] < sizes[1] else (second, first)
            found.append((place, *order))
    return found


def judged(model, tokenizer, split: str, before: list[int | None] | None) -> dict[str, Any]:
    """Score one draw a question: stock phrases (None where wrong), wins; old tasks on test."""
    rows = tasks.load("knowledge", split)
    said = replies(model, tokenizer, rows, 1, 1000)
    sizes = [preferences.padding(text, row) for text, row in zip(said, rows)]
    found: dict[str, Any] = {"phrases": sizes}
    if before is not None:
        found["wins"] = [preferences.wins(*both) for both in zip(sizes, before)]
    if split == "test":
        found["replies"] = said[:12]
        found["old"] = recipe.kept(model, tokenizer, tasks.load("chat", "test"))
    return found


def briefer(
    way: str,
    rate: float,
    folder: Path,
    drawn: list[tuple[int, str, str]],
    seed: int,
    split: str,
    before: list,
    steps: int,
) -> dict[str, Any]:
    """Train on the preferred replies, alone (SFT) or against the others (DPO), and judge."""
    model, tokenizer = models.load(folder, dtype="float32")
    model.requires_grad_(True)
    rows = tasks.load("knowledge", "train")
    triples = [(rows[place], better, worse) for place, better, worse in drawn]
    start = time.process_time()
    if way == "DPO":
        preferences.dpo(
            model,
            tokenizer,
            [preferences.pair(*triple) for triple in triples],
            learning_rate=rate,
            steps=steps,
            batch_size=BRIEF["batch_size"],
            seed=seed,
        )
    else:
        training.fine_tune(
            model,
            [row | {"answer": better} for row, better, _ in triples],
            tokenizer=tokenizer,
            method="full",
            learning_rate=rate,
            steps=2 * steps,  # a step of DPO reads two replies, one of SFT one
            batch_size=BRIEF["batch_size"],
            seed=seed,
        )
    seconds = round(time.process_time() - start, 1)
    chosen = [preferences.padding(better, row) for row, better, _ in triples]
    return {
        "seed": seed,
        "pairs": len(triples),
        "phrases of the preferred": round(sum(chosen) / max(1, len(chosen)), 3),
        "seconds": seconds,
        **judged(model.eval(), tokenizer, split, before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: the recipes'")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "brevity.json")
    args = parser.parse_args()
    record.one_processor()
    parts = record.Parts("brevity", keep=not args.steps)
    once, steps = parts.once, args.steps or BRIEF["steps"]
    folder = paths.BUILD / "wordy"
    if not (folder / "model.safetensors").is_file():
        wordy_model(args.steps or WORDY["steps"])
    before = {
        split: once(
            f"wordy, {split}",
            lambda split=split: judged(*models.load(folder, dtype="float32"), split, None),
        )
        for split in ("validation", "test")
    }

    def brief(way: str, rate: float, seed: int, split: str) -> dict[str, Any]:
        drawn = once("pairs, seed 0", lambda: preferred(folder, 0))  # the same for every run
        given = (folder, drawn, seed, split, before[split]["phrases"], steps)
        return once(
            f"{way}, rate {rate:g}, seed {seed}, {split}", lambda: briefer(way, rate, *given)
        )

    tried = {
        way: {f"{rate:g}": brief(way, rate, 0, "validation") for rate in rates}
        for way, rates in RATES.items()
    }
    best = {way: max(runs, key=lambda rate: sum(runs[rate]["wins"])) for way, runs in tried.items()}
    record.write(
        args.out,
        {
            "recipe": {"wordy": WORDY | {"old rows": OLD_ROWS}}
            | BRIEF
            | {way: float(rate) for way, rate in best.items()},
            "facts": [row["fact"] for row in tasks.load("knowledge", "test")],
            "before": before,
            "chosen on validation": tried,
            "runs": {
                way: [brief(way, float(best[way]), seed, "test") for seed in range(args.seeds)]
                for way in RATES
            },
        },
        "brevity.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
