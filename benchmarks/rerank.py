"""Benchmark searches, their fusion and two rerankers, on the handbook and on a harder set.

`python benchmarks/rerank.py`. The handbook's questions name things that occur once or twice, so
every search does well there. The harder set, of the little world, is drawn as the embedding model's
training was (`world.passages.draw`), with names that no training saw: things that share a word of
their name, facts of one thing in two passages, prose around them. Rerankers see the first ten hits
of a search. One is the chat model in Qwen3-Reranker's prompt, as it is and after a short training
to say yes or no (passages whose names are in no test; for each question the right passage and two
others that BM25 ranks high; the training's settings are chosen on the validation part of the harder
set). The other asks the same chat model in its own prompt, and takes the probability that it does
not decline (`rerank.Reader`), without training. Writes `data/benchmarks/rerank.json`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

from qwen3lab import models, paths, retrieval, training
from qwen3lab.data import tasks
from qwen3lab.data.pdf import read_pdf
from qwen3lab.retrieval import Chunk, Hit, Index, Keywords, Reader, Reranker
from qwen3lab.world import passages

DEPTH = 10  # hits that a reranker reads
FUSED = "fused"
INSTRUCTION = passages.TASK
CHOICES = {
    "lora 1e-2": {"method": "lora", "learning_rate": 1e-2},
    "full 1e-3": {"method": "full", "learning_rate": 1e-3},
}
STEPS, BATCH = 100, 16


def world_set(
    name: str, questions: int, held_out: bool, budget: int = 40_000
) -> tuple[list[Chunk], list[str], list[set[int]]]:
    """Generate passages of `budget` tokens per language, and questions about them.

    Exactly one passage answers each question; half of the questions are English.
    """
    count = lambda text: len(text) // 2
    chunks: list[Chunk] = []
    asked: list[str] = []
    right: list[set[int]] = []
    for language in ("en", "zh"):
        rng = random.Random(f"rerank-{name}-{language}")
        texts, drawn, targets = passages.draw(rng, language, held_out, budget, count)
        first = len(chunks)
        chunks += [Chunk(first + i, text, 1, language) for i, text in enumerate(texts)]
        for i in rng.sample(range(len(drawn)), min(questions // 2, len(drawn))):
            asked.append(drawn[i])
            right.append({first + targets[i]})
    return chunks, asked, right


def handbook_set(split: str, tokenizer) -> tuple[list[Chunk], list[str], list[set[int]]]:
    """Load chunks of the handbook, and the questions of a split that it answers."""
    chunks = retrieval.chunk(read_pdf(paths.HANDBOOK), tokenizer, 100)
    rows = [row for row in tasks.load("handbook", split) if row["answerable"]]
    right = [
        retrieval.relevant_chunks(chunks, row["answer"], row["pages"], row["fact"].split("/")[1])
        for row in rows
    ]
    return chunks, [row["messages"][-1]["content"] for row in rows], right


def training_rows(reranker: Reranker, n: int, seed: int) -> list[dict[str, list[int]]]:
    """Build `n` training rows: for each question its passage and two hard negatives from BM25."""
    rng = random.Random(f"rerank-train-{seed}")
    rows: list[dict[str, list[int]]] = []
    while len(rows) < n:
        texts, asked, targets = passages.draw(
            rng, "zh" if rng.random() < 0.4 else "en", False, 2500, lambda text: len(text) // 2
        )
        chunks = [Chunk(i, text, 1, "") for i, text in enumerate(texts)]
        for question, target, hits in zip(asked, targets, Keywords(chunks).search(asked, 4)):
            others = [hit.chunk.text for hit in hits if hit.chunk.id != target]
            rows += [
                reranker.row(question, texts[target], True),
                *(reranker.row(question, text, False) for text in others[:2]),
            ]
    rng.shuffle(rows)
    return [row for row in rows if len(row["input_ids"]) <= 400][:n]


def first_searches(chunks: list[Chunk], asked: list[str], embedder) -> dict[str, list[list[Hit]]]:
    index = Index.build(chunks, embedder)
    short = Index.build(chunks, embedder, dimension=64)
    found = {
        "dense": index.search(asked, DEPTH),
        "dense (64 numbers)": short.search(asked, DEPTH),
        "BM25": Keywords(chunks).search(asked, DEPTH),
    }
    return found | {FUSED: retrieval.fuse(found["dense"], found["BM25"], k=DEPTH)}


def examine(found: Sequence[Sequence[Hit]], right: Sequence[set[int]]) -> dict[str, Any]:
    ranks = retrieval.first_ranks(found, right)
    return {
        key: round(value, 4)
        for key, value in retrieval.search_marks(found, right, (1, 3, 10)).items()
    } | {"ranks": ranks}


def trained(choice: dict[str, Any], seed: int) -> tuple[Reranker, training.Run]:
    model, tokenizer = training.load("chat", choice["method"])
    rows = training_rows(Reranker(model, tokenizer, INSTRUCTION), STEPS * BATCH, seed)
    run = training.fine_tune(
        model, rows, tokenizer=tokenizer, steps=STEPS, batch_size=BATCH, seed=seed, **choice
    )
    return Reranker(run.model, tokenizer, INSTRUCTION), run


def cost(run: training.Run) -> dict[str, Any]:
    return {
        "seconds": round(run.seconds, 1),
        "trained": run.trained,
        "tokens": run.tokens,
        "loss": round(float(run.history.loss.iloc[-1]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--questions", type=int, default=300, help="of the harder set")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "rerank.json")
    args = parser.parse_args()
    embedder = models.load_embedding()
    model, tokenizer = models.load("chat")
    plain, reader = Reranker(model, tokenizer, INSTRUCTION), Reader(model, tokenizer)

    chunks, asked, right = world_set("validation", 120, True, 15_000)
    candidates = first_searches(chunks, asked, embedder)[FUSED]
    summary = lambda found: {
        key: value for key, value in examine(found, right).items() if key != "ranks"
    }
    tried = {
        "as found": summary(candidates),
        "Reader": summary(reader.rerank(asked, candidates, DEPTH)),
    }
    for name, choice in CHOICES.items():
        reranker, run = trained(choice, 0)
        tried[name] = summary(reranker.rerank(asked, candidates, DEPTH)) | cost(run)
        print(name, tried[name], flush=True)
    best = max(CHOICES, key=lambda name: tried[name]["MRR"])

    result: dict[str, Any] = {
        "depth": DEPTH,
        "steps": STEPS,
        "batch": BATCH,
        "validation": tried,
        "chosen": best,
        "runs": [],
        "sets": {},
    }
    sets = {
        "harder": world_set("test", args.questions, True),
        "handbook": handbook_set("test", tokenizer),
    }
    judges: dict[str, Reranker] = {"yes or no, not trained": plain}
    for seed in range(args.seeds):
        judges[f"yes or no, trained, seed {seed}"], run = trained(CHOICES[best], seed)
        result["runs"].append({"seed": seed, **cost(run)})
    for name, (chunks, asked, right) in sets.items():
        found = first_searches(chunks, asked, embedder)
        lines = {search: examine(hits, right) for search, hits in found.items()}

        def judged(judge: Reranker, hits: list[list[Hit]]) -> dict[str, Any]:
            begun = time.process_time()
            again = judge.rerank(asked, hits, DEPTH)
            return examine(again, right) | {
                "cpu milliseconds": round(1000 * (time.process_time() - begun) / len(asked), 1)
            }

        lines |= {
            f"{search}, Reader": judged(reader, found[search])
            for search in ("dense", "BM25", FUSED)
        }
        lines |= {f"fused, {title}": judged(judge, found[FUSED]) for title, judge in judges.items()}
        result["sets"][name] = {"passages": len(chunks), "questions": len(asked), "lines": lines}
        print(name, {key: line["MRR"] for key, line in lines.items()}, flush=True)
    record.write(
        args.out,
        result,
        "rerank.py",
        ("torch", "transformers", "trl", "peft", "faiss-cpu", "rank-bm25"),
        args.note,
    )


if __name__ == "__main__":
    main()
