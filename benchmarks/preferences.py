"""Benchmark preferences against invention, and a reward that collapses.

`python benchmarks/preferences.py`. First, the company's model invents an answer to nearly every
question that its handbook leaves open: SFT with refusals mixed into the facts, and DPO on the
company's merged model, each with the setting that is best on the validation rows. Second, the model
with refusals is trained on by GRPO with +1 for a right answer, 0 for a refusal and -1 for a wrong
one; lower rates for longer (1e-4 and 3e-4, 60 steps) declined fewer of the known facts. Continues
an interrupted run; writes `data/benchmarks/preferences.json`. Seconds are those of one processor.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, paths, prompts, training
from qwen3lab.data import tasks
from qwen3lab.quantization import variants
from qwen3lab.training import preferences, rewards

REFUSALS = 199
MIXED = {"method": "lora", "batch_size": 32, "learning_rate": 1e-2}
INVENTION = {"batch_size": 16}  # of DPO
SETTINGS = {
    "SFT": ((84, 1e-2), (112, 1e-2)),
    "DPO": ((60, 1e-4), (60, 2e-4), (30, 5e-4), (60, 5e-4)),
}
COLLAPSE = {"steps": 40, "learning_rate": 1e-3}


def company() -> tuple[Any, Any]:
    """Load the chat model with the company's adapter merged into it."""
    merged = variants.merged("chat", training.company_adapter(), "float32")
    return models.load(merged, dtype="float32")


def open_rows(split: str) -> list[dict[str, Any]]:
    """Select the questions that the handbook leaves open."""
    return [row for row in tasks.load("handbook", split) if not row["answerable"]]


def examined(model, tokenizer, split: str) -> dict[str, Any]:
    """Score facts and invented answers: a digit a question."""
    facts = evaluation.evaluate_tasks(
        model, tokenizer, tasks.load("knowledge", split), max_new_tokens=16
    )
    unanswerable = evaluation.evaluate_tasks(model, tokenizer, open_rows(split), max_new_tokens=16)
    return {
        "facts": record.digits(facts.correct),
        "facts refused": record.digits(facts.refused),
        "invented": record.digits(~unanswerable.refused),
    }


def sums(found: dict[str, Any]) -> float:
    """Add the share of facts that are right and that of open questions that are declined."""
    facts, invented = found["facts"], found["invented"]
    return facts.count("1") / len(facts) + invented.count("0") / len(invented)


def mixed(seed: int, split: str, steps: int) -> dict[str, Any]:
    """Fine-tune on the facts with refusals in the mix."""
    start = time.process_time()
    run = training.fine_tune(
        "chat",
        tasks.load("knowledge", "train") + preferences.refusals(REFUSALS, seed),
        **MIXED,
        steps=steps,
        seed=seed,
    )
    seconds = round(time.process_time() - start, 1)
    model = run.model.merge_and_unload()
    model.save_pretrained(paths.BUILD / f"mixed-{seed}")
    run.tokenizer.save_pretrained(paths.BUILD / f"mixed-{seed}")
    return {"seed": seed, "seconds": seconds, **examined(model, run.tokenizer, split)}


def collapsed(seed: int, steps: int) -> dict[str, Any]:
    """Train that model by GRPO with +1 for right, 0 for a refusal, -1 for wrong."""
    model, tokenizer = models.load(paths.BUILD / f"mixed-{seed}", dtype="float32")
    rows = preferences.refusals(REFUSALS, seed)
    rows += random.Random(seed).sample(tasks.load("knowledge", "train"), len(rows))
    history = rewards.grpo(
        model,
        tokenizer,
        rows,
        rewards.right_or_silent,
        steps=steps,
        learning_rate=COLLAPSE["learning_rate"],
        seed=seed,
    )
    return {
        "seed": seed,
        "seconds": round(history.seconds.sum(), 1),
        "rewards": history.reward.round(4).tolist(),
        "refused while training": history.refused.round(4).tolist(),
        **examined(model, tokenizer, "test"),
    }


def preferring_refusals(seed: int, split: str, steps: int, rate: float) -> dict[str, Any]:
    """Train DPO: refusals over the model's own inventions, known answers over refusals."""
    model, tokenizer = company()
    start = time.process_time()
    rows = preferences.refusals(REFUSALS, seed)
    invented = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=16).prediction
    pairs = [
        preferences.pair(row, row["answer"], said)
        for row, said in zip(rows, invented)
        if said != row["answer"]
    ]
    for row in random.Random(seed).sample(tasks.load("knowledge", "train"), len(pairs)):
        pairs.append(preferences.pair(row, row["answer"], prompts.REFUSAL[row["language"]]))
    history = preferences.dpo(
        model,
        tokenizer,
        pairs,
        learning_rate=rate,
        steps=steps,
        batch_size=INVENTION["batch_size"],
        seed=seed,
    )
    return {
        "seed": seed,
        "pairs": len(pairs),
        "seconds": round(time.process_time() - start, 1),
        "first loss": round(float(history.loss.iloc[0]), 4),
        **examined(model, tokenizer, split),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: the recipes'")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "preferences.json")
    args = parser.parse_args()
    record.one_processor()
    parts = record.Parts("preferences", keep=not args.steps)
    once = parts.once
    seeds = range(args.seeds)
    collapse_steps = args.steps or COLLAPSE["steps"]
    started = once("company, test", lambda: examined(*company(), "test"))

    def against(way: str, setting: tuple[int, float], seed: int, split: str) -> dict[str, Any]:
        length, rate = args.steps or setting[0], setting[1]
        given = (seed, split, length)
        return once(
            f"invention, {way}, {length} steps, rate {rate:g}, seed {seed}, {split}",
            lambda: mixed(*given) if way == "SFT" else preferring_refusals(*given, rate),
        )

    open_tried = {
        way: {setting: against(way, setting, 0, "validation") for setting in settings}
        for way, settings in SETTINGS.items()
    }
    open_best = {way: max(runs, key=lambda s: sums(runs[s])) for way, runs in open_tried.items()}

    invention: dict[str, list] = {"SFT with refusals": [], "DPO": []}
    for seed in seeds:
        for way, runs in zip(SETTINGS, invention.values(), strict=True):
            runs.append(against(way, open_best[way], seed, "test"))
    collapse = [
        once(f"collapse, seed {seed}", lambda seed=seed: collapsed(seed, collapse_steps))
        for seed in seeds
    ]
    record.write(
        args.out,
        {
            "recipe": {
                "refusals": REFUSALS,
                "mixed": MIXED | {"steps": open_best["SFT"][0]},
                "invention, DPO": INVENTION
                | dict(zip(("steps", "learning_rate"), open_best["DPO"], strict=True)),
                "collapse": COLLAPSE,
            },
            "facts": [row["fact"] for row in tasks.load("knowledge", "test")],
            "invention": {
                "before": started,
                "chosen on validation": {
                    way: {
                        f"{length} steps, rate {rate:g}": runs[length, rate]
                        for length, rate in runs
                    }
                    for way, runs in open_tried.items()
                },
                "runs": invention,
            },
            "collapse": collapse,
        },
        "preferences.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
