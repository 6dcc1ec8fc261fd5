"""`python benchmarks/service.py`: the case study of notebook 03, a company's tone in dialogues of several turns.

LoRA on `service` training rows. Rate and steps are chosen on the validation rows, one seed each; the winner is trained with
several seeds and asked the test rows: the style score of `company.tone`, replies with all three marks, replies that equal the
reference, and old tasks. Goes on where it was stopped; writes `data/benchmarks/service.json`, and the first seed's adapter into
`data/adapters/service`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, models, monitoring, paths, training
from qwen3lab.company import tone
from qwen3lab.data import tasks

CHOICES = {f"rate {rate:g}, {steps} steps": {"learning_rate": rate, "steps": steps} for rate in (4e-3, 1e-2) for steps in (60, 120)}
COMMON = {"method": "lora", "batch_size": 16, "lora": {"r": 8, "lora_alpha": 16}}
OLD = {"context": 40, "unanswerable": 20, "addition": 40}  # rows of each old task, as in benchmarks/lora.py


def examine(model, tokenizer, split: str, old: bool = False) -> dict[str, Any]:
    """Ask a split's rows, and the old tasks' if wanted."""
    rows = tasks.load("service", split)
    answers = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=96)
    scores = [tone.style_score(text, row["customer"]) for text, row in zip(answers.prediction, rows)]
    found: dict[str, Any] = {"n": len(rows), "style": round(sum(scores) / len(scores), 4), "all marks": sum(score == 1 for score in scores), "equal": int(answers.correct.sum())}
    for mark in ("opening", "promise", "closing"):
        found[mark] = sum(tone.marks(text, row["customer"])[mark] for text, row in zip(answers.prediction, rows))
    for turns in sorted({row["turns"] for row in rows}):
        chosen = [score for score, row in zip(scores, rows) if row["turns"] == turns]
        found[f"turns {turns}"] = {"n": len(chosen), "all marks": sum(score == 1 for score in chosen)}
    if old:
        before = [row for task, count in OLD.items() for row in tasks.load(task, "validation")[:count]]
        found |= {"old": int(evaluation.evaluate_tasks(model, tokenizer, before, max_new_tokens=96).correct.sum()), "old n": len(before)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows; default: all")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "service.json")
    parser.add_argument("--adapter", type=Path, default=paths.DATA / "adapters" / "service")
    args = parser.parse_args()
    train = tasks.load("service", "train")[:args.rows]
    part = paths.BUILD / "service.partial.json"
    done: dict[str, Any] = json.loads(part.read_text()) if part.is_file() and not args.rows else {}

    def once(key: str, make) -> Any:
        if key not in done:
            with monitoring.clock(key):
                done[key] = make()
            if not args.rows:
                part.parent.mkdir(exist_ok=True)
                part.write_text(json.dumps(done))
            print(key, {name: value for name, value in done[key].items() if name != "history"}, flush=True)
        return done[key]

    def trained(choice: dict[str, Any], split: str, seed: int = 0, keep: bool = False, old: bool = False) -> dict[str, Any]:
        run = training.fine_tune("chat", train, **COMMON, **choice, seed=seed)
        if keep:
            run.model.save_pretrained(args.adapter)
            (args.adapter / "README.md").unlink(missing_ok=True)  # PEFT's form without content
        history = [[int(step), round(loss, 4)] for step, loss in zip(run.history.step, run.history.loss)] if keep else []
        return examine(run.model, run.tokenizer, split, old) | {"seed": seed, "tokens": run.tokens, "seconds": round(run.seconds, 1), "history": history}

    model, tokenizer = models.load("chat")
    before = once("before", lambda: examine(model, tokenizer, "test", old=True))
    tried = {name: once(name, lambda choice=choice: trained(choice, "validation")) for name, choice in CHOICES.items()}
    best = max(tried, key=lambda name: (tried[name]["all marks"], tried[name]["equal"]))
    runs = [once(f"seed {seed}", lambda seed=seed: trained(CHOICES[best], "test", seed, keep=seed == 0, old=True)) for seed in range(args.seeds)]
    record.write(args.out, {"recipe": COMMON | CHOICES[best], "training rows": len(train), "before": before,
                            "chosen on validation": {name: {key: value for key, value in line.items() if key != "history"} for name, line in tried.items()}, "chosen": best, "runs": runs},
                 "service.py", ("torch", "transformers", "trl", "peft"), args.note)


if __name__ == "__main__":
    main()
