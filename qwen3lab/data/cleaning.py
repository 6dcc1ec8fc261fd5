"""Clean text without changing what it says: one way to write each character, no copies, no phone numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

# Characters that nobody sees and that make equal texts unequal. U+200C and U+200D stay: they matter in some scripts and emoji.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

# Chinese mobile numbers as popular guides look for them. In Python a Chinese character counts as a word character, so \b finds
# no boundary between it and a digit, and exactly the usual spelling in a Chinese text is missed.
PHONE_WITH_WORD_BOUNDARY = re.compile(r"\b1[3-9]\d{9}\b")
# No digit beside it; no decimal point before it; single blanks or hyphens in groups of 3-4-4; a country code goes with it.
PHONE = re.compile(r"(?<!\d)(?<!\d\.)(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)", re.ASCII)
EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9_][\w.+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![A-Za-z0-9])", re.ASCII)


def normalize(text: str) -> str:
    """Unicode form NFC, unix line ends, no invisible characters, no blanks at line ends or around the text.

    NFC joins a letter and its accent into one character, as Qwen3's tokenizer does before it splits. It leaves
    full-width punctuation alone, which NFKC would change. Applying it twice changes nothing.
    """
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = unicodedata.normalize("NFC", text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def mask_personal(text: str, phone: re.Pattern[str] = PHONE) -> tuple[str, int]:
    """Put [EMAIL] and [PHONE] in place of e-mail addresses and mobile numbers; returns the text and how many they were."""
    text, emails = EMAIL.subn("[EMAIL]", text)
    text, phones = phone.subn("[PHONE]", text)
    return text, emails + phones


def clean(row: dict[str, Any], change: Callable[[str], str] = normalize) -> dict[str, Any]:
    """A copy of the row with `change` applied to the content of every message."""
    return row | {"messages": [message | {"content": change(message["content"])} if isinstance(message.get("content"), str) else dict(message)
                               for message in row["messages"]]}


def key(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What makes two rows the same: roles and contents of all messages."""
    return tuple((message["role"], message.get("content") or "") for message in row["messages"])


def drop_copies(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split rows into (the first of each, exact copies of an earlier one); the order stays."""
    seen, kept, copies = set(), [], []
    for row in rows:
        (copies if key(row) in seen else kept).append(row)
        seen.add(key(row))
    return kept, copies


def found(pattern: re.Pattern[str], labelled: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How well a pattern finds what is labelled.

    Args:
        labelled: dicts with "text" and "phones", the list of strings that should be found. Two strings are the same
            number if their last eleven digits are.
    Returns:
        counts "right", "wrong" (found but not labelled), "missed", and "precision" and "recall" in [0, 1] (nan for 0 of 0).
    """
    right = wrong = missed = 0
    for item in labelled:
        wanted = [_digits(number) for number in item["phones"]]
        for match in pattern.findall(item["text"]):
            if _digits(match) in wanted:
                wanted.remove(_digits(match))
                right += 1
            else:
                wrong += 1
        missed += len(wanted)
    return {"right": right, "wrong": wrong, "missed": missed, "precision": right / (right + wrong) if right + wrong else float("nan"),
            "recall": right / (right + missed) if right + missed else float("nan")}


def _digits(number: str) -> str:
    return re.sub(r"\D", "", number)[-11:]
