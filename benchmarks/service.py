"""Benchmark the service case study of notebook 03: a company's tone in multi-turn dialogues.

`python benchmarks/service.py` trains LoRA on `service` training rows, alone, and together with the
embeddings of those tokens that the model had never been shown (`qwen3lab.training.new_tokens`). The
learning rate is chosen on the validation rows, one seed each. Both ways are then trained with
several seeds and scored on the test rows: the style score of `world.tone`, replies with all three
marks, replies that equal the reference, and old tasks. Continues an interrupted run; writes
`data/benchmarks/service.json`, and the first seed's adapter with the new words into
`data/adapters/service`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.training import new_tokens
from qwen3lab.world import tone

CHOICES = {f"rate {rate:g}": {"learning_rate": rate} for rate in (4e-3, 1e-2)}
COMMON = {"method": "lora", "batch_size": 16, "steps": 150, "lora": {"r": 16, "lora_alpha": 32}}
WAYS = ("adapter alone", "adapter and new words")
OLD = {
    "context": 40,
    "unanswerable": 20,
    "addition": 40,
}  # rows of each old task, as in benchmarks/lora.py


def examine(model, tokenizer, split: str, old: bool = False) -> dict[str, Any]:
    """Score a split's rows, and optionally the old tasks' rows."""
    rows = tasks.load("service", split)
    answers = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=96)
    scores = [
        tone.style_score(text, row["customer"]) for text, row in zip(answers.prediction, rows)
    ]
    found: dict[str, Any] = {
        "n": len(rows),
        "style": round(sum(scores) / len(scores), 4),
        "all marks": sum(score == 1 for score in scores),
        "equal": int(answers.correct.sum()),
    }
    for mark in ("opening", "promise", "closing"):
        found[mark] = sum(
            tone.marks(text, row["customer"])[mark] for text, row in zip(answers.prediction, rows)
        )
    for turns in sorted({row["turns"] for row in rows}):
        chosen = [score for score, row in zip(scores, rows) if row["turns"] == turns]
        found[f"turns {turns}"] = {
            "n": len(chosen),
            "all marks": sum(score == 1 for score in chosen),
        }
    if old:
        before = [
            row for task, count in OLD.items() for row in tasks.load(task, "validation")[:count]
        ]
        found |= {
            "old": int(
                evaluation.evaluate_tasks(model, tokenizer, before, max_new_tokens=96).correct.sum()
            ),
            "old n": len(before),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows; default: all")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "service.json")
    parser.add_argument("--adapter", type=Path, default=paths.DATA / "adapters" / "service")
    args = parser.parse_args()
    train = tasks.load("service", "train")[: args.rows]
    parts = record.Parts("service", keep=not args.rows)

    def trained(
        way: str,
        choice: dict[str, Any],
        split: str,
        seed: int = 0,
        keep: bool = False,
        old: bool = False,
    ) -> dict[str, Any]:
        settings = COMMON | choice
        if way == WAYS[1]:
            settings |= {
                "lora": (
                    COMMON["lora"]
                    | new_tokens.adapter(
                        model, tokenizer, [training.encode(tokenizer, row) for row in train]
                    )
                )
            }
        run = training.fine_tune("chat", train, **settings, seed=seed)
        if keep:
            run.model.save_pretrained(args.adapter)
            (args.adapter / "README.md").unlink(missing_ok=True)  # PEFT's empty template
            config = args.adapter / "adapter_config.json"
            config.write_text(
                json.dumps(
                    json.loads(config.read_text()) | {"base_model_name_or_path": "qwen3-tiny"},
                    indent=2,
                )
                + "\n"
            )  # not a path on this machine
        return examine(run.model, run.tokenizer, split, old) | {
            "seed": seed,
            "tokens": run.tokens,
            "trained": run.trained,
            "seconds": round(run.seconds, 1),
        }

    model, tokenizer = models.load("chat")
    before = parts.once("before", lambda: examine(model, tokenizer, "test", old=True))
    tried = {
        name: parts.once(name, lambda choice=choice: trained(WAYS[1], choice, "validation"))
        for name, choice in CHOICES.items()
    }
    best = max(tried, key=lambda name: (tried[name]["all marks"], tried[name]["equal"]))
    runs = {
        way: [
            parts.once(
                f"{way}, seed {seed}",
                lambda way=way, seed=seed: trained(
                    way, CHOICES[best], "test", seed, keep=seed == 0 and way == WAYS[1], old=True
                ),
            )
            for seed in range(args.seeds)
        ]
        for way in reversed(WAYS)
    }
    words = new_tokens.tokens(model, tokenizer, [training.encode(tokenizer, row) for row in train])
    record.write(
        args.out,
        {
            "recipe": COMMON | CHOICES[best],
            "training rows": len(train),
            "new words": len(words),
            "before": before,
            "chosen on validation": tried,
            "chosen": best,
            "runs": {way: runs[way] for way in WAYS},
        },
        "service.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
