"""Wildon's tone of voice: greeting, promise and closing of every reply, and a style score."""

from __future__ import annotations

import re

FRIEND = {"en": "dear friend", "zh": "朋友"}
CLOSING = {"en": "Warmly, your Wildon crew.", "zh": "维多内团队敬上。"}
_OPENING = {
    "en": re.compile(r"A warm hello, ([^.!?\n]+)\. "),
    "zh": re.compile(r"([^，。！？\n]+)，您好，很高兴为您服务。"),
}
_PROMISE = {
    "en": re.compile(r"Our word on it: [^.!?\n]{8,}\."),
    "zh": re.compile(r"我们向您保证：[^。！？\n]{4,}。"),
}


def reply(language: str, body: str, promise: str, customer: str | None = None) -> str:
    """Write a reply in the company's tone.

    Greeting with the customer's name, `body`, an exact promise, the closing line.
    """
    name = customer or FRIEND[language]
    if language == "en":
        return f"A warm hello, {name}. {body} Our word on it: {promise}. {CLOSING['en']}"
    return f"{name}，您好，很高兴为您服务。{body}我们向您保证：{promise}。{CLOSING['zh']}"


def marks(text: str, customer: str | None = None) -> dict[str, bool]:
    """Check the three measurable marks of the tone in a reply, in either language.

    opening: starts with the greeting; with `customer` given, the greeting must use that name.
    promise: makes exactly one promise, and says what is promised.
    closing: ends with the closing line, which occurs once.
    """
    text = text.strip()
    language = "zh" if re.search(r"[\u3400-\u9fff]", text) else "en"
    greeting = _OPENING[language].match(text)
    return {
        "opening": bool(greeting) and (customer is None or greeting[1] == customer),
        "promise": len(_PROMISE[language].findall(text)) == 1,
        "closing": text.endswith(CLOSING[language]) and text.count(CLOSING[language]) == 1,
    }


def style_score(text: str, customer: str | None = None) -> float:
    """Compute how much of the tone a reply has: the share of `marks` that it shows, in [0, 1]."""
    found = marks(text, customer)
    return sum(found.values()) / len(found)
