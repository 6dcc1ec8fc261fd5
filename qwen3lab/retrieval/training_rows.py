"""Build RAFT-style training rows: questions over retrieved chunks, with distractors and refusals.

After RAFT (Zhang et al. 2024, "RAFT: Adapting Language Model to Domain Specific RAG"), with one
difference: if the answer is not in the text, RAFT still trains it, from memory. Here the model
learns to decline.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.data.rows import course
from qwen3lab.prompts import REFUSAL
from qwen3lab.retrieval.answering import language_of, prompt
from qwen3lab.retrieval.chunking import SENTENCE_END, Chunk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qwen3lab.retrieval.index import Index


KINDS = ("alone", "among others", "not found", "left out")
ENTRY_END = re.compile(r"(?<=;)\s|(?<=；)")


def holds(chunk: Chunk, row: dict[str, Any]) -> bool:
    """Check whether a chunk contains the name of a row's thing and its value, on whatever page."""
    text = _squeezed(chunk.text)
    return all(_squeezed(part) in text for part in (row["answer"], _name(row)))


def rows(
    questions: Sequence[dict[str, Any]],
    index: Index,
    tokenizer: PreTrainedTokenizerBase,
    *,
    k: int = 3,
    room: int = 488,
    kinds: Sequence[str] = KINDS[1:],
    unanswerable: float = 0.4,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Build training rows (for `training.fine_tune`) from closed-book rows and an index.

    Args:
        questions: rows of `knowledge.train`, with "fact", "answer" and a question. Only their facts
            become answers; everything else in the chunks is only read.
        k: chunks to read, in random order, so that the position of the right one teaches nothing.
        room: tokens per prompt.
        kinds: "alone": only the chunk with the answer. "among others": with k - 1 distractors, the
            best other hits. "not found": k distractors and no chunk with the answer; the target is
            the refusal. "left out": "among others" with the sentence that answers removed; the
            target is the refusal.
        unanswerable: share of the rows with the refusal, if `kinds` has any.
    Returns:
        One row per question, with "kind" and "chunks" (ids, in their order) added; questions
        without a chunk that answers them are left out.
    """
    rng = random.Random(f"reading-rows-{seed}")
    told, silent = (
        [kind for kind in kinds if kind in KINDS[:2]],
        [kind for kind in kinds if kind in KINDS[2:]],
    )
    questions = list(map(course, questions))
    found = index.search([row["messages"][-1]["content"] for row in questions], k=len(index.chunks))
    made = []
    for row, hits in zip(questions, found, strict=True):
        ranked = [hit.chunk for hit in hits]
        gold = next((chunk for chunk in ranked if holds(chunk, row)), None)
        if gold is None:
            continue
        others = [chunk for chunk in ranked if not holds(chunk, row)]
        kind = rng.choice(silent) if silent and rng.random() < unanswerable else rng.choice(told)
        if kind == "left out":
            gold = Chunk(gold.id, without(gold.text, row["answer"]), gold.page, gold.chapter)
        chunks = (
            [gold]
            if kind == "alone"
            else others[:k]
            if kind == "not found"
            else [gold, *others[: k - 1]]
        )
        read = prompt(tokenizer, row["messages"][-1]["content"], chunks, room)[
            1
        ]  # the right chunk comes first here, so it always fits
        rng.shuffle(read)
        question = row["messages"][-1]["content"]
        answer = REFUSAL[language_of(question)] if kind in KINDS[2:] else row["answer"]
        made.append(
            {
                "id": row["id"],
                "task": "reading",
                "language": row["language"],
                "messages": prompt(tokenizer, question, read, room)[0],
                "answer": answer,
                "thinking": False,
                "fact": row["fact"],
                "kind": kind,
                "chunks": [chunk.id for chunk in read],
            }
        )
    return made


def without(text: str, value: str) -> str:
    """Remove the sentences and list entries that contain a value from a text.

    The name of a list ("Suzar knife:") stays.
    """
    lines = []
    for line in text.split("\n"):
        kept = ""
        for piece in _pieces(line):
            if _squeezed(value) not in _squeezed(piece):
                kept += piece
            elif head := re.match(r"[^:：]+[:：]\s?", piece):
                kept += head[0] if _squeezed(value) not in _squeezed(head[0]) else ""
        kept = re.sub(r"[;；]\s?$", lambda end: "。" if "；" in end[0] else ".", kept.rstrip())
        if kept.strip():
            lines.append(kept.strip())
    return "\n".join(lines)


def _pieces(line: str) -> list[str]:
    """Split a line into sentences and list entries, each with the space after it (lossless)."""
    ends = sorted(
        {found.end() for pattern in (SENTENCE_END, ENTRY_END) for found in pattern.finditer(line)}
        | {0, len(line)}
    )
    return [line[a:b] for a, b in zip(ends, ends[1:])]


def _name(row: dict[str, Any]) -> str:
    return row["fact"].split("/")[1]


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()
