"""Prompt template for questions on a text, and the refusal: one wording for the whole course.

Training, evaluation and retrieval share it.
"""

from __future__ import annotations

REFUSAL = {"en": "The text does not say.", "zh": "文中没有提到。"}
INSTRUCTION = {
    "en": "Answer briefly from the text. If it gives no answer, reply: The text does not say.",
    "zh": "请根据文本简短回答。如果没有答案，请回答：文中没有提到。",
}


def context_prompt(context: str, question: str, language: str) -> str:
    """Build the user message that asks a question on a given text.

    Training, evaluation and retrieval share this wording.
    """
    if language == "en":
        return f"{INSTRUCTION['en']}\n\nText: {context}\n\nQuestion: {question}"
    return f"{INSTRUCTION['zh']}\n\n文本：{context}\n\n问题：{question}"


def split_context(prompt: str, language: str) -> tuple[str, str]:
    """Split what `context_prompt` built into the text and the question."""
    text, mark = ("Text: ", "\n\nQuestion: ") if language == "en" else ("文本：", "\n\n问题：")
    body, _, question = prompt.rpartition(mark)
    return body.removeprefix(f"{INSTRUCTION[language]}\n\n{text}"), question
