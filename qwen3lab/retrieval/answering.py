"""Answers from chunks: the model reads what the search found, and the place that tells
it is cited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen3lab.chat import plain_ids
from qwen3lab.data.pdf import WIDE
from qwen3lab.prompts import REFUSAL, context_prompt
from qwen3lab.retrieval.chunking import Chunk
from qwen3lab.retrieval.index import Hit, key_terms

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FRAME = 16  # tokens of the chat format around a prompt


@dataclass(frozen=True)
class Answer:
    """What the model said, whether it declined, and the chunk, the page and the paragraph that hold
    it word for word (None, "": none does).
    """

    text: str
    refused: bool
    chunk: Chunk | None
    page: int | None
    quote: str = ""

    def __str__(self) -> str:
        return f"{self.text} (page {self.page})" if self.page else self.text


def language_of(text: str) -> str:
    """ "zh" for a text with Chinese characters, else "en"."""
    return "zh" if WIDE.search(text) else "en"


def fitting(
    tokenizer: PreTrainedTokenizerBase, chunks: Sequence[Chunk], max_tokens: int
) -> list[Chunk]:
    """The first of the chunks, as many as fit together into `max_tokens` tokens (always one)."""
    kept = list(chunks[:1])
    for piece in chunks[1:]:
        if len(plain_ids(tokenizer, _joined([*kept, piece]))) > max_tokens:
            break
        kept.append(piece)
    return kept


def context(tokenizer: PreTrainedTokenizerBase, chunks: Sequence[Chunk], max_tokens: int) -> str:
    """The texts of the `fitting` chunks, in their order."""
    return _joined(fitting(tokenizer, chunks, max_tokens))


def _joined(chunks: Sequence[Chunk]) -> str:
    return "\n".join(piece.text for piece in chunks)


def prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, chunks: Sequence[Chunk | Hit], room: int
) -> tuple[list[dict[str, str]], list[Chunk]]:
    """The messages that put a question over its chunks (best first), and those of them that fit.

    room: tokens of the whole prompt, the chat format included.
    """
    language = language_of(question)
    frame = len(plain_ids(tokenizer, context_prompt("", question, language))) + FRAME
    read = fitting(tokenizer, [getattr(piece, "chunk", piece) for piece in chunks], room - frame)
    return [{"role": "user", "content": context_prompt(_joined(read), question, language)}], read


def source(
    text: str, chunks: Sequence[Chunk], question: str = ""
) -> tuple[Chunk | None, int | None]:
    """The chunk that holds an answer word for word, and the page it stands on; (None, None) where
    none does (see `cite`).
    """
    return cite(text, chunks, question)[:2]


def cite(
    text: str, chunks: Sequence[Chunk], question: str = ""
) -> tuple[Chunk | None, int | None, str]:
    """Where an answer comes from: chunk, page and paragraph; (None, None, "") where no chunk holds
    it word for word.

    Of several paragraphs the one that shares most words with the question is taken, of equal ones
    the first: a short answer such as "blue" stands in many places. "7 days" is not found in "17
    days", nor "W1" in "W18".
    """
    wanted = text.strip().rstrip(".。").lower()
    if not wanted:
        return None, None, ""
    left = r"(?<![0-9a-z])(?<!\d[.:,-])" if wanted[0].isascii() and wanted[0].isalnum() else ""
    right = r"(?![0-9a-z])(?![.:,-]\d)" if wanted[-1].isascii() and wanted[-1].isalnum() else ""
    whole, asked = re.compile(left + re.escape(wanted) + right), set(key_terms(question))
    best: tuple[Chunk | None, int | None, str] = (None, None, "")
    most = -1
    for piece in chunks:
        start = 0
        for paragraph in piece.text.split("\n"):
            shared = len(asked & set(key_terms(paragraph)))
            if shared > most and (found := whole.search(paragraph.lower())):
                best, most = (piece, piece.page_at(start + found.start()), paragraph), shared
            start += len(paragraph) + 1
    return best


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    found: Sequence[Sequence[Chunk | Hit]],
    *,
    max_length: int | None = None,
    max_new_tokens: int = 24,
    batch_size: int = 32,
    threshold: float | None = None,
) -> list[Answer]:
    """Answer each question from its chunks (best first), greedily, without thinking.

    Args:
        found: the chunks or hits of each question.
        max_length: tokens of prompt and answer together; chunks that do not fit are left out.
            Default: the profile's.
        threshold: decline, without asking the model, where the best hit's score is below it; needs
            hits.
    A question without chunks is declined too.
    """
    from qwen3lab import profiles
    from qwen3lab.models import generation

    room = (max_length or profiles.get().max_length) - max_new_tokens
    asked = {
        place: prompt(tokenizer, questions[place], pieces, room)
        for place, pieces in enumerate(found)
        if pieces and not (threshold is not None and pieces[0].score < threshold)
    }
    replies = (
        generation.generate(
            model,
            tokenizer,
            [messages for messages, _ in asked.values()],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        if asked
        else []
    )
    said = dict(zip(asked, replies, strict=True))
    return [
        made(
            question,
            said.get(place, REFUSAL[language_of(question)]),
            asked[place][1] if place in asked else [],
        )
        for place, (question, _) in enumerate(zip(questions, found, strict=True))
    ]


def made(question: str, text: str, read: Sequence[Chunk]) -> Answer:
    """An answer from what the model wrote and the chunks that it had read."""
    from qwen3lab.evaluation.scoring import is_refusal

    text = text.strip()
    refused = is_refusal(text)
    return Answer(text, refused, *((None, None, "") if refused else cite(text, read, question)))


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    chunks: Sequence[Chunk | Hit],
    **options,
) -> Answer:
    """Answer one question from its chunks; the options are those of `answer_all`."""
    return answer_all(model, tokenizer, [question], [chunks], **options)[0]
