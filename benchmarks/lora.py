"""Run the LoRA ablation: one setting at a time, changed around the recipe of notebook 03.

`python benchmarks/lora.py`, several seeds each. The rows are the company's knowledge; scored are
the validation wordings, since settings are chosen on them. The test wordings play no part.
Forgetting is measured too: the accuracy on the old tasks' validation rows. Continues an interrupted
run; writes `data/benchmarks/lora.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import record

from qwen3lab import evaluation, paths, training
from qwen3lab.data import tasks

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
# Setting -> values; each line is one change of the recipe (rank 16, alpha 32, every linear layer,
# no dropout, rate 1e-2).
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "recipe": {"as notebook 03": {}},
    "rank": {str(r): {"lora": {"r": r, "lora_alpha": 2 * r}} for r in (1, 2, 4, 8, 32)},
    "alpha / rank": {str(a / 16): {"lora": {"lora_alpha": a}} for a in (4, 8, 16, 64)},
    "layers": {
        "attention": {"lora": {"target_modules": training.ATTENTION}},
        "MLP": {"lora": {"target_modules": MLP}},
        "query and value": {"lora": {"target_modules": ["q_proj", "v_proj"]}},
    },
    "dropout": {str(p): {"lora": {"lora_dropout": p}} for p in (0.05, 0.2)},
    "mixture": {
        "attention": {"model": "moe"},
        "attention and experts": {
            "model": "moe",
            "lora": {"target_modules": training.ATTENTION, "target_parameters": EXPERTS},
        },
    },
    "learning rate": {f"{rate:g}": {"learning_rate": rate} for rate in (5e-4, 2e-3, 4e-3, 2e-2)},
}
OLD = {"context": 40, "unanswerable": 20, "addition": 40}  # rows of each old task


def measure(change: dict[str, Any], seed: int, steps: int | None) -> dict[str, Any]:
    """Train once with a change of the recipe and score it."""
    recipe = (
        training.company_recipe() | ({"steps": steps} if steps else {}) | {"model": "chat"} | change
    )
    run = training.fine_tune(
        recipe.pop("model"), tasks.load("knowledge", "train"), **recipe, seed=seed
    )
    old_rows = [
        row for task, count in OLD.items() for row in tasks.load(task, "validation")[:count]
    ]
    new = evaluation.evaluate_tasks(
        run.model, run.tokenizer, tasks.load("knowledge", "validation"), max_new_tokens=16
    )
    old = evaluation.evaluate_tasks(run.model, run.tokenizer, old_rows, max_new_tokens=96)
    return {
        "seed": seed,
        "right": int(new.correct.sum()),
        "n": len(new),
        "old right": int(old.correct.sum()),
        "old n": len(old),
        "loss": round(float(run.history.loss.iloc[-1]), 4),
        "trained": run.trained,
        "seconds": round(run.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each training; default: those of notebook 03")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "lora.json")
    args = parser.parse_args()
    parts = record.Parts("lora", keep=not args.steps)
    lines = []
    for setting, values in CHANGES.items():
        for value, change in values.items():
            runs = [
                parts.once(
                    f"{setting} {value}, seed {seed}", lambda: measure(change, seed, args.steps)
                )
                for seed in range(args.seeds)
            ]
            right, n = (sum(run[key] for run in runs) for key in ("right", "n"))
            print(
                f"{setting} {value}: {right} of {n}, old tasks {[run['old right'] for run in runs]}"
                f" of {runs[0]['old n']}",
                flush=True,
            )
            lines.append({"setting": setting, "value": value, "runs": runs})
    record.write(
        args.out,
        {
            "recipe": (
                training.company_recipe()
                | {
                    "steps": args.steps or training.company_recipe()["steps"],
                    "r": 16,
                    "lora_alpha": 32,
                }
            ),
            "split": "validation",
            "rows": lines,
        },
        "lora.py",
        ("torch", "transformers", "trl", "peft"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
