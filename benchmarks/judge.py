"""Benchmark the chat model as a judge, of pairs of answers in both orders and of single answers.

`python benchmarks/judge.py`. Pairs: the answers of notebook 03's adapter (first) and of the chat
model itself (second) to all of `knowledge.test`, with each one's exact match. Grades: the replies
of `qwen3lab.evaluation.ratings.simulated`, in the order of a `session.Session`. Nothing is trained
or chosen here. Writes `data/benchmarks/judge.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import record

from qwen3lab import evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.evaluation import judge
from qwen3lab.evaluation.ratings import session, simulated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="pairs, for a quick look; default: all")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "judge.json")
    args = parser.parse_args()
    (model, tokenizer), (expert, _) = (
        models.load("chat"),
        training.load_adapter(training.company_adapter()),
    )
    facts = tasks.load("knowledge", "test")[: args.rows]
    first, second = (
        evaluation.evaluate_tasks(system, tokenizer, facts, max_new_tokens=16)
        for system in (expert, model)
    )
    judged = judge.pairwise(
        model,
        tokenizer,
        [row["messages"][-1]["content"] for row in facts],
        first.prediction.tolist(),
        second.prediction.tolist(),
    )
    pairs = [
        {
            "id": row["id"],
            "first": one.prediction,
            "second": two.prediction,
            "first right": bool(one.correct),
            "second right": bool(two.correct),
            "leading": round(line.leading, 6),
            "trailing": round(line.trailing, 6),
            "mass": float(f"{line.mass:.4g}"),
        }
        for row, one, two, line in zip(
            facts, first.itertuples(), second.itertuples(), judged.itertuples()
        )
    ]
    sheets = session.Session(
        simulated.answers(), simulated.FILE, rater=next(iter(simulated.RATERS)), seed=simulated.SEED
    ).sheets
    graded = judge.grade(
        model, tokenizer, [sheet.question for sheet in sheets], [sheet.answer for sheet in sheets]
    )
    grades = [
        {"item": sheet.item, "system": sheet.system, "likeliest": int(grade)}
        for sheet, grade in zip(sheets, graded.likeliest)
    ]
    print(
        judge.bias(judged).round(3),
        judge.agreement(judged, first.correct, second.correct).round(3),
        graded.likeliest.value_counts(),
        sep="\n\n",
    )
    record.write(
        args.out,
        {
            "judge": "chat model",
            "first": "adapter of notebook 03",
            "second": "chat model",
            "pairs": pairs,
            "grades": grades,
        },
        "judge.py",
        ("torch", "transformers", "peft"),
        args.note,
    )


if __name__ == "__main__":
    main()
