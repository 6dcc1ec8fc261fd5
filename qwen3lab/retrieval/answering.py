"""Generate grounded answers from retrieved chunks and cite the page that supports them."""

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
    """A generated answer: its text, whether it is a refusal, and the passage it cites.

    `chunk`, `page` and `quote` name the chunk, the page and the paragraph that contain the answer
    word for word; they are None, None and "" where no chunk does. `page` is None also where the
    document has no pages: `where` then names the heading.
    """

    text: str
    refused: bool
    chunk: Chunk | None
    page: int | None
    quote: str = ""

    @property
    def where(self) -> str:
        """Name the cited place for people, or "" where nothing is cited; see `Chunk.where`."""
        return self.chunk.where(self.page) if self.chunk else ""

    def __str__(self) -> str:
        return f"{self.text} ({self.where})" if self.where else self.text


def passage(answer: Answer | None, hits: Sequence[Hit]) -> str:
    """Return the paragraph that an answer cites, or else the best hit's text, or else ""."""
    quote = answer.quote if answer else ""
    return quote or (hits[0].chunk.text if hits else "")


def language_of(text: str) -> str:
    """Detect the language of a text: "zh" if it contains Chinese characters, else "en"."""
    return "zh" if WIDE.search(text) else "en"


def fitting(
    tokenizer: PreTrainedTokenizerBase, chunks: Sequence[Chunk], max_tokens: int
) -> list[Chunk]:
    """Select the leading chunks that fit together into `max_tokens` tokens (at least one chunk)."""
    kept = list(chunks[:1])
    for piece in chunks[1:]:
        if len(plain_ids(tokenizer, _joined([*kept, piece]))) > max_tokens:
            break
        kept.append(piece)
    return kept


def context(tokenizer: PreTrainedTokenizerBase, chunks: Sequence[Chunk], max_tokens: int) -> str:
    """Join the texts of the `fitting` chunks, in their order, into one context string."""
    return _joined(fitting(tokenizer, chunks, max_tokens))


def _joined(chunks: Sequence[Chunk]) -> str:
    return "\n".join(piece.text for piece in chunks)


def prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, chunks: Sequence[Chunk | Hit], room: int
) -> tuple[list[dict[str, str]], list[Chunk]]:
    """Build the chat messages for a question over its chunks (best first) within a token budget.

    Args:
        room: tokens of the whole prompt, including the chat format.
    Returns:
        The messages, and the chunks that fit.
    """
    language = language_of(question)
    frame = len(plain_ids(tokenizer, context_prompt("", question, language))) + FRAME
    read = fitting(tokenizer, [getattr(piece, "chunk", piece) for piece in chunks], room - frame)
    return [{"role": "user", "content": context_prompt(_joined(read), question, language)}], read


def cite(
    text: str, chunks: Sequence[Chunk], question: str = ""
) -> tuple[Chunk | None, int | None, str]:
    """Locate the chunk, page and paragraph that contain an answer word for word.

    Returns (None, None, "") where no chunk does. A short answer such as "blue" may occur in several
    paragraphs: the one that shares most words with the question wins, and the first of equally good
    ones. "7 days" is not found in "17 days", nor "W1" in "W18".
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
    """Answer each question from its chunks (best first) by greedy decoding without thinking.

    Args:
        found: the chunks or hits of each question.
        max_length: tokens of prompt and answer together; chunks that do not fit are left out.
            Default: the profile's.
        threshold: decline, without asking the model, if the best hit's score is below it; needs
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
    """Build an `Answer` from the generated text and the chunks that the model read."""
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
