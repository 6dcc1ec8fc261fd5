"""Benchmark RAG, fine-tuning and plain reading: right and invented answers on a handbook.

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
import functools
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
LANGUAGES = ("en", "zh")
ROOM = 512 - chat_panel.LONGEST  # tokens for the prompt
WINDOW = ROOM - 64  # the longest question and the instruction need less


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


def timed_stream(panel: chat_panel.ChatPanel, question: str) -> tuple[float, ...]:
    """Measure the seconds until a panel's first piece of text and until its last."""
    began, first = time.perf_counter(), None
    for _ in panel.stream(question):
        first = first or time.perf_counter() - began
    return first or 0.0, time.perf_counter() - began


def best_scores(hits: list[list[retrieval.Hit]]) -> list[float]:
    """Return each question's highest search score."""
    return [round(found[0].score, 4) for found in hits]


def single(found: dict[str, Any]) -> dict[str, list[str]]:
    """Return outcomes in the form of `Benchmark.seeds_of`, for a system that has no seeds."""
    return {what: [found[what]] for what in ("codes", "cited") if what in found}


class Reader(NamedTuple):
    """A trained model, and what its training cost."""

    model: Any
    seconds: float
    tokens: int


class Benchmark:
    """The stages of the benchmark, and what they share.

    `main` calls the stages in order. Each leaves in `self` what later ones and the record need;
    everything measured goes through `once`, so that an interrupted run repeats no part of it.
    """

    # left by choose_chunks
    grid: list[dict[str, Any]]  # one line per chunk size and k
    size: int
    k: int
    chunks: list[retrieval.Chunk]
    index: retrieval.Index
    ranked: list[list[retrieval.Hit]]  # of the test questions
    ranked_validation: list[list[retrieval.Hit]]
    # left by choose_rate
    rates: dict[str, Any]
    rate: float
    # left by train_readers: outcomes by reader, on validation and per seed on test
    on_validation: dict[str, dict[str, Any]]
    runs: dict[str, list[dict[str, Any]]]
    # left by choose_k: the best search score of each validation question, and choices by reader
    scores: list[float]
    ks: dict[str, int]
    thresholds: dict[str, Any]
    # left by ask_untrained and read_book
    closed_book: dict[str, Any]
    untrained: dict[str, Any]
    front: dict[str, Any]
    through: dict[str, Any]
    # left by measure_latency and measure_search
    waiting: dict[str, Any]
    search: dict[str, Any]

    def __init__(self, args: argparse.Namespace):
        """Load the questions, the models, the book and the kept parts."""
        self.args, self.started = args, time.perf_counter()
        # Kept after the record is written, unlike in other benchmarks: it takes hours, and
        # `--again` repeats single parts of it.
        self.kept = record.Parts("rag", keep=not args.questions)
        for key in [key for key in self.kept.found if key.startswith(tuple(args.again))]:
            del self.kept.found[key]
        self.test, self.validation = (
            tasks.load("handbook", split)[: args.questions] for split in ("test", "validation")
        )
        self.taught = tasks.load("knowledge", "train")
        self.model, self.tokenizer = models.load("chat")
        self.embedder = models.load_embedding()
        self.book = chapters(read_pdf(paths.HANDBOOK))
        self.forget_another_book()
        self.readers: dict[tuple[str, int, float], Reader] = {}  # small enough to keep

    def forget_another_book(self) -> None:
        """Drop the kept parts if they were measured on a book that was read otherwise."""
        book = hashlib.sha256(repr(self.book).encode()).hexdigest()[:16]
        if self.kept.found.setdefault("book", book) != book:
            print("the book is read otherwise than before: everything is measured anew", flush=True)
            self.kept.found.clear()
            self.kept.found["book"] = book

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the part under `key`, measured if it is missing; end when the minutes are over."""
        if key not in self.kept.found:
            self.kept.once(key, make)
            minutes = self.args.minutes
            if minutes and time.perf_counter() - self.started > 60 * minutes:
                sys.exit(3)
        return self.kept.found[key]

    # Chunk size and k.

    def choose_chunks(self) -> None:
        """Choose chunk size and k on validation, with the chat model as it is, and search."""
        self.grid = [line for size in SIZES for line in self.grid_lines(size)]
        best = max(
            self.grid, key=lambda line: (accuracy(line), -line["tokens"] * line["k"])
        )  # ties: the shorter prompt
        self.size, self.k = best["tokens"], best["k"]
        print(f"chosen on validation: chunks of {self.size} tokens, k = {self.k}", flush=True)
        self.chunks, self.index = self.library(self.size)
        self.ranked = self.index.search(ask(self.test), MOST)
        self.ranked_validation = self.index.search(ask(self.validation), MOST)

    def grid_lines(self, size: int) -> list[dict[str, Any]]:
        """Score search and answers with chunks of one size, a line for each k."""
        keys = f"grid {size} search", *(f"grid {size} {k}" for k in KS)
        if any(key not in self.kept.found for key in keys):  # else nothing below is measured
            chunks, index = self.library(size)
            hits = index.search(ask(self.validation), MOST)
        search = self.once(
            f"grid {size} search",
            lambda: searched(self.validation, chunks, hits) | {"chunks": len(chunks)},
        )
        return [
            {"tokens": size, "k": k}
            | search
            | self.once(f"grid {size} {k}", lambda: self.grid_answers(hits, k))
            for k in KS
        ]

    def library(self, size: int) -> tuple[list[retrieval.Chunk], retrieval.Index]:
        """Cut the book into chunks of that many tokens and index them."""
        chunks = retrieval.chunk(self.book, self.tokenizer, size)
        return chunks, retrieval.Index.build(chunks, self.embedder)

    def grid_answers(self, hits: list[list[retrieval.Hit]], k: int) -> dict[str, Any]:
        """Score the validation answers with k hits; "read" is how many fit a prompt on average."""
        found = reading(self.model, self.tokenizer, self.validation, hits, k)
        fitting = [
            len(retrieval.prompt(self.tokenizer, question, own[:k], ROOM)[1])
            for question, own in zip(ask(self.validation), hits)
        ]
        return found | {"read": round(float(np.mean(fitting)), 3)}

    # Readers: the chat model trained on the facts, for retrieval, or on both.

    def choose_rate(self) -> None:
        """Choose the learning rate of the training for retrieval on validation."""
        self.rates = {
            str(rate): self.once(
                f"rate {rate}", lambda: self.read_validation("distractors and gaps", 0, rate)
            )
            for rate in RATES
        }
        right = {
            name: sum(accuracy(found[str(k)]) for k in READ) for name, found in self.rates.items()
        }  # over all k, which are chosen later
        self.rate = float(max(right, key=right.get))

    def train_readers(self) -> None:
        """Train each reader with every seed and ask it the validation and the test questions."""
        plain = {
            str(line["k"]): {"codes": line["codes"]}
            for line in self.grid
            if line["tokens"] == self.size and line["k"] in READ
        }
        self.on_validation, self.runs = {"RAG": plain}, {}
        # The first training of each is used for both, one after the other.
        for name in ("facts", *ROWS, MIXED):
            self.on_validation[name] = self.once(
                f"validation {name}", lambda: self.read_validation(name, 0, self.rate)
            )
            self.runs[name] = [
                self.once(f"{name} {seed}", lambda: self.examine(name, seed))
                for seed in range(self.args.seeds)
            ]

    def reader(self, name: str, seed: int, rate: float) -> Reader:
        """Return a reader, trained when it is asked for the first time."""
        if (name, seed, rate) not in self.readers:
            run = self.train(name, seed, rate)
            self.readers[name, seed, rate] = Reader(run.model, round(run.seconds, 1), run.tokens)
        return self.readers[name, seed, rate]

    def train(self, name: str, seed: int, rate: float) -> training.Run:
        """Train the chat model on the facts, or with LoRA on the rows of that name."""
        if name == "facts":
            return training.fine_tune("chat", self.taught, **training.company_recipe(), seed=seed)
        kinds = {} if name == MIXED else {"kinds": ROWS[name]}
        rows = training_rows.rows(self.taught, self.index, self.tokenizer, seed=seed, **kinds)
        return training.fine_tune(
            "chat",
            self.taught + rows if name == MIXED else rows,
            method="lora",
            steps=2 * self.args.steps if name == MIXED else self.args.steps,
            batch_size=BATCH,
            learning_rate=rate,
            seed=seed,
        )

    def read_validation(self, name: str, seed: int, rate: float) -> dict[str, Any]:
        """Score a reader on the validation questions, for each k, with what it cost."""
        reader = self.reader(name, seed, rate)
        return {
            str(k): reading(
                reader.model, self.tokenizer, self.validation, self.ranked_validation, k
            )
            for k in READ
        } | {"seconds": reader.seconds, "tokens": reader.tokens}

    def examine(self, name: str, seed: int) -> dict[str, Any]:
        """Score a reader on the test questions, for each k, and on old tasks."""
        reader = self.reader(name, seed, self.rate)
        found = self.read_test(reader.model) | {"seconds": reader.seconds}
        if name in ("facts", MIXED):  # the ones that may know answers without the book
            found["closed"] = closed(reader.model, self.tokenizer, self.test)
        return found

    def read_test(self, model) -> dict[str, Any]:
        """Score a model on the test questions, for each k, and on old tasks."""
        return {str(k): reading(model, self.tokenizer, self.test, self.ranked, k) for k in READ} | {
            "old": self.old_tasks(model)
        }

    def old_tasks(self, model) -> dict[str, int]:
        """Count the right answers to tasks that the chat model could do before."""
        rows = [
            row for task, count in OLD.items() for row in tasks.load(task, "validation")[:count]
        ][: self.args.questions]
        answered = evaluation.evaluate_tasks(model, self.tokenizer, rows, max_new_tokens=96)
        return {"right": int(answered.correct.sum()), "n": len(rows)}

    def choose_k(self) -> None:
        """Choose k and the threshold on the search's score for each reader, on validation."""
        self.ks = {
            name: max(READ, key=lambda k: (accuracy(found[str(k)]), -k))
            for name, found in self.on_validation.items()
        }
        there = [row["answerable"] for row in self.validation]
        self.scores = best_scores(self.ranked_validation)
        self.thresholds = {
            name: retrieval.choose_threshold(found[str(self.ks[name])]["codes"], self.scores, there)
            for name, found in self.on_validation.items()
        }

    # Systems without training.

    def ask_untrained(self) -> None:
        """Ask the chat model as it is the test questions, with a closed book and with retrieval."""
        self.closed_book = self.once("base", lambda: closed(self.model, self.tokenizer, self.test))
        self.untrained = self.once("RAG", lambda: self.read_test(self.model))

    def read_book(self) -> None:
        """Answer the test questions from the book's first pages and from all its windows."""
        self.front = self.once("front", self.read_front)
        self.through = self.once("through", self.read_through)

    def read_front(self) -> dict[str, Any]:
        """Score the answers with as much of the book's beginning in the prompt as fits."""
        return outcomes(
            self.test,
            whole_book.read_front(self.model, self.tokenizer, ask(self.test), self.chunks),
        )

    def read_through(self) -> dict[str, Any]:
        """Score the answers found by reading the book window by window.

        Only the part in the question's language: a human reader would not look into the other.
        """
        said = {
            language: iter(
                whole_book.read_through(
                    self.model, self.tokenizer, ask(rows), self.chunks_in(language), WINDOW
                )
            )
            for language, rows in self.test_by_language().items()
        }
        return outcomes(self.test, [next(said[row["language"]]) for row in self.test])

    def chunks_in(self, language: str) -> list[retrieval.Chunk]:
        """Return the chunks of the book's part in one language."""
        return [piece for piece in self.chunks if retrieval.language_of(piece.text) == language]

    def test_by_language(self) -> dict[str, list[dict[str, Any]]]:
        """Group the test questions by language."""
        return {
            language: [row for row in self.test if row["language"] == language]
            for language in LANGUAGES
        }

    # Latency and search.

    def measure_latency(self) -> None:
        """Measure the waiting from question to answer: in process, in the panel and over HTTP."""
        self.waiting = {
            "here": self.once(
                "wait here",
                lambda: waits(self.timed_here, self.timed_questions, ("search", "answer", "all")),
            ),
            "panel": self.once(
                "wait panel",
                lambda: self.panel_waits(chat_panel.locally(self.model, self.tokenizer)),
            ),
            "panel over HTTP": self.once("wait http", self.http_waits),
        }

    @property
    def timed_questions(self) -> list[str]:
        """Return the questions whose latency is measured."""
        return ask(self.test)[:TIMED]

    def timed_here(self, question: str) -> tuple[float, ...]:
        """Measure the seconds of search, of the answer and of both."""
        began = time.perf_counter()
        hits = self.index.search([question], self.k)[0]
        middle = time.perf_counter()
        retrieval.answer(self.model, self.tokenizer, question, hits)
        return middle - began, time.perf_counter() - middle, time.perf_counter() - began

    def panel_waits(self, write: chat_panel.Writer) -> dict[str, Any]:
        """Measure the waiting for a chat panel's first piece of text and for all of it."""
        panel = chat_panel.ChatPanel(self.index, write, self.tokenizer, k=self.k)
        return waits(
            functools.partial(timed_stream, panel), self.timed_questions, ("first piece", "all")
        )

    def http_waits(self) -> dict[str, Any]:
        """Measure a chat panel's waiting with llama.cpp's server behind it."""
        file = quantization.to_gguf(models.resolve("chat"), paths.BUILD / "rag.gguf")
        with serving.LlamaServer(file, self.tokenizer) as server:
            return self.panel_waits(chat_panel.over_http(server.address))

    def measure_search(self) -> None:
        """Score the search alone on the test questions, all and by language."""
        self.search = {
            "all": self.once("search all", lambda: searched(self.test, self.chunks, self.ranked)),
            **{
                language: self.once(
                    f"search {language}",
                    lambda: searched(rows, self.chunks, self.index.search(ask(rows), MOST)),
                )
                for language, rows in self.test_by_language().items()
            },
        }

    # The record.

    def result(self) -> dict[str, Any]:
        """Return everything that is written."""
        chosen = {
            "tokens": self.size,
            "k": self.ks,
            "rate": self.rate,
            "thresholds": self.thresholds,
        }
        return {
            "chosen": chosen,
            "recipe": {"method": "lora", "steps": self.args.steps, "batch_size": BATCH},
            "grid": self.grid,
            "rates": self.rates,
            "validation": {"scores": self.scores, "runs": self.on_validation},
            "book": self.book_figures(),
            "questions": [row["id"] for row in self.test],
            "scores": best_scores(self.ranked),
            "systems": self.systems(),
            "by k": {str(k): self.systems_with(k) for k in READ},
            "search": self.search,
            "waiting": self.waiting,
            "old tasks": {
                "before": self.untrained["old"],
                **{name: [run["old"] for run in runs] for name, runs in self.runs.items()},
            },
            "seconds": {name: [run["seconds"] for run in runs] for name, runs in self.runs.items()},
        }

    def book_figures(self) -> dict[str, Any]:
        """Count the book's tokens, chunks and windows, and what of it fits one prompt."""
        text = "\n".join(text for chapter in self.book for text, _ in chapter.paragraphs)
        longest = max(ask(self.test), key=self.tokens_of)
        fits = retrieval.prompt(self.tokenizer, longest, self.chunks, ROOM)[1]
        return {
            "tokens": self.tokens_of(text),
            "chunks": len(self.chunks),
            "context": self.model.config.max_position_embeddings,
            "fits tokens": self.tokens_of("\n".join(piece.text for piece in fits)),
            "fits chunks": len(fits),
            "fits pages": [fits[0].page, fits[-1].page],
            "windows": {
                language: len(whole_book.windows(self.tokenizer, self.chunks_in(language), WINDOW))
                for language in LANGUAGES
            },
        }

    def tokens_of(self, text: str) -> int:
        """Count a text's tokens."""
        return len(self.tokenizer(text).input_ids)

    def systems(self) -> dict[str, Any]:
        """Return the outcomes of all systems on the test questions, each with its own k."""
        return {
            "base": single(self.closed_book),
            "fine-tuned": self.closed_seeds_of("facts"),
            "fine-tuned on the mixture": self.closed_seeds_of(MIXED),
            "RAG": single(self.untrained[str(self.ks["RAG"])]),
            "both": self.seeds_of("facts", self.ks["facts"]),
            "first three pages": single(self.front),
            "window by window": single(self.through),
            **{
                f"trained to read: {name}": self.seeds_of(name, self.ks[name])
                for name in (*ROWS, MIXED)
            },
        }

    def systems_with(self, k: int) -> dict[str, Any]:
        """Return the outcomes of the systems that search, all with the same k."""
        return {
            "RAG": single(self.untrained[str(k)]),
            "both": self.seeds_of("facts", k),
            **{f"trained to read: {name}": self.seeds_of(name, k) for name in (*ROWS, MIXED)},
        }

    def seeds_of(self, name: str, k: int) -> dict[str, list[str]]:
        """Return a reader's outcomes with k hits, one string per seed."""
        return {what: [run[str(k)][what] for run in self.runs[name]] for what in ("codes", "cited")}

    def closed_seeds_of(self, name: str) -> dict[str, list[str]]:
        """Return a reader's outcomes with a closed book, one string per seed."""
        return {"codes": [run["closed"]["codes"] for run in self.runs[name]]}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
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
    return parser.parse_args()


def main() -> None:
    args = arguments()
    benchmark = Benchmark(args)
    benchmark.choose_chunks()
    benchmark.choose_rate()
    benchmark.train_readers()
    benchmark.choose_k()
    benchmark.ask_untrained()
    benchmark.read_book()
    benchmark.measure_latency()
    benchmark.measure_search()
    record.write(
        args.out,
        benchmark.result(),
        "rag.py",
        ("torch", "transformers", "trl", "peft", "sentence-transformers", "faiss-cpu"),
        args.note,
    )


if __name__ == "__main__":
    main()
