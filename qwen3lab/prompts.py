"""Prompt template for questions on a text, and the refusal: one wording for the whole course.

Training, evaluation and retrieval share it.
"""

from __future__ import annotations

REFUSAL = {"en": "The text does not say.", "zh": "文中没有提到。"}
INSTRUCTION = {
    "en": "Answer briefly from the text. If it gives no answer, reply: The text does not say.",
    "zh": "请根据文本简短回答。如果没有答案，请回答：文中没有提到。",
}


_MARKS = {"en": ("Text: ", "\n\nQuestion: "), "zh": ("文本：", "\n\n问题：")}


def text_and_question(text: str, question: str, language: str) -> str:
    """Write a text and a question on it, without an instruction."""
    before, between = _MARKS[language]
    return f"{before}{text}{between}{question}"


def context_prompt(context: str, question: str, language: str) -> str:
    """Build the user message that asks a question on a given text.

    Training, evaluation and retrieval share this wording.
    """
    return f"{INSTRUCTION[language]}\n\n{text_and_question(context, question, language)}"


def split_context(prompt: str, language: str) -> tuple[str, str]:
    """Split what `context_prompt` built into the text and the question."""
    before, between = _MARKS[language]
    body, _, question = prompt.rpartition(between)
    return body.removeprefix(f"{INSTRUCTION[language]}\n\n{before}"), question
