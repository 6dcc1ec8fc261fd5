"""Answer without a search: from the first pages, or from the whole book window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwen3lab.prompts import REFUSAL
from qwen3lab.retrieval.answering import Answer, answer_all, fitting, language_of
from qwen3lab.retrieval.chunking import Chunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def windows(
    tokenizer: PreTrainedTokenizerBase, chunks: Sequence[Chunk], room: int
) -> list[list[Chunk]]:
    """Split the book into runs of consecutive chunks of at most `room` tokens each.

    A longer chunk forms a window of its own.
    """
    found, left = [], list(chunks)
    while left:
        found.append(fitting(tokenizer, left, room))
        left = left[len(found[-1]) :]
    return found


def read_front(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    chunks: Sequence[Chunk],
    **options,
) -> list[Answer]:
    """Answer from the first pages, as many as fit into the prompt.

    The options are those of `answering.answer_all`.
    """
    return answer_all(model, tokenizer, questions, [list(chunks)] * len(questions), **options)


def read_through(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    chunks: Sequence[Chunk],
    room: int,
    **options,
) -> list[Answer]:
    """Answer from the whole book: ask every window every question and let `settle` vote.

    This reads the whole book for each question: `len(windows(...))` times the work of one prompt.
    """
    asked = [
        answer_all(model, tokenizer, questions, [window] * len(questions), **options)
        for window in windows(tokenizer, chunks, room)
    ]
    return [
        settle(question, [answers[place] for answers in asked])
        for place, question in enumerate(questions)
    ]


def settle(question: str, answers: Sequence[Answer]) -> Answer:
    """Aggregate several answers by majority vote over those that did not decline.

    Ties go to the answer that came first; the result is a refusal if all declined.
    """
    given = [answer for answer in answers if not answer.refused]
    if not given:
        return Answer(REFUSAL[language_of(question)], True, None, None)
    said = Counter(answer.text for answer in given).most_common(1)[0][
        0
    ]  # ties: the answer that came first
    return next(answer for answer in given if answer.text == said)
