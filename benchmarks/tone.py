"""Benchmark the tone case of notebook 03: a company's frame around an answer found in a text.

`python benchmarks/tone.py` trains LoRA on the `tone` training rows with rehearsal, rows of the old
tasks in the same number. The learning rate is chosen on the validation rows, one seed each: the
most replies with all marks, answers inside right, and old tasks kept, added up. Then three seeds
are trained and scored on the test rows, and as many without rehearsal, with the same tone rows in
half the steps. Set before any score was seen: all marks in at least 0.95 of the replies, the answer
inside right in at least 0.90, the old tasks within 0.05 of before. Continues an interrupted run;
writes `data/benchmarks/tone.json`, and the first seed's adapter into `data/adapters/tone`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import record
from recipe import kept

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.world import tone

RATES = (2e-3, 4e-3)
COMMON = {"method": "lora", "batch_size": 16, "lora": {"r": 16, "lora_alpha": 32}}
STEPS = 200
TARGETS = {"all marks": 0.95, "answer inside": 0.90, "old tasks lost, at most": 0.05}


def examine(model, tokenizer, split: str) -> dict[str, Any]:
    """Score a split: a digit a row for marks, the answer inside, and the old tasks."""
    rows = tasks.load("tone", split)
    answers = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=48)
    lines = []
    for text, row in zip(answers.prediction, rows):
        marks = tone.marks(text, row["language"], row["customer"])
        said, wanted = (
            evaluation.normalize(tone.inside(reply, row["language"]))
            for reply in (text, row["answer"])
        )
        lines.append({"all": all(marks.values()), **marks, "inside": said == wanted})
    return {
        **{
            key: record.digits(line[key] for line in lines)
            for key in ("all", "thanks", "motto", "inside")
        },
        "old": kept(model, tokenizer, tasks.load("chat", split)),
        "replies": list(answers.prediction) if split == "test" else [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: those of notebook 03")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "tone.json")
    parser.add_argument("--adapter", type=Path, default=paths.DATA / "adapters" / "tone")
    args = parser.parse_args()
    new, old = tasks.load("tone", "train"), tasks.load("chat", "train")
    steps = args.steps or STEPS
    parts = record.Parts("tone", keep=not args.steps)

    def trained(rate: float, split: str, seed: int = 0, rehearsal: bool = True, keep: bool = False):
        rows = new + (old * 2)[: len(new)] if rehearsal else new
        run = training.fine_tune(
            "chat",
            rows,
            **COMMON,
            learning_rate=rate,
            steps=steps if rehearsal else steps // 2,
            seed=seed,
        )
        if keep:
            run.model.save_pretrained(args.adapter)
            (args.adapter / "README.md").unlink(missing_ok=True)  # PEFT's empty template
            config = args.adapter / "adapter_config.json"
            named = json.loads(config.read_text()) | {"base_model_name_or_path": "qwen3-tiny"}
            config.write_text(json.dumps(named, indent=2) + "\n")  # not a path on this machine
        return examine(run.model, run.tokenizer, split) | {
            "seed": seed,
            "steps": run.steps,
            "tokens": run.tokens,
            "seconds": round(run.seconds, 1),
        }

    before = {
        split: parts.once(
            f"before, {split}", lambda split=split: examine(*models.load("chat"), split)
        )
        for split in ("validation", "test")
    }
    tried = {
        f"{rate:g}": parts.once(f"rate {rate:g}", lambda rate=rate: trained(rate, "validation"))
        for rate in RATES
    }
    best = max(
        tried, key=lambda rate: sum(tried[rate][key].count("1") for key in ("all", "inside", "old"))
    )
    runs = {
        way: [
            parts.once(
                f"{way}, seed {seed}",
                lambda way=way, seed=seed: trained(
                    float(best),
                    "test",
                    seed,
                    way == "with rehearsal",
                    keep=seed == 0 and way == "with rehearsal",
                ),
            )
            for seed in range(args.seeds)
        ]
        for way in ("with rehearsal", "tone rows alone")
    }
    record.write(
        args.out,
        {
            "recipe": COMMON | {"steps": steps, "learning_rate": float(best)},
            "tone rows": len(new),
            "targets": TARGETS,
            "before": before,
            "chosen on validation": tried,
            "chosen": best,
            "runs": runs,
        },
        "tone.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
