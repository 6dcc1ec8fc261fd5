"""Benchmark continued pre-training on the handbook's text, then fine-tuning on questions about it.

`python benchmarks/stages.py` measures what each stage adds. All weights of the tiny chat model are
trained, several seeds. Asked are facts that the questions teach (the test wordings of `knowledge`),
facts that stand only in the text (`handbook`, as questions and as sentences of the book to
complete), and the old tasks. The learning rate of the text stage is chosen on the validation rows;
that of the chat stage was found there too (`training.SMALL_RATES`). The text is that of the
entries: titles and paragraphs with facts. The control is the chat stage alone for as many steps as
both stages take. Runs of the committed record are kept where the recipe is the same, each with its
date; `--again` trains them anew. Continues an interrupted run; writes
`data/benchmarks/stages.json`.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import record

from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.training import continued_pretraining

BLOCK = 128
BATCH = {"text": 8, "chat": 32, "both": 16}
CHAT = {"passes": 3, "rate": 1e-3}
LONGER = 7  # passes of the control: 112 steps, where text and chat take 62 and 48
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
    kind, _, how = stage.partition(", ")
    passes = LONGER if how == "longer" else int(CHAT["passes"])
    rows = continued_pretraining.rows(
        tokenizer, kind, text, tasks.load("knowledge", "train"), passes
    )
    return training.fine_tune(
        model,
        rows,
        method="full",
        epochs=1,
        batch_size=BATCH[kind],
        learning_rate=(CHAT if kind == "chat" else settings)["rate"],
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
        model = trained[way] if way else models.load("chat")[0]
        scores = continued_pretraining.examine(model, tokenizer, **exam)
        found[name] = {"date": date.today().isoformat()} | scores
    return found


def stored(path: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Read the committed choice of the rate, and the runs by way, each with its date."""
    told = json.loads(path.read_text(encoding="utf-8"))
    day = {"date": told["measured"]["date"]}
    return told["validation"], {
        row["way"]: [day | run for run in row["runs"]] for row in told["rows"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="keep no run of the committed record")
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
    tried, known = ([], {}) if args.again else stored(args.out)
    tried = tried or [
        settings
        | parts.once(
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
    for name in continued_pretraining.WAYS:
        seeds = [0] if name == "base" else range(args.seeds)
        known[name] = known.get(name) or [
            parts.once(
                f"{name}, {json.dumps(best)}, seed {seed}",
                lambda n=name, s=seed: measure(best, s, exam, (n,))[n],
            )
            for seed in seeds
        ]
    lines = [{"way": name, "runs": known[name]} for name in continued_pretraining.WAYS]
    record.write(
        args.out,
        {
            "recipe": {
                "text": best | {"block": BLOCK, "batch_size": BATCH["text"]},
                "chat": CHAT | {"batch_size": BATCH["chat"]},
                "method": "full",
            },
            "control": {"passes": LONGER},
            "validation": tried,
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
