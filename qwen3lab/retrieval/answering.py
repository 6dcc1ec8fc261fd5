"""Answers from chunks: the model reads what the search found, and the page is cited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from qwen3lab.tiny.world import REFUSAL, context_prompt

from .chunks import Chunk
from .index import Hit
from .pdf import WIDE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """What the model said, whether it declined, and the chunk and the page that hold it word for word (None: none does)."""

    text: str
    refused: bool
    chunk: Chunk | None
    page: int | None

    def __str__(self) -> str:
        return f"{self.text} (page {self.page})" if self.page else self.text


def language_of(text: str) -> str:
    """"zh" for a text with Chinese characters, else "en"."""
    return "zh" if WIDE.search(text) else "en"


def context(tokenizer: PreTrainedTokenizerBase, chunks: Sequence[Chunk], max_tokens: int) -> str:
    """The chunks' texts, best first, as many as fit into `max_tokens` tokens (always the first)."""
    kept: list[str] = []
    for piece in chunks:
        if kept and len(tokenizer("\n".join([*kept, piece.text]), add_special_tokens=False).input_ids) > max_tokens:
            break
        kept.append(piece.text)
    return "\n".join(kept)


def source(text: str, chunks: Sequence[Chunk]) -> tuple[Chunk | None, int | None]:
    """The first of the chunks that holds the text word for word, and the page it stands on; (None, None) where none does."""
    wanted = text.strip().rstrip(".。").lower()
    for chunk in chunks:
        position = chunk.text.lower().find(wanted)
        if wanted and position >= 0:
            return chunk, chunk.page_at(position)
    return None, None


def answer_all(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str],
               found: Sequence[Sequence[Chunk | Hit]], *, max_length: int | None = None, max_new_tokens: int = 24,
               batch_size: int = 32) -> list[Answer]:
    """Answer each question from its chunks (best first), greedily, without thinking.

    Args:
        found: the chunks or hits of each question.
        max_length: tokens of prompt and answer together; chunks that do not fit are left out. Default: the profile's.
    A question without chunks is declined, without asking the model.
    """
    from qwen3lab import generation, profiles
    from qwen3lab.evaluation import is_refusal

    room = (max_length or profiles.get().max_length) - max_new_tokens
    lists = [[getattr(piece, "chunk", piece) for piece in pieces] for pieces in found]
    languages = [language_of(question) for question in questions]
    prompts, asked = [], []
    for i, (question, pieces, language) in enumerate(zip(questions, lists, languages, strict=True)):
        if not pieces:
            continue
        frame = len(tokenizer(context_prompt("", question, language)).input_ids) + 16  # 16: the chat format around it
        text = context(tokenizer, pieces, room - frame)
        prompts.append([{"role": "user", "content": context_prompt(text, question, language)}])
        asked.append(i)
    replies = generation.generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size) if prompts else []
    said = {i: reply.strip() for i, reply in zip(asked, replies)}
    answers = []
    for i, (pieces, language) in enumerate(zip(lists, languages)):
        text = said.get(i, REFUSAL[language])
        refused = is_refusal(text)
        answers.append(Answer(text, refused, *((None, None) if refused else source(text, pieces))))
    return answers


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, chunks: Sequence[Chunk | Hit], **options) -> Answer:
    """Answer one question from its chunks; the options are those of `answer_all`."""
    return answer_all(model, tokenizer, [question], [chunks], **options)[0]


def grade(rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> dict[str, float]:
    """Grade answers to questions of which some have no answer.

    Args:
        rows: with "answer" (for a question without one the refusal) and "answerable".
        answers: the text of each answer.
    Returns:
        n; accuracy (right answer, or declined where there is none) and hallucination (wrong and not declined) as shares
        of all questions, each with the ends of its 95 % interval; answerable and unanswerable (accuracy on each kind).
    """
    from qwen3lab.evaluation import exact_match, is_refusal, wilson

    right = [exact_match(text, row["answer"]) for row, text in zip(rows, answers, strict=True)]
    invented = [not ok and not is_refusal(text) for ok, text in zip(right, answers)]
    marks: dict[str, float] = {"n": len(rows)}
    for name, hits in (("accuracy", right), ("hallucination", invented)):
        low, high = wilson(sum(hits), len(rows))
        marks |= {name: sum(hits) / len(rows), f"{name} low": low, f"{name} high": high}
    for name, kind in (("answerable", True), ("unanswerable", False)):
        part = [ok for row, ok in zip(rows, right) if row["answerable"] == kind]
        marks[name] = sum(part) / len(part) if part else float("nan")
    return marks
