"""The prompt in which a question over a text is asked, and the sentence that declines: one wording
for training, evaluation and retrieval.
"""

from __future__ import annotations

REFUSAL = {"en": "The text does not say.", "zh": "文中没有提到。"}
INSTRUCTION = {
    "en": "Answer briefly from the text. If it gives no answer, reply: The text does not say.",
    "zh": "请根据文本简短回答。如果没有答案，请回答：文中没有提到。",
}


def context_prompt(context: str, question: str, language: str) -> str:
    """The one user message in which a question over a given text is asked, in training, evaluation
    and retrieval.
    """
    if language == "en":
        return f"{INSTRUCTION['en']}\n\nText: {context}\n\nQuestion: {question}"
    return f"{INSTRUCTION['zh']}\n\n文本：{context}\n\n问题：{question}"
