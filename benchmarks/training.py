"""Benchmark training time to the same held-out loss: a popular guide's recipe against the course's.

`python benchmarks/training.py`. Both train the same adapter (LoRA of rank 16 on the seven
projections) on the company's knowledge, at the same learning rate with the same warm-up, 32 rows
per step. The guide's way: roles as plain text, every token trained, dropout 0.05, four rows at a
time padded to a fixed length, eight of these batches per step, transformers' Trainer. Ours:
`training.fine_tune`. The held-out loss is that of the answers' tokens in the validation wordings,
each in its own format; measuring it does not count as training time. A third part compares tokens
per second with a loop of plain PyTorch over our rows. Continues an interrupted run; writes
`data/benchmarks/training.json`.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from qwen3lab import models, paths, profiles, training
from qwen3lab.data import tasks
from qwen3lab.quiet import quiet

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE, ROWS, WARM_UP = 1e-2, 32, 6
TARGET = (
    1.0  # nats per token; set before the first comparison, a loss that both recipes pass on the way
)
EVERY = 2  # steps between two evaluations of the held-out loss
PATIENCE = 15  # the guide's recipe is stopped after this multiple of our seconds


def guide_text(row: dict[str, Any], answer: str | None) -> str:
    """Format a conversation as the guide does: plain-text role tags, no end of turn.

    The tags are not tokens of the model.
    """
    tags = {"system": "<|System|>", "user": "<|User|>", "assistant": "<|Assistant|>"}
    said = "\n".join(tags[message["role"]] + message["content"] for message in row["messages"])
    return said + "\n<|Assistant|>" + (f"{answer}\n<|Assistant|>" if answer is not None else "")


def guide_row(tokenizer, row: dict[str, Any]) -> dict[str, list[int]]:
    """Encode a row with every token trained."""
    ids = tokenizer(guide_text(row, row["answer"])).input_ids
    return {"input_ids": ids, "labels": list(ids)}


def guide_answer(tokenizer, row: dict[str, Any]) -> dict[str, list[int]]:
    """Encode a row with only the answer scored."""
    prompt, answer = tokenizer(guide_text(row, None)).input_ids, tokenizer(row["answer"]).input_ids
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def our_answer(tokenizer, row: dict[str, Any]) -> dict[str, list[int]]:
    """Encode a row with only the answer scored, without its end token, since the guide has none."""
    example = training.encode(tokenizer, row)
    return {key: values[:-1] for key, values in example.items()}


class Target(TrainerCallback):
    """A callback that stops training at the target loss; `seconds` is the training time alone."""

    def __init__(
        self, held_out: list[dict[str, list[int]]], collator, target: float, limit: float = math.inf
    ):
        self.batches = [
            collator(held_out[start : start + 64]) for start in range(0, len(held_out), 64)
        ]
        self.target, self.limit, self.trace = target, limit, []
        self.count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in self.batches)

    def loss(self, model) -> float:
        """Compute the mean loss over the scored tokens, in nats."""
        model.eval()
        with torch.no_grad():
            total = sum(
                torch.nn.functional.cross_entropy(
                    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                    .logits[:, :-1]
                    .flatten(0, 1)
                    .float(),
                    batch["labels"][:, 1:].flatten(),
                    ignore_index=-100,
                    reduction="sum",
                ).item()
                for batch in self.batches
            )
        model.train()
        return total / self.count

    def on_train_begin(self, args, state, control, **kwargs):
        self.seconds, self.since = 0.0, time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seconds += time.perf_counter() - self.since
        if state.global_step % EVERY == 0:
            self.trace.append(
                {
                    "step": state.global_step,
                    "seconds": round(self.seconds, 3),
                    "loss": round(self.loss(model), 4),
                }
            )
            control.should_training_stop = (
                self.trace[-1]["loss"] <= self.target or self.seconds > self.limit
            )
        self.since = time.perf_counter()
        return control


def collator(tokenizer, length: int | None = None):
    """Create a collator that pads batches to their longest row, or all to `length`."""
    return DataCollatorForSeq2Seq(
        tokenizer, padding="max_length" if length else True, max_length=length
    )


def guide(
    seed: int, length: int | None, target: float, limit: float, steps: int = 400
) -> dict[str, Any]:
    """Train the guide's recipe until the target.

    `length` is the fixed length of its padding, or None for the longest row of a batch.
    """
    model, tokenizer = models.load("chat")
    torch.manual_seed(seed)
    adapted = training.add_lora(model, target_modules=SEVEN, lora_dropout=0.05)
    rows = [guide_row(tokenizer, row) for row in tasks.load("knowledge", "train")]
    watch = Target(
        [guide_answer(tokenizer, row) for row in tasks.load("knowledge", "validation")],
        collator(tokenizer),
        target,
        limit,
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=ROWS // 4,
            learning_rate=RATE,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=WARM_UP,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            logging_steps=1000,
        )
        Trainer(
            adapted,
            settings,
            train_dataset=rows,
            data_collator=collator(tokenizer, length),
            callbacks=[watch],
        ).train()
    return _reached(watch)


def ours(seed: int, target: float, steps: int = 400) -> dict[str, Any]:
    """Train the course's recipe until the target."""
    tokenizer = models.load_tokenizer("chat")
    watch = Target(
        [our_answer(tokenizer, row) for row in tasks.load("knowledge", "validation")],
        collator(tokenizer),
        target,
    )
    training.fine_tune(
        "chat",
        tasks.load("knowledge", "train"),
        method="lora",
        steps=steps,
        batch_size=ROWS,
        learning_rate=RATE,
        seed=seed,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=WARM_UP,
        logging_steps=EVERY,
        callbacks=[watch],
    )
    return _reached(watch)


def _reached(watch: Target) -> dict[str, Any]:
    last = watch.trace[-1]
    return {
        "reached": last["loss"] <= watch.target,
        "seconds": last["seconds"],
        "steps": last["step"],
        "loss": last["loss"],
        "trace": watch.trace,
    }


def trained_tokens_a_second(steps: int, seed: int) -> float:
    """Measure tokens per second of the course's recipe over `steps` steps, by its own clock."""
    return training.fine_tune(
        "chat",
        tasks.load("knowledge", "train"),
        method="lora",
        steps=steps,
        batch_size=ROWS,
        learning_rate=RATE,
        seed=seed,
        logging_steps=10,
    ).tokens_per_second


def bare_tokens_a_second(steps: int, seed: int) -> float:
    """Measure tokens per second of a plain PyTorch loop: no trainer, no logs.

    The rows, the adapter and the optimiser are the same.
    """
    model, tokenizer = models.load("chat")
    torch.manual_seed(seed)
    adapted = training.add_lora(model, target_modules=SEVEN).train()
    rows = [training.encode(tokenizer, row) for row in tasks.load("knowledge", "train")]
    rng, make = random.Random(seed), collator(tokenizer)
    optimizer = torch.optim.AdamW(
        [p for p in adapted.parameters() if p.requires_grad], lr=RATE, fused=True
    )
    batches: list[list[dict[str, list[int]]]] = []
    tokens, started = 0, time.perf_counter()
    for _ in range(steps):
        if not batches:
            order = sorted(
                rng.sample(rows, len(rows)), key=lambda row: len(row["input_ids"])
            )  # grouped by length, as ours
            batches = [
                order[start : start + ROWS] for start in range(0, len(order) - ROWS + 1, ROWS)
            ]
            rng.shuffle(batches)
        batch = make([dict(row) for row in batches.pop()])
        adapted(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(adapted.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(batch["attention_mask"].sum())
    return tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--speed-steps",
        type=int,
        default=60,
        help="steps of each run that compares tokens a second",
    )
    parser.add_argument("--target", type=float, default=TARGET)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "training.json")
    args = parser.parse_args()
    quiet()
    fixed = profiles.get().max_length
    parts = record.Parts("training")

    def measure(seed: int) -> dict[str, Any]:
        mine = ours(seed, args.target)
        limit = PATIENCE * mine["seconds"]
        run = {
            "seed": seed,
            "ours": mine,
            "guide, padded to the longest row": guide(seed, None, args.target, limit),
            f"guide, padded to {fixed}": guide(seed, fixed, args.target, limit),
        }
        # In turns, so that a busy moment of the machine affects both.
        return run | {
            "tokens a second": {
                "ours": trained_tokens_a_second(args.speed_steps, seed),
                "bare loop": bare_tokens_a_second(args.speed_steps, seed),
            }
        }

    runs = [parts.once(f"seed {seed}", lambda: measure(seed)) for seed in range(args.seeds)]
    summary = {}
    for name in [key for key in runs[0] if key.startswith("guide")]:
        ratios = [run[name]["seconds"] / run["ours"]["seconds"] for run in runs]
        summary[name] = {
            "times slower": [round(ratio, 2) for ratio in ratios],
            "median": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "reached": sum(run[name]["reached"] for run in runs),
            "of": len(runs),
        }
    shares = [run["tokens a second"]["ours"] / run["tokens a second"]["bare loop"] for run in runs]
    summary["speed against the bare loop"] = {
        "shares": [round(share, 3) for share in shares],
        "median": round(statistics.median(shares), 3),
    }
    record.write(
        args.out,
        {
            "recipe": {
                "learning_rate": RATE,
                "rows a step": ROWS,
                "warm-up": WARM_UP,
                "target": args.target,
                "given up after": f"{PATIENCE} times our seconds",
            },
            "summary": summary,
            "rows": runs,
        },
        "training.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
