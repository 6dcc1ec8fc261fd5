"""Benchmark LoRA against QLoRA in tokens per second, with the same rows and settings, in turns.

`python benchmarks/qlora.py`. The frozen weights are dequantised in each pass, at a fixed cost per
step, whatever the number of tokens: so the number of rows per step is varied. A plain loop
(forward, loss of the answers' tokens, backward, clipping, AdamW) trains the adapters that
`training.fine_tune` would train, without a trainer's own work. Every step is taken by each kind in
turn on the same rows, and the order alternates, so that a machine that slows down slows all; the
ratio of a round is the median over its steps. For the mixture of experts a third kind has its
experts in 4 bits too. Seconds are CPU seconds of this process with one thread. Writes
`data/benchmarks/qlora.json`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
from transformers import DataCollatorForSeq2Seq

from qwen3lab import measure as qwen3lab_measure
from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.models import experts_in_4bit

# Model, rows per step, steps per round: about three seconds each for two kinds on one core.
CASES = (
    ("chat", 1, 30),
    ("chat", 4, 20),
    ("chat", 16, 10),
    ("chat", 32, 8),
    ("moe", 1, 20),
    ("moe", 16, 8),
)
KINDS = {"chat": ("LoRA", "QLoRA"), "moe": ("LoRA", "QLoRA", "QLoRA, experts too")}
COLD = 2  # warm-up steps of a round, not counted
RATE = 1e-3


def load(model: str, kind: str) -> torch.nn.Module:
    """Load the base model of a kind, with the course's adapter."""
    base = (models.load if kind == "LoRA" else models.load_4bit)(model)[0]
    if kind == "QLoRA, experts too":
        experts_in_4bit.quantize_experts(base)
    torch.manual_seed(0)
    return training.add_lora(base).train()


def stepper(adapted: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], float]:
    """Create a function that takes one training step on a batch and returns its CPU seconds."""
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    whole = adapted.base_model.model

    def step(batch: dict[str, torch.Tensor]) -> float:
        began = time.process_time()
        hidden = whole.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).last_hidden_state[:, :-1]
        labels = batch["labels"][:, 1:]
        torch.nn.functional.cross_entropy(
            whole.lm_head(hidden[labels != -100]), labels[labels != -100]
        ).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - began

    return step


def batches(tokenizer: Any, rows: int, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Draw random batches of the company's knowledge, grouped by length as the trainer does it."""
    rng, collate = random.Random(seed), DataCollatorForSeq2Seq(tokenizer)
    pool = [training.encode(tokenizer, row) for row in tasks.load("knowledge", "train")]
    order = sorted(rng.sample(pool, len(pool)), key=lambda row: len(row["input_ids"]))
    starts = [rng.randrange(0, len(order) - rows + 1) for _ in range(count)]
    return [collate([dict(row) for row in order[start : start + rows]]) for start in starts]


def measure(model: str, rows: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Measure all kinds of one case; one line per kind, with the ratio of each round."""
    kinds, tokenizer = KINDS[model], models.load_tokenizer(model)
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    frozen: dict[str, int] = {}
    tokens = 0
    for number in range(rounds):
        adapted = {kind: load(model, kind) for kind in kinds}
        take = {kind: stepper(adapted[kind]) for kind in kinds}
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for place, batch in enumerate(batches(tokenizer, rows, steps + COLD, number)):
            spent = {kind: take[kind](batch) for kind in (kinds if place % 2 else reversed(kinds))}
            if place >= COLD:
                tokens += int(batch["attention_mask"].sum())
                for kind in kinds:
                    found[kind].append(spent[kind])
        for kind in kinds:
            ratios[kind].append(
                statistics.median(base / mine for base, mine in zip(found["LoRA"], found[kind]))
            )
            seconds[kind] += found[kind]
            frozen[kind] = qwen3lab_measure.tensor_bytes(
                p for p in adapted[kind].parameters() if not p.requires_grad
            )
    lines = []
    for kind in kinds:
        a_step = tokens / rounds / steps
        lines.append(
            {
                "model": model,
                "kind": kind,
                "rows a step": rows,
                "tokens a step": round(a_step, 1),
                "steps": rounds * steps,
                "frozen bytes": frozen[kind],
                "tokens a second": round(a_step / statistics.median(seconds[kind]), 1),
                "ratio": round(statistics.median(ratios[kind]), 4),
                "ratios": [round(ratio, 4) for ratio in ratios[kind]],
            }
        )
        print(
            f"{model}, {rows} rows a step, {kind}: {lines[-1]['tokens a second']:,.0f} tokens/s,"
            f" {lines[-1]['ratio']:.3f} of LoRA's ({min(ratios[kind]):.3f} to"
            f" {max(ratios[kind]):.3f})",
            flush=True,
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "qlora.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for model, rows, steps in CASES:
        with qwen3lab_measure.clock(f"{model}, {rows} rows a step"):
            lines += measure(model, rows, steps, args.rounds)
    record.write(
        args.out,
        {"rounds": args.rounds, "rows": lines},
        "qlora.py",
        ("torch", "transformers", "peft", "bitsandbytes"),
        args.note,
    )


if __name__ == "__main__":
    main()
