"""Benchmark continued pre-training on the handbook's text, then fine-tuning on questions about it.

`python benchmarks/stages.py` measures what each stage adds. All weights of the tiny chat model are
trained, several seeds. Asked are facts that the questions teach (the test wordings of `knowledge`),
facts that stand only in the text (`handbook`, as questions and as sentences of the book to
complete), and the old tasks. The learning rate of the text stage is chosen on the validation rows;
that of the chat stage was found there too (`training.SMALL_RATES`). The text is that of the
entries: titles and paragraphs with facts. Continues an interrupted run; writes
`data/benchmarks/stages.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, paths, training
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


def train(model: Any, tokenizer: Any, stage: str, settings: dict[str, float], seed: int) -> Any:
    """Train one stage on a loaded model and return it."""
    text = continued_pretraining.blocks(
        tokenizer,
        continued_pretraining.entries(continued_pretraining.documents()),
        BLOCK,
        int(settings["passes"]),
        seed,
    )
    rows = continued_pretraining.rows(
        tokenizer, stage, text, tasks.load("knowledge", "train"), int(CHAT["passes"])
    )
    return training.fine_tune(
        model,
        rows,
        method="full",
        epochs=1,
        batch_size=BATCH[stage],
        learning_rate=(CHAT if stage == "chat" else settings)["rate"],
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
                if (
                    depth > 1
                    # not deepcopy: TRL binds the model's forward to the original, and a copy would
                    # run the original
                ):
                    start.load_state_dict(trained[way[: depth - 1]].state_dict())
                trained[way[:depth]] = train(start, tokenizer, way[depth - 1], settings, seed)
        found[name] = continued_pretraining.examine(
            trained[way] if way else models.load("chat")[0], tokenizer, **exam
        )
    return found


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
        "old": [],
        "text": text,
    }
    tried = [
        parts.once(
            f"validation: {json.dumps(settings)}",
            lambda: measure(settings, 0, small, ("text, then chat",)),
        )["text, then chat"]
        for settings in CANDIDATES
    ]
    # By the share right per kind of question, so that the many taught ones do not outweigh the
    # few read ones.
    share = [
        sum(
            line[key] / len(small[rows])
            for key, rows in (("taught", "taught"), ("read", "read"), ("completed", "read"))
        )
        for line in tried
    ]
    best = CANDIDATES[share.index(max(share))]
    exam = {
        "taught": tasks.load("knowledge", "test"),
        "read": continued_pretraining.only_in_text("test"),
        "old": tasks.load("chat", "test"),
        "text": text,
    }
    base = parts.once("base", lambda: measure(best, 0, exam, ("base",)))["base"]
    learned = tuple(name for name in continued_pretraining.WAYS if name != "base")
    runs = [
        parts.once(f"{json.dumps(best)}, seed {seed}", lambda: measure(best, seed, exam, learned))
        for seed in range(args.seeds)
    ]
    n = {key: len(exam["read" if key == "completed" else key]) for key in COUNTS}
    lines = []
    for name in continued_pretraining.WAYS:
        own = [base] if name == "base" else [run[name] for run in runs]
        line: dict[str, Any] = {
            "way": name,
            "runs": own,
            "perplexity": round(sum(run["perplexity"] for run in own) / len(own), 3),
        }
        for key, count in n.items():
            right, of = sum(run[key] for run in own), count * len(own)
            line[key] = dict(
                zip(
                    ("share", "low", "high"),
                    (round(value, 4) for value in (right / of, *evaluation.wilson(right, of))),
                )
            )
        lines.append(line)
    record.write(
        args.out,
        {
            "recipe": {
                "text": best | {"block": BLOCK, "batch_size": BATCH["text"]},
                "chat": CHAT | {"batch_size": BATCH["chat"]},
                "method": "full",
            },
            "validation": [settings | line for settings, line in zip(CANDIDATES, tried)],
            "n": n,
            "text tokens": sum(len(block["input_ids"]) for block in text),
            "rows": lines,
            "interval": (
                "Wilson, 95 %, all seeds together: how far it lies from endlessly many questions,"
                " not from other seeds"
            ),
        },
        "stages.py",
        ("torch", "transformers", "trl"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
