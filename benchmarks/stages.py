"""Benchmark continued pre-training on the handbook's text, then fine-tuning on questions about it.

`python benchmarks/stages.py` measures what each stage adds. All weights of the tiny chat model are
trained, several seeds. Asked are facts that the questions teach (the test wordings of `knowledge`),
facts that stand only in the text (`handbook`, as questions and as sentences of the book to
complete), and the old tasks. Two controls: chat alone for as many steps as both stages take, and
*replay*, a quarter of all rows from the old tasks. The learning rate of the text stage is chosen on
the validation rows, with replay once more, the old tasks included; that of the chat stage was found
there too (`training.SMALL_RATES`). The text is that of the entries: titles and paragraphs with
facts. Continues an interrupted run; writes `data/benchmarks/stages.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

import record

from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.training import continued_pretraining

BLOCK = 128
BATCH = {"text": 8, "chat": 32, "both": 16}
CHAT = {"passes": 3, "rate": 1e-3}
CANDIDATES = (
    {"passes": 20, "rate": 1e-3},
    {"passes": 20, "rate": 2e-3},
    {"passes": 20, "rate": 4e-3},
)
COUNTS = ("taught", "read", "completed", "old")


def rows_of(tokenizer: Any, stage: str, settings: dict[str, float], seed: int) -> list[Any]:
    """Build a stage's rows, with old tasks in an order drawn by the seed."""
    text = continued_pretraining.blocks(
        tokenizer,
        continued_pretraining.entries(continued_pretraining.documents()),
        BLOCK,
        int(settings["passes"]),
        seed,
    )
    old = tasks.load("chat", "train")
    return continued_pretraining.rows(
        tokenizer,
        stage,
        text,
        tasks.load("knowledge", "train"),
        int(CHAT["passes"]),
        random.Random(seed).sample(old, len(old)),
    )


def steps_of(tokenizer: Any, stage: str, settings: dict[str, float], seed: int) -> int:
    """Count a stage's steps: one epoch of its rows, or for the longer chat those of two stages."""
    if stage == "longer chat":
        return sum(steps_of(tokenizer, other, settings, seed) for other in ("text", "chat"))
    return math.ceil(len(rows_of(tokenizer, stage, settings, seed)) / BATCH[kind(stage)])


def kind(stage: str) -> str:
    return stage.removesuffix(", replay").removeprefix("longer ")


def train(model: Any, tokenizer: Any, stage: str, settings: dict[str, float], seed: int) -> Any:
    """Train one stage on a loaded model and return it."""
    return training.fine_tune(
        model,
        rows_of(tokenizer, stage, settings, seed),
        method="full",
        steps=steps_of(tokenizer, stage, settings, seed),
        batch_size=BATCH[kind(stage)],
        learning_rate=(CHAT if kind(stage) == "chat" else settings)["rate"],
        seed=seed,
        tokenizer=tokenizer,
        train_sampling_strategy="random",
    ).model  # random order: grouped by length, a row's copies would share one step


def measure(
    settings: dict[str, float], seed: int, exam: dict[str, Any], ways: tuple[str, ...]
) -> dict[str, Any]:
    """Train the requested ways, each stage once, and score each."""
    tokenizer, trained, found = models.load_tokenizer("chat"), {}, {}
    for name in ways:
        way = continued_pretraining.WAYS[name]
        for depth in range(1, len(way) + 1):
            if way[:depth] not in trained:
                start = models.load("chat", dtype="float32")[0]
                if depth > 1:
                    # Not deepcopy: TRL binds the model's forward to the original, and a copy would
                    # run the original.
                    start.load_state_dict(trained[way[: depth - 1]].state_dict())
                trained[way[:depth]] = train(start, tokenizer, way[depth - 1], settings, seed)
        found[name] = continued_pretraining.examine(
            trained[way] if way else models.load("chat")[0], tokenizer, **exam
        ) | {"steps": [steps_of(tokenizer, stage, settings, seed) for stage in way]}
    return found


def chosen(found: list[dict[str, Any]], exam: dict[str, Any], keys: tuple[str, ...]) -> dict:
    """Choose the candidate with the highest sum of shares right.

    By share per kind of question, so that the many taught ones do not outweigh the few read ones.
    """
    sums = [
        sum(line[key] / len(exam["read" if key == "completed" else key]) for key in keys)
        for line in found
    ]
    return CANDIDATES[sums.index(max(sums))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "stages.json")
    args = parser.parse_args()
    parts = record.Parts("stages")
    text = continued_pretraining.blocks(
        models.load_tokenizer("chat"),
        continued_pretraining.entries(continued_pretraining.documents()),
        BLOCK,
    )
    small = {
        "taught": tasks.load("knowledge", "validation"),
        "read": continued_pretraining.only_in_text("validation"),
        "old": tasks.load("chat", "validation"),
        "text": text,
    }
    tried = {
        way: [
            parts.once(
                f"validation: {way}, {json.dumps(settings)}",
                lambda: measure(settings, 0, small, (way,)),
            )[way]
            for settings in CANDIDATES
        ]
        for way in ("text, then chat", "text, then chat, replay")
    }
    plain, replayed = tried.values()
    best = chosen(plain, small, COUNTS[:3])
    best_replayed = chosen(replayed, small, COUNTS)
    exam = {
        "taught": tasks.load("knowledge", "test"),
        "read": continued_pretraining.only_in_text("test"),
        "old": tasks.load("chat", "test"),
        "text": text,
    }
    base = parts.once("base", lambda: measure(best, 0, exam, ("base",)))["base"]
    ways = [name for name in continued_pretraining.WAYS if name != "base"]
    without = tuple(name for name in ways if not name.endswith(", replay"))
    with_replay = tuple(name for name in ways if name.endswith(", replay"))
    runs = [
        parts.once(f"{json.dumps(best)}, seed {seed}", lambda: measure(best, seed, exam, without))
        | parts.once(
            f"replay, {json.dumps(best_replayed)}, seed {seed}",
            lambda: measure(best_replayed, seed, exam, with_replay),
        )
        for seed in range(args.seeds)
    ]
    lines = []
    for name in continued_pretraining.WAYS:
        own = [base] if name == "base" else [run[name] for run in runs]
        lines.append({"way": name, "steps": own[0]["steps"], "runs": own})
    record.write(
        args.out,
        {
            "recipe": {
                "text": best | {"block": BLOCK, "batch_size": BATCH["text"]},
                "text, with replay": best_replayed,
                "chat": CHAT | {"batch_size": BATCH["chat"]},
                "method": "full",
            },
            "validation": {
                way: [settings | line for settings, line in zip(CANDIDATES, lines_of)]
                for way, lines_of in tried.items()
            },
            "n": {key: len(exam["read" if key == "completed" else key]) for key in COUNTS},
            "text tokens": sum(len(block["input_ids"]) for block in text),
            "rows": lines,
        },
        "stages.py",
        ("torch", "transformers", "trl"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
