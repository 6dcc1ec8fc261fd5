"""Clean one row: Unicode normalisation, PII masking, the identity of a row, word filters, lengths.

`cleaning.clean_rows` does all of it to many rows, and looks for copies among them.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.data.pii import mask_call, mask_personal, may_hold
from qwen3lab.data.rows import course, records
from qwen3lab.data.token_counts import count_tokens
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Invisible characters that make equal texts unequal. U+200C and U+200D stay: they matter in some
# scripts and emoji.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
PARTS = ("content", "reasoning_content")  # the text fields of a message


def normalize(text: str) -> str:
    """Normalise a text: Unicode NFC, Unix line ends, no invisible characters, no outer whitespace.

    Whitespace is removed at line ends and around the text, but not an indent of its first line: two
    spaces or more, a tab, or one space where all lines have it. A function's body would not compile
    without. NFC joins a letter and its accent into one character, as Qwen3's tokenizer does before
    it splits. It leaves full-width punctuation alone, which NFKC would change. Applying it twice
    changes nothing.
    """
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    lines = [line.rstrip() for line in text.split("\n")]
    text = "\n".join(lines).rstrip()
    begin = text.lstrip()
    indent = text[: len(text) - len(begin)].rpartition("\n")[2]
    if indent == " " and "\n" in begin and all(line[:1] in ("", " ") for line in lines):
        return indent + begin
    return indent + begin if indent.strip(" \t") == "" and len(indent.expandtabs()) > 1 else begin


def clean(row: dict[str, Any], change: Callable[[str], str] = normalize) -> dict[str, Any]:
    """Copy a row with `change` applied to its text, or to every message's content and thoughts."""
    row = course(row)
    if "messages" not in row:
        return row | {"text": change(row["text"])}
    return row | {
        "messages": [
            message
            | {part: change(message[part]) for part in PARTS if isinstance(message.get(part), str)}
            for message in row["messages"]
        ]
    }


def mask_row(row: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
    """Mask personal data in a copy of a row, tool-call arguments included; also return the counts.

    The same number gets the same mark everywhere, so that a call still repeats what its user said.
    """
    counts: Counter[str] = Counter()

    def masked(text: str) -> str:
        text, found = mask_personal(text)
        if found:
            counts.update(found)
        return text

    done = clean(row, masked)
    for message in done.get("messages", ()):
        if message.get("tool_calls"):
            message["tool_calls"] = [mask_call(call, counts) for call in message["tool_calls"]]
    return done, counts


def key(row: dict[str, Any]) -> str:
    """Compute a row's identity: the MD5 sum of roles, contents, thoughts, calls and tools.

    Clean the rows first. MD5 is broken against deliberate collisions; by accident, 100,000 rows
    contain a collision once in 10^28 times.
    """
    return sum_of(course(row)).hexdigest()


def sum_of(row: dict[str, Any]) -> Any:
    """Compute the MD5 sum of a row of the course's schema, which `key` writes as text."""
    parts = (
        [row["text"]]
        if "messages" not in row
        else [json.dumps(row["tools"], sort_keys=True)]
        if row.get("tools")
        else []
    )
    for message in row.get("messages", ()):
        parts += [
            message["role"],
            message.get("content") or "",
            message.get("reasoning_content") or "",
        ]
        calls = message.get("tool_calls")
        if calls:
            parts += [
                json.dumps(call.get("function", call), sort_keys=True, default=str)
                for call in calls
            ]
    return hashlib.md5(
        "".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass"),
        usedforsecurity=False,
    )


def drop_copies(
    rows: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split rows into (first occurrences, exact copies of an earlier row), in order."""
    seen, kept, copies = set(), [], []
    for row in records(rows):
        same = key(row)
        (copies if same in seen else kept).append(row)
        seen.add(same)
    return kept, copies


def word_pattern(words: Iterable[str]) -> re.Pattern[str] | None:
    """Compile one case-insensitive pattern for a list of words; None for an empty list.

    A word of Latin letters matches only as a whole word ("class" does not contain "ass"). Chinese
    is written without spaces, so a Chinese word also matches inside longer ones: 毒品 in 消毒品牌.
    """
    longest_first = sorted(filter(None, words), key=lambda word: (-len(word), word))
    parts = [
        rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])" if word.isascii() else re.escape(word)
        for word in longest_first
    ]
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def token_lengths(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, answers_only: bool = False
) -> list[int]:
    """Count the tokens in each row's contents, or in its assistant turns only.

    The chat template's own tokens are not counted.
    """

    texts = [contents(row, answers_only) for row in map(course, records(rows))]
    lengths = iter(count_tokens([text for row in texts for text in row], tokenizer))
    return [sum(next(lengths) for _ in row) for row in texts]


def contents(row: dict[str, Any], answers_only: bool = False) -> list[str]:
    """List the texts of a row whose tokens count."""
    if "messages" not in row:
        return [row["text"]]
    return [
        message["content"]
        for message in row["messages"]
        if message.get("content") and (not answers_only or message["role"] == "assistant")
    ]


def read(number: int, row: Any) -> dict[str, Any]:
    """Bring a row into the course's schema, or refuse it by its number."""
    try:
        row = course(row)
    except Qwen3labError as error:
        raise Qwen3labError(f"Row {number}: {error}") from None
    if not _is_row(row):
        raise Qwen3labError(
            f"Row {number} has neither good messages nor text. Bring raw rows through"
            " qwen3lab.data.formats.convert first."
        )
    return row


def _is_row(row: Any) -> bool:
    """Check the types that the steps rely on; `validation.check` judges the content."""
    if not isinstance(row, dict) or "messages" not in row:
        return isinstance(row, dict) and isinstance(row.get("text"), str)
    return isinstance(row["messages"], list) and all(map(_is_message, row["messages"]))


def _is_message(message: Any) -> bool:
    if not (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content") or "", str)
        and isinstance(message.get("reasoning_content") or "", str)
    ):
        return False
    calls = message.get("tool_calls")
    return not calls or (isinstance(calls, list) and all(isinstance(call, dict) for call in calls))


def stays(row: dict[str, Any], mask: bool) -> bool:
    """Tell fast whether normalising and masking leave a row as it is: most rows need no copy."""
    for message in row.get("messages", (row,)):
        if mask and message.get("tool_calls"):
            return False
        for part in PARTS if "messages" in row else ("text",):
            text = message.get(part)
            if isinstance(text, str) and (normalize(text) != text or (mask and may_hold(text))):
                return False
    return True


def says_all(row: dict[str, Any]) -> bool:
    """Tell whether each message of a row, or its text, holds something."""
    if "messages" not in row:
        return bool(row["text"])
    return all([message.get("content") or message.get("tool_calls") for message in row["messages"]])
