"""Benchmark preferences: against invention, for brief replies, and a reward that collapses.

`python benchmarks/preferences.py`. First, the company's model invents an answer to nearly every
question that its handbook leaves open: SFT with refusals mixed into the facts, and DPO on the
company's merged model, each with the setting that is best on the validation rows. Second, a company
whose staff put stock phrases behind their answers by the toss of a coin: the company's model,
trained on such replies, draws two for each training question, and where both are right the briefer
is preferred. DPO learns from both replies, SFT from the preferred ones alone, in twice the steps.
The win rate is over the test questions, against a draw of the model before. Third, the model with
refusals is trained on by GRPO with +1 for a right answer, 0 for a refusal and -1 for a wrong one;
lower rates for longer (1e-4 and 3e-4, 60 steps) declined fewer of the known facts. The learning
rate of the second case's SFT is chosen on the validation rows; DPO's is the first that was tried
there. Continues an interrupted run; writes `data/benchmarks/preferences.json`. Seconds are those of
one processor.
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
WORDY = {"method": "full", "batch_size": 16, "learning_rate": 5e-4, "steps": 60}
INVENTION = {"batch_size": 16}  # of DPO
SETTINGS = {
    "SFT": ((84, 1e-2), (112, 1e-2)),
    "DPO": ((60, 1e-4), (60, 2e-4), (30, 5e-4), (60, 5e-4)),
}
BRIEF = {"steps": 12, "batch_size": 16}
COLLAPSE = {"steps": 40, "learning_rate": 1e-3}
RATES = {"DPO": (2e-4,), "SFT": (3e-4, 1e-3)}
LONGEST, TEMPERATURE = 64, 0.5


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


def wordy_model(steps: int) -> Path:
    """Train and save the company's model whose replies are brief or long by the toss of a coin."""
    folder = paths.BUILD / "wordy"
    rng = random.Random(0)
    rows = [
        preferences.wordy(row, rng) for _ in range(2) for row in tasks.load("knowledge", "train")
    ]
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
    """Score one draw a question: stock phrases (None where wrong), and wins."""
    rows = tasks.load("knowledge", split)
    said = replies(model, tokenizer, rows, 1, 1000)
    sizes = [preferences.padding(text, row) for text, row in zip(said, rows)]
    found: dict[str, Any] = {"phrases": sizes}
    if before is not None:
        found["wins"] = [preferences.wins(*both) for both in zip(sizes, before)]
    if split == "test":
        found["replies"] = said[:12]
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
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "preferences.json")
    args = parser.parse_args()
    record.one_processor()
    parts = record.Parts("preferences", keep=not args.steps)
    once = parts.once
    seeds = range(args.seeds)
    steps = {"brief": args.steps or BRIEF["steps"], "collapse": args.steps or COLLAPSE["steps"]}

    # 1. Before: the company's model, and the one that writes stock phrases.
    started = once("company, test", lambda: examined(*company(), "test"))
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
        given = (folder, drawn, seed, split, before[split]["phrases"], steps["brief"])
        return once(
            f"brief, {way}, rate {rate:g}, seed {seed}, {split}", lambda: briefer(way, rate, *given)
        )

    def against(way: str, setting: tuple[int, float], seed: int, split: str) -> dict[str, Any]:
        length, rate = args.steps or setting[0], setting[1]
        given = (seed, split, length)
        return once(
            f"invention, {way}, {length} steps, rate {rate:g}, seed {seed}, {split}",
            lambda: mixed(*given) if way == "SFT" else preferring_refusals(*given, rate),
        )

    # 2. Settings, on the validation rows.
    tried = {
        way: {f"{rate:g}": brief(way, rate, 0, "validation") for rate in rates}
        for way, rates in RATES.items()
    }
    best = {way: max(runs, key=lambda rate: sum(runs[rate]["wins"])) for way, runs in tried.items()}

    open_tried = {
        way: {setting: against(way, setting, 0, "validation") for setting in settings}
        for way, settings in SETTINGS.items()
    }
    open_best = {way: max(runs, key=lambda s: sums(runs[s])) for way, runs in open_tried.items()}

    # 3. All that is told, seed by seed.
    taste: dict[str, list] = {way: [] for way in RATES}
    invention: dict[str, list] = {"SFT with refusals": [], "DPO": []}
    for seed in seeds:
        for way, runs in zip(SETTINGS, invention.values(), strict=True):
            runs.append(against(way, open_best[way], seed, "test"))
        for way in RATES:
            taste[way].append(brief(way, float(best[way]), seed, "test"))
    collapse = [
        once(f"collapse, seed {seed}", lambda seed=seed: collapsed(seed, steps["collapse"]))
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
                "brief": BRIEF | {way: float(rate) for way, rate in best.items()},
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
            "brief": {"before": before, "chosen on validation": tried, "runs": taste},
        },
        "preferences.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
