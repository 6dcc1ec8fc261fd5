"""Continue pre-training on plain text, then fine-tune on chat, and measure what each stage adds.

The text is the company's handbook. Gururangan et al. 2020, "Don't Stop Pretraining", for the stage
on text; Allen-Zhu & Li 2023, "Physics of Language Models: Part 3.1", for why a fact that was read
is not always a fact that can be asked for.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, paths
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Example = dict[str, list[int]]


# Name -> the stages, one after the other. "both" is one stage on text and chat together, "longer
# chat" takes as many steps as "text" and "chat", and "replay" mixes in rows of the old tasks.
WAYS: dict[str, tuple[str, ...]] = {
    "base": (),
    "text only": ("text",),
    "chat only": ("chat",),
    "chat only, as many steps": ("longer chat",),
    "text, then chat": ("text", "chat"),
    "text and chat at once": ("both",),
    "text, then chat, replay": ("text, replay", "chat, replay"),
    "at once, replay": ("both, replay",),
}


def documents(pdf: str | Path = paths.DATA / "handbook" / "handbook.pdf") -> list[str]:
    """Extract the plain text of a PDF, one string per section: title, then one paragraph per line.

    Raises Qwen3labError as `pdf.read_pdf`.
    """
    from qwen3lab.data.pdf import chapters, read_pdf

    return [
        "\n".join(
            [
                re.sub(r"^[\d.]+ ", "", chapter.title.rsplit(" / ", 1)[-1]),
                *(text for text, _ in chapter.paragraphs),
            ]
        ).strip()
        for chapter in chapters(read_pdf(pdf))
    ]


def entries(texts: Sequence[str]) -> list[str]:
    """Cut the handbook's sections on things and rules to title and paragraph with facts.

    The prose around them has most of the book's tokens and none of its facts: without it, a short
    training reads the facts more often.
    """
    from qwen3lab.world.company import THINGS, tell

    told = {tell(thing)[0] for thing in THINGS}
    found = [
        (text.split("\n")[0], line)
        for text in texts
        for line in text.split("\n")[1:]
        if line in told
    ]
    return [f"{title}\n{line}" for title, line in found]


def blocks(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    length: int,
    passes: int = 1,
    seed: int = 0,
) -> list[Example]:
    """Pack texts into pre-training blocks of equal length in which every token is trained.

    The texts are concatenated, each closed by `<|endoftext|>`, and cut every `length` tokens; the
    last block is shorter. A text that spells out a control token does not produce one. From the
    second pass on the texts are in another order, drawn by `seed`, so that none is learned by its
    neighbours.

    Returns:
        Dicts of input_ids and labels, the same list twice; `training.fine_tune` takes them.
    Raises:
        Qwen3labError: no text, or blocks of less than two tokens, in which nothing could be
            predicted.
    """
    if not texts:
        raise Qwen3labError("There is no text to train on. Give at least one.")
    if length < 2:
        raise Qwen3labError(
            f"A block of {length} tokens has nothing to predict. Choose a length of at least 2."
        )
    end, rng = tokenizer.convert_tokens_to_ids("<|endoftext|>"), random.Random(seed)
    encoded, stream = [[*_ids(tokenizer, text), end] for text in texts], []
    for _ in range(passes):
        stream += [number for ids in encoded for number in ids]
        encoded = rng.sample(encoded, len(encoded))
    cut = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [{"input_ids": ids, "labels": ids} for ids in cut if len(ids) > 1]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    pieces = re.split(
        r"(<\|?/?\w+\|?>)", text
    )  # a spelled-out control token is cut inside its brackets, so that it stays text
    return [
        number
        for piece in pieces
        for part in ([piece] if not piece.startswith("<") else [piece[:1], piece[1:]])
        if part
        for number in tokenizer(part, add_special_tokens=False).input_ids
    ]


def completion(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Example:
    """Build a cloze row: the handbook's own sentence up to a fact's value, which is scored.

    Args:
        row: of `handbook` or `knowledge`, with "passage", "statement" and "answer".
    Raises:
        Qwen3labError: the statement does not contain the answer.
    """
    passage, statement, answer = row["passage"], row["statement"], row["answer"]
    if statement not in passage or answer not in statement:
        raise Qwen3labError(
            f"The passage of {row['id']} does not state {answer!r}. Give a row whose fact stands in"
            " its passage."
        )
    start = passage.index(statement) + statement.index(answer)
    read = tokenizer(
        passage[: start + len(answer)], add_special_tokens=False, return_offsets_mapping=True
    )
    return {
        "input_ids": read.input_ids,
        "labels": [
            number if stop > start else chat.IGNORED
            for number, (_, stop) in zip(read.input_ids, read.offset_mapping)
        ],
    }


def only_in_text(split: str) -> list[dict[str, Any]]:
    """Load the rows of `handbook` that the book answers and no row of `knowledge` teaches.

    split is "validation" or "test".
    """
    taught = {row["fact"] for row in tasks.load("knowledge", "train")}
    return [
        row
        for row in tasks.load("handbook", split)
        if row["answerable"] and row["fact"] not in taught
    ]


def examine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    taught: Sequence[dict[str, Any]],
    read: Sequence[dict[str, Any]],
    old: Sequence[dict[str, Any]],
    text: Sequence[Example],
) -> dict[str, Any]:
    """Measure what each stage could have added; returns counts and a perplexity.

    Args:
        taught: rows whose facts the chat stage teaches.
        read: rows whose facts are only in the text.
        old: the old tasks, may be empty.
        text: blocks of the text itself.
    Returns:
        taught, read, old: right answers to questions; completed: rows of `read` whose value the
        model completes when given the book's sentence up to there; perplexity: of the text, each
        token counted.
    """
    from qwen3lab.evaluation.scoring import evaluate_tasks, read_answers

    asked = evaluate_tasks(model, tokenizer, [*taught, *read], max_new_tokens=16)
    seen = read_answers(model, text)
    return {
        "taught": int(asked.correct[: len(taught)].sum()),
        "read": int(asked.correct[len(taught) :].sum()),
        "completed": int(
            read_answers(model, [completion(tokenizer, row) for row in read]).right.sum()
        ),
        "old": (
            int(evaluate_tasks(model, tokenizer, old, max_new_tokens=96).correct.sum())
            if old
            else 0
        ),
        "perplexity": round(math.exp(seen.nll.sum() / seen.tokens.sum()), 3),
    }


def rows(
    tokenizer: PreTrainedTokenizerBase,
    stage: str,
    text: Sequence[Example],
    questions: Sequence[dict[str, Any]],
    passes: int = 1,
    old: Sequence[dict[str, Any]] = (),
) -> list[Any]:
    """Build a stage's training rows, repeated so that one epoch is the whole stage.

    Args:
        stage: "text", "chat", "longer chat" (the same rows as "chat") or "both" (each as often as
            alone); with ", replay" behind it, rows of `old` are added, a quarter of the sum.
        text: of `blocks`, with its passes.
        passes: how often the questions are read.
        old: rows of tasks that the model knows, read again from the first where they run out.
    Raises:
        Qwen3labError: an unknown stage.
    """

    def encode(chosen: Sequence[dict[str, Any]]) -> list[Example]:
        return [chat.example(tokenizer, tasks.conversation(row)) for row in chosen]

    asked = encode(questions) * passes
    data = {"text": list(text), "chat": asked, "longer chat": asked, "both": [*text, *asked]}
    name, replay = stage.removesuffix(", replay"), stage.endswith(", replay")
    if name not in data:
        raise Qwen3labError(f"Unknown stage {stage!r}. Use one of: {', '.join(data)}.")
    wanted = round(len(data[name]) / 3) if replay else 0
    return data[name] + encode(list(itertools.islice(itertools.cycle(old), wanted)))
