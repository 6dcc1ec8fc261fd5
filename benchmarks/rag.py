"""Benchmark RAG, fine-tuning and long context on handbook questions: accuracy and hallucinations.

`python benchmarks/rag.py` measures notebook 08's systems. Chosen on the validation questions of
`handbook`: chunk size and k (with the chat model as it is), the learning rate of the training for
retrieval, k for each trained reader, and a threshold on the search's score. Then all test questions
go to: the model with a closed book, fine-tuned on the facts (`knowledge.train`), with retrieval,
fine-tuned and with retrieval, with the first pages of the book in the prompt, with the whole book
window by window, and trained for retrieval (`retrieval.training_rows`, made from the questions of
`knowledge.train` alone), by what its rows contain. Everything trained is trained with several
seeds. For every question the outcome is stored, one letter each (`retrieval.grading`), so that any
table can be computed from them. Search is scored separately. Last, the latency from question to
answer, in process and over llama.cpp's HTTP endpoint. Continues an interrupted run; writes
`data/benchmarks/rag.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

from qwen3lab import evaluation, models, paths, quantization, retrieval, serving, training
from qwen3lab.data import tasks
from qwen3lab.data.pdf import chapters, read_pdf
from qwen3lab.models import generation
from qwen3lab.retrieval import chat_panel, training_rows, whole_book

SIZES, KS = (50, 100, 200, 400), (1, 2, 3, 5)  # tokens per chunk, chunks in the prompt
READ = (1, 3, 5)  # chunks for the readers that are compared
MOST = 5  # hits kept per search
STEPS, BATCH = 50, 16
RATES = (2e-3, 4e-3, 1e-2)
ROWS = {
    "distractors": ("among others",),
    "distractors and gaps": training_rows.KINDS[1:],
}  # kinds of rows per training
MIXED = (  # the rows of the last kind and the closed-book rows, twice the steps
    "distractors, gaps and facts"
)
OLD = {
    "context": 40,
    "unanswerable": 20,
    "addition": 40,
}  # rows of each old task, as in benchmarks/lora.py
TIMED = 200  # questions


def ask(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]


def closed(model, tokenizer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Score the answers to the questions alone (closed book)."""
    return {
        "codes": retrieval.codes(
            rows,
            generation.generate(
                model,
                tokenizer,
                [row["messages"] for row in rows],
                max_new_tokens=chat_panel.LONGEST,
            ),
        )
    }


def outcomes(rows: list[dict[str, Any]], answers: list[retrieval.Answer]) -> dict[str, Any]:
    return {
        "codes": retrieval.codes(rows, [answer.text for answer in answers]),
        "cited": retrieval.cited(rows, answers),
    }


def reading(
    model, tokenizer, rows: list[dict[str, Any]], hits: list[list[retrieval.Hit]], k: int
) -> dict[str, Any]:
    """Score the answers with the first k hits in the prompt."""
    return outcomes(
        rows, retrieval.answer_all(model, tokenizer, ask(rows), [found[:k] for found in hits])
    )


def searched(
    rows: list[dict[str, Any]], chunks: list[retrieval.Chunk], hits: list[list[retrieval.Hit]]
) -> dict[str, Any]:
    """Score the search on the questions that have an answer.

    Questions whose thing and value are in no single chunk are counted as lost.
    """
    relevant = [
        (
            retrieval.relevant_chunks(
                chunks, row["answer"], row["pages"], row["fact"].split("/")[1]
            )
            if row["answerable"]
            else set()
        )
        for row in rows
    ]
    kept = [place for place, right in enumerate(relevant) if right]
    marks = retrieval.search_marks(
        [hits[place] for place in kept], [relevant[place] for place in kept], KS
    )
    return {name: round(value, 4) for name, value in marks.items()} | {
        "lost by cutting": sum(row["answerable"] for row in rows) - len(kept)
    }


def accuracy(found: dict[str, Any]) -> int:
    return found["codes"].count("R")


def waits(
    one: Callable[[str], tuple[float, ...]], questions: list[str], names: tuple[str, ...]
) -> dict[str, Any]:
    """Measure the latency of each step in milliseconds: median, 95th percentile, longest."""
    for question in questions[:5]:
        one(question)  # warm-up
    times = 1000 * np.array([one(question) for question in questions])
    return {
        "n": len(times),
        **{
            name: {
                "p50": round(float(np.percentile(column, 50)), 1),
                "p95": round(float(np.percentile(column, 95)), 1),
                "longest": round(float(column.max()), 1),
            }
            for name, column in zip(names, times.T)
        },
        "share under 300": round(float((times[:, -1] < 300).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--questions",
        type=int,
        help=(
            "test and validation questions; default: all; given, nothing is kept for the next start"
        ),
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument(
        "--minutes",
        type=float,
        help=(
            "stop after the part during which they have passed (exit code 3); the next start"
            " goes on"
        ),
    )
    parser.add_argument(
        "--again",
        nargs="*",
        default=[],
        help=(
            "beginnings of the names of parts that are to be measured anew, for example 'wait';"
            " all: '' (the parts of a finished run are kept)"
        ),
    )
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "rag.json")
    args = parser.parse_args()
    # Kept after the record is written, unlike in other benchmarks: it takes hours, and `--again`
    # repeats single parts of it.
    started, so_far = time.perf_counter(), record.Parts("rag", keep=not args.questions)
    done = so_far.found
    for key in [key for key in done if key.startswith(tuple(args.again))]:
        del done[key]

    def once(key: str, make: Callable[[], Any]) -> Any:
        if key not in done:
            so_far.once(key, make)
            if args.minutes and time.perf_counter() - started > 60 * args.minutes:
                sys.exit(3)
        return done[key]

    test, validation = (
        tasks.load("handbook", split)[: args.questions] for split in ("test", "validation")
    )
    taught = tasks.load("knowledge", "train")
    model, tokenizer = models.load("chat")
    embedder = models.load_embedding()
    parts = chapters(read_pdf(paths.HANDBOOK))

    book = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    if done.setdefault("book", book) != book:
        print("the book is read otherwise than before: everything is measured anew", flush=True)
        done.clear()
        done["book"] = book

    def library(size: int) -> tuple[list[retrieval.Chunk], retrieval.Index]:
        chunks = retrieval.chunk(parts, tokenizer, size)
        return chunks, retrieval.Index.build(chunks, embedder)

    # Chunk size and k, on the validation questions.
    grid = []
    for size in SIZES:
        missing = [
            k for k in KS if f"grid {size} {k}" not in done
        ] or f"grid {size} search" not in done
        if missing:
            chunks, index = library(size)
            hits = index.search(ask(validation), MOST)
            once(
                f"grid {size} search",
                lambda: searched(validation, chunks, hits) | {"chunks": len(chunks)},
            )
        for k in KS:
            found = once(
                f"grid {size} {k}",
                lambda: (
                    reading(model, tokenizer, validation, hits, k)
                    | {
                        "read": round(
                            float(
                                np.mean(
                                    [
                                        len(
                                            retrieval.prompt(
                                                tokenizer,
                                                question,
                                                own[:k],
                                                512 - chat_panel.LONGEST,
                                            )[1]
                                        )
                                        for question, own in zip(ask(validation), hits)
                                    ]
                                )
                            ),
                            3,
                        )
                    }
                ),
            )
            grid.append({"tokens": size, "k": k} | done[f"grid {size} search"] | found)
    best = max(
        grid, key=lambda line: (accuracy(line), -line["tokens"] * line["k"])
    )  # ties: the shorter prompt
    size, k = best["tokens"], best["k"]
    print(f"chosen on validation: chunks of {size} tokens, k = {k}", flush=True)
    chunks, index = library(size)
    ranked, ranked_validation = index.search(ask(test), MOST), index.search(ask(validation), MOST)
    best_scores = lambda hits: [round(found[0].score, 4) for found in hits]

    # Training for retrieval: the rate on validation, then the kinds of rows, with several seeds.
    def train(rows: list[dict[str, Any]], rate: float, seed: int, steps: int) -> training.Run:
        return training.fine_tune(
            "chat",
            rows,
            method="lora",
            steps=steps,
            batch_size=BATCH,
            learning_rate=rate,
            seed=seed,
        )

    kept: dict[str, Any] = {}  # the models are small enough to keep

    def reader(name: str, seed: int, rate: float):
        """Return a trained model, its seconds and its tokens."""
        key = f"{name} {seed} {rate if name != 'facts' else ''}"
        if key not in kept:
            if name == "facts":
                run = training.fine_tune("chat", taught, **training.company_recipe(), seed=seed)
            elif name == MIXED:
                run = train(
                    taught + training_rows.rows(taught, index, tokenizer, seed=seed),
                    rate,
                    seed,
                    2 * args.steps,
                )
            else:
                run = train(
                    training_rows.rows(taught, index, tokenizer, kinds=ROWS[name], seed=seed),
                    rate,
                    seed,
                    args.steps,
                )
            kept[key] = run.model, round(run.seconds, 1), run.tokens
        return kept[key]

    def read_validation(name: str, seed: int, rate: float) -> dict[str, Any]:
        trained, seconds, tokens = reader(name, seed, rate)
        return {
            str(n): reading(trained, tokenizer, validation, ranked_validation, n) for n in READ
        } | {"seconds": seconds, "tokens": tokens}

    tried = {
        str(rate): once(f"rate {rate}", lambda: read_validation("distractors and gaps", 0, rate))
        for rate in RATES
    }
    rate = float(
        max(tried, key=lambda name: sum(accuracy(tried[name][str(n)]) for n in READ))
    )  # over all k, which are chosen later

    # The test questions.
    def old(trained) -> dict[str, int]:
        rows = [
            row for task, count in OLD.items() for row in tasks.load(task, "validation")[:count]
        ][: args.questions]
        return {
            "right": int(
                evaluation.evaluate_tasks(trained, tokenizer, rows, max_new_tokens=96).correct.sum()
            ),
            "n": len(rows),
        }

    def examine(name: str, seed: int) -> dict[str, Any]:
        trained, seconds, _ = reader(name, seed, rate)
        found = {str(n): reading(trained, tokenizer, test, ranked, n) for n in READ}
        return (
            found
            | {"old": old(trained), "seconds": seconds}
            | ({"closed": closed(trained, tokenizer, test)} if name in ("facts", MIXED) else {})
        )

    plain = {
        str(line["k"]): {"codes": line["codes"]}
        for line in grid
        if line["tokens"] == size and line["k"] in READ
    }
    on_validation, runs = {"RAG": plain}, {}
    for name in (
        "facts",
        *ROWS,
        MIXED,
    ):  # the first training of each is used for both, one after the other
        on_validation[name] = once(f"validation {name}", lambda: read_validation(name, 0, rate))
        runs[name] = [
            once(f"{name} {seed}", lambda: examine(name, seed)) for seed in range(args.seeds)
        ]
    ks = {
        name: max(READ, key=lambda n: (accuracy(found[str(n)]), -n))
        for name, found in on_validation.items()
    }
    there, scores = [row["answerable"] for row in validation], best_scores(ranked_validation)
    thresholds = {
        name: retrieval.choose_threshold(found[str(ks[name])]["codes"], scores, there)
        for name, found in on_validation.items()
    }
    base = once("base", lambda: closed(model, tokenizer, test))
    untrained = once(
        "RAG",
        lambda: (
            {str(n): reading(model, tokenizer, test, ranked, n) for n in READ} | {"old": old(model)}
        ),
    )
    room = 512 - chat_panel.LONGEST
    in_window = room - 64  # the longest question and the instruction need less
    front = once(
        "front", lambda: outcomes(test, whole_book.read_front(model, tokenizer, ask(test), chunks))
    )
    of_language = {
        language: [piece for piece in chunks if retrieval.language_of(piece.text) == language]
        for language in ("en", "zh")
    }

    def read_through(language: str) -> list[retrieval.Answer]:
        """Read the part of the book in a question's language window by window.

        A human reader would not look into the part in the other language.
        """
        return whole_book.read_through(
            model,
            tokenizer,
            ask([row for row in test if row["language"] == language]),
            of_language[language],
            in_window,
        )

    def all_through() -> dict[str, Any]:
        said = {language: iter(read_through(language)) for language in of_language}
        return outcomes(test, [next(said[row["language"]]) for row in test])

    through = once("through", all_through)
    longest = max(len(tokenizer(question).input_ids) for question in ask(test))
    fits = retrieval.prompt(
        tokenizer,
        next(q for q in ask(test) if len(tokenizer(q).input_ids) == longest),
        chunks,
        room,
    )[1]

    def many(name: str, n: int) -> dict[str, list[str]]:
        return {what: [run[str(n)][what] for run in runs[name]] for what in ("codes", "cited")}

    one = lambda found: {what: [found[what]] for what in ("codes", "cited") if what in found}
    systems = {
        "base": one(base),
        "fine-tuned": {"codes": [run["closed"]["codes"] for run in runs["facts"]]},
        "fine-tuned on the mixture": {"codes": [run["closed"]["codes"] for run in runs[MIXED]]},
        "RAG": one(untrained[str(ks["RAG"])]),
        "both": many("facts", ks["facts"]),
        "long context": one(front),
        "window by window": one(through),
        **{f"trained to read: {name}": many(name, ks[name]) for name in (*ROWS, MIXED)},
    }
    by_k = {
        str(n): {
            "RAG": one(untrained[str(n)]),
            "both": many("facts", n),
            **{f"trained to read: {name}": many(name, n) for name in (*ROWS, MIXED)},
        }
        for n in READ
    }

    # Latency from question to answer.
    def here(question: str) -> tuple[float, ...]:
        began = time.perf_counter()
        hits = index.search([question], k)[0]
        middle = time.perf_counter()
        retrieval.answer(model, tokenizer, question, hits)
        return middle - began, time.perf_counter() - middle, time.perf_counter() - began

    def served(write) -> Callable[[str], tuple[float, ...]]:
        talk = chat_panel.ChatPanel(index, write, tokenizer, k=k)

        def one(question: str) -> tuple[float, ...]:
            began, first = time.perf_counter(), None
            for _ in talk.stream(question):
                first = first or time.perf_counter() - began
            return first or 0.0, time.perf_counter() - began

        return one

    def over_http() -> dict[str, Any]:
        file = quantization.to_gguf(models.resolve("chat"), paths.BUILD / "rag.gguf")
        with serving.LlamaServer(file, tokenizer) as server:
            return waits(
                served(chat_panel.over_http(server.address)),
                ask(test)[:TIMED],
                ("first piece", "all"),
            )

    waiting = {
        "here": once(
            "wait here", lambda: waits(here, ask(test)[:TIMED], ("search", "answer", "all"))
        ),
        "panel": once(
            "wait panel",
            lambda: waits(
                served(chat_panel.locally(model, tokenizer)),
                ask(test)[:TIMED],
                ("first piece", "all"),
            ),
        ),
        "panel over HTTP": once("wait http", over_http),
    }
    by_language = {
        name: [row for row in test if row["language"] == language]
        for name, language in (("en", "en"), ("zh", "zh"))
    }
    search = {
        "all": once("search all", lambda: searched(test, chunks, ranked)),
        **{
            name: once(
                f"search {name}", lambda: searched(rows, chunks, index.search(ask(rows), MOST))
            )
            for name, rows in by_language.items()
        },
    }
    record.write(
        args.out,
        {
            "chosen": {"tokens": size, "k": ks, "rate": rate, "thresholds": thresholds},
            "recipe": {"method": "lora", "steps": args.steps, "batch_size": BATCH},
            "grid": grid,
            "rates": tried,
            "validation": {"scores": scores, "runs": on_validation},
            "book": {
                "tokens": len(
                    tokenizer(
                        "\n".join(text for own in parts for text, _ in own.paragraphs)
                    ).input_ids
                ),
                "chunks": len(chunks),
                "context": model.config.max_position_embeddings,
                "fits tokens": len(tokenizer("\n".join(piece.text for piece in fits)).input_ids),
                "fits chunks": len(fits),
                "fits pages": [fits[0].page, fits[-1].page],
                "windows": {
                    language: len(whole_book.windows(tokenizer, own, in_window))
                    for language, own in of_language.items()
                },
            },
            "questions": [row["id"] for row in test],
            "scores": best_scores(ranked),
            "systems": systems,
            "by k": by_k,
            "search": search,
            "waiting": waiting,
            "old tasks": {
                "before": untrained["old"],
                **{name: [run["old"] for run in runs[name]] for name in runs},
            },
            "seconds": {name: [run["seconds"] for run in runs[name]] for name in runs},
        },
        "rag.py",
        ("torch", "transformers", "trl", "peft", "sentence-transformers", "faiss-cpu"),
        args.note,
    )


if __name__ == "__main__":
    main()
