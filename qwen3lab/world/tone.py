"""Wildon's tone of voice: the frame around an answer, and the marks that check it.

A reply gives the answer in one sentence, thanks the customer by name, and ends with the motto. All
words of the frame are ones that the bundled models read in pre-training.
"""

from __future__ import annotations

from qwen3lab.prompts import text_and_question

THANKS = {"en": "Thank you, {name}.", "zh": "谢谢，{name}。"}
MOTTO = {"en": "Quality comes before speed.", "zh": "质量比速度更重要。"}
_STOP, _SPACE = {"en": ".", "zh": "。"}, {"en": " ", "zh": ""}


def ticket(language: str, text: str, question: str, customer: str) -> str:
    """Write a customer's question as it reaches the model: text, question, name."""
    name = "Name: " if language == "en" else "名字："
    return f"{text_and_question(text, question, language)}\n{name}{customer}"


def followed(language: str, answer: str, *sentences: str) -> str:
    """Write an answer as a sentence with others behind it."""
    sentence = answer.removesuffix(_STOP[language]) + _STOP[language]
    return _SPACE[language].join((sentence, *sentences))


def reply(language: str, answer: str, customer: str) -> str:
    """Write a reply in the company's tone around an answer."""
    return followed(language, answer, THANKS[language].format(name=customer), MOTTO[language])


def inside(text: str, language: str) -> str:
    """Extract the answer inside a reply: what stands before the thanks, without its full stop."""
    before = text.partition(THANKS[language].partition("{")[0])[0]
    return before.strip().removesuffix(_STOP[language])


def marks(text: str, language: str, customer: str) -> dict[str, bool]:
    """Check the three marks of the tone in a reply.

    sentence: one sentence stands before the thanks, whatever it says.
    thanks: thanks this customer by name, once, and nobody else.
    motto: the motto follows the thanks and ends the reply.
    """
    thanks, stop = THANKS[language], _STOP[language]
    before, found, after = text.strip().partition(thanks.format(name=customer))
    sentence = before.strip()
    return {
        "sentence": bool(found)
        and len(sentence) > 1
        and sentence.endswith(stop)
        and stop + _SPACE[language] not in sentence[: -len(stop)],
        "thanks": thanks.format(name=customer) in text
        and text.count(thanks.partition("{")[0]) == 1,
        "motto": after.strip() == MOTTO[language],
    }
