"""Benchmark robustness to prompt wording: how far the scores of two tasks move.

`python benchmarks/wordings.py`. The facts of the company (all of `knowledge.test`) are asked of the
adapter of notebook 03, questions over a text (all of `context.test`) of the chat model. Nothing is
trained or chosen here. Writes `data/benchmarks/wordings.json`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record

from qwen3lab import measure as qwen3lab_measure
from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.evaluation import wordings


def rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def measure(model, tokenizer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute table and spread of all rows, and the spread of each language."""
    answers = wordings.ask(model, tokenizer, rows, max_new_tokens=16)
    table = wordings.table(answers)
    by_language = {
        language: wordings.spread(group) for language, group in answers.groupby("language")
    }
    for name, found in {"all": wordings.spread(answers), **by_language}.items():
        print(name, found, flush=True)
    return {
        "table": [
            {"wording": name} | {key: rounded(value) for key, value in line.items()}
            for name, line in table.to_dict("index").items()
        ],
        "spread": {
            name: {key: rounded(value) for key, value in asdict(found).items()}
            for name, found in {"all": wordings.spread(answers), **by_language}.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="of each task, for a quick look; default: all")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "wordings.json")
    args = parser.parse_args()
    found = {}
    for task, (model, tokenizer) in {
        "knowledge": training.load_adapter(training.company_adapter()),
        "context": models.load("chat"),
    }.items():
        with qwen3lab_measure.clock(task):
            found[task] = measure(model, tokenizer, tasks.load(task, "test")[: args.rows])
    record.write(
        args.out,
        {
            "tasks": found,
            "models": {"knowledge": "adapter of notebook 03", "context": "chat model"},
            "interval": (
                "Wilson, 95 %, of each wording; of the mean: bootstrap over questions. p: McNemar"
                " against the question as written, uncorrected"
            ),
        },
        "wordings.py",
        ("torch", "transformers", "peft"),
        args.note,
    )


if __name__ == "__main__":
    main()
