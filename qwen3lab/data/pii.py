"""PII detection and masking: Chinese mobile numbers, e-mail, ID cards, bank cards, IP addresses.

The patterns look at the characters next to a number, never at word boundaries: Python counts a
Chinese character as part of a word, so there is no `\\b` between it and a digit. Signs, brackets,
quotes, Chinese, line ends and other addresses may stand directly beside what is found, and stay as
they are; a digit on either side, or a letter behind a number, makes it part of something else.
Where a number has a check digit, it must be correct, which keeps order numbers out. Landlines,
foreign phone numbers, names and postal addresses are not detected.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.messages import ARGUMENTS

# In this order: a number inside an e-mail address is part of the address.
KINDS = ("email", "ip", "id_card", "bank_card", "phone")
# The pattern for Chinese mobile numbers in popular guides.
PHONE_WITH_WORD_BOUNDARY = re.compile(r"\b1[3-9]\d{9}\b")
# No adjacent digit, no decimal point, no letter behind it; in one piece or in groups of 3-4-4 or
# 4-3-4, with or without the country code.
_ALONE, _AT_ITS_END = r"(?<!\d)(?<!\d\.)", r"(?![A-Za-z0-9]|\.\d)"
PHONE = re.compile(
    _ALONE + r"(?:(?:\((?:\+|00)?86\)|(?:\+|00)?86)[ -]?)?1[3-9]\d"
    r"(?:[ -]?\d{4}[ -]?\d{4}|\.\d{4}\.\d{4}|\d[ -]\d{3}[ -]\d{4})" + _AT_ITS_END,
    re.ASCII,
)
EMAIL = re.compile(
    r"(?<!\w)(?<!\w[.+'-])[A-Za-z0-9_][\w.+'-]*@(?!\dx\.)(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![A-Za-z0-9])",
    re.ASCII,
)
# Province, county, date of birth, serial number, check character; in one piece or as 6-8-4.
_DATE = r"(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
ID_CARD = re.compile(
    _ALONE + r"[1-8]\d{5}[ -]?" + _DATE + r"[ -]?\d{3}[\dXx]" + _AT_ITS_END, re.ASCII
)
# 13 to 19 digits in one piece, or grouped as printed on cards.
_GROUPS = (
    r"[2-69]\d{12,18}",
    r"[2-69]\d{3}([ -])\d{4}\1\d{4}\1\d{4}",
    r"3\d{3}([ -])\d{6}\2\d{5}",
    r"[2-69]\d{5}[ -]\d{10,13}",
)
BANK_CARD = re.compile(_ALONE + f"(?:{'|'.join(_GROUPS)})" + _AT_ITS_END, re.ASCII)
# A fifth group, which may as well be the next number of the sentence: the check digit decides.
_LONG_CARD = re.compile(_ALONE + _GROUPS[1] + r"\1\d{1,3}" + _AT_ITS_END, re.ASCII)
# All others have 16 to 19 digits: with 13 they are mostly bar codes.
_CARD_LENGTHS = {"3": range(14, 17), "4": (13, 16, 17, 18, 19)}
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
# Version and section numbers look the same; the word before them tells them apart.
_NO_VERSION = r"(?<![vV第])(?<!版本)(?<!版本号)(?<!ersion )(?<!ection )"
IPV4 = re.compile(
    rf"(?<!\d)(?<!\d\.){_NO_VERSION}(?:::[Ff]{{4}}:)?(?:{_OCTET}\.){{3}}{_OCTET}(?!\d|\.\d)",
    re.ASCII,
)
IPV6 = re.compile(
    r"(?<![A-Za-z0-9])(?<![A-Za-z0-9]\.)(?:[0-9A-Fa-f]{1,4}:|:(?=:))(?:[0-9A-Fa-f]{0,4}:){1,6}"
    r"(?:[0-9A-Fa-f]{1,4}|(?<=::))(?![A-Za-z0-9]|:[0-9A-Fa-f:])",
    re.ASCII,
)
# A colon before an address belongs to a word or to nothing; one behind a group is of something
# longer, such as a fingerprint.
_GROUP_BEFORE = re.compile(r"(?:(?<![A-Za-z0-9])[0-9A-Fa-f]+|:):\Z", re.ASCII)
# Map full-width characters of a Chinese keyboard and typographic dashes and spaces to their ASCII
# equivalents, one to one, so that positions stay.
_WIDE = (
    {0xFF01 + i: 0x21 + i for i in range(94)}
    | dict.fromkeys((*range(0x2010, 0x2016), 0x2212), "-")
    | dict.fromkeys((0xA0, 0x3000), " ")
)
_ANY_WIDE = re.compile("[\uff01-\uff5e\u2010-\u2015\u2212\u00a0\u3000]")
# All that is looked for has a digit, an @ or colons, which most texts have not.
_ANY_AT_ALL = re.compile("[0-9@:\uff10-\uff19\uff20\uff1a]")
WORTH_A_LOOK = re.compile(r"\d{3}|@|\d\.\d|:[0-9A-Fa-f]{0,4}:", re.ASCII)


def luhn(digits: str) -> bool:
    """Check the Luhn check digit of a card number (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def id_checksum(number: str) -> bool:
    """Check the last of 18 characters of a Chinese ID number (GB 11643, ISO 7064 MOD 11-2)."""
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def _is_ip(match: re.Match[str]) -> bool:
    try:
        ipaddress.ip_address(match[0])
    except ValueError:
        return False
    # Without digits "Face::Add" would pass as an address.
    before = match.string[max(0, match.start() - 40) : match.start()]
    return any(map(str.isdigit, match[0])) and not _GROUP_BEFORE.search(before)


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    return len(digits) in _CARD_LENGTHS.get(digits[0], range(16, 20)) and luhn(digits)


def _digits(text: str) -> str:
    return re.sub("[^0-9Xx]", "", text)


# Eleven characters of a phone number, the shortest of the numbers.
_LONG_NUMBER = re.compile("[0-9][0-9 .-]{10}")


def _email_from(text: str) -> int:
    at = text.find("@")
    return -1 if at < 0 else text.rfind(" ", 0, at) + 1


def _ipv4_from(text: str) -> int:
    return -1 if text.count(".") < 3 else max(0, text.find(".") - len("::ffff:255"))


def _ipv6_from(text: str) -> int:
    return -1 if text.count(":") < 2 else max(0, text.find(":") - 4)


def _number_from(text: str) -> int:
    found = _LONG_NUMBER.search(text)
    return max(0, found.start() - len("(0086) ")) if found else -1


# Kind, where in a text the first match can begin (-1: nowhere), the pattern, what a match must
# pass. The patterns themselves begin with a look back, which makes their search slow.
FINDERS: tuple[
    tuple[str, Callable[[str], int], re.Pattern[str], Callable[[re.Match[str]], bool] | None], ...
] = (
    ("email", _email_from, EMAIL, None),
    ("ip", _ipv4_from, IPV4, None),
    ("ip", _ipv6_from, IPV6, _is_ip),
    ("id_card", _number_from, ID_CARD, lambda match: id_checksum(_digits(match[0]))),
    ("bank_card", _number_from, _LONG_CARD, _is_card),
    ("bank_card", _number_from, BANK_CARD, _is_card),
    ("phone", _number_from, PHONE, None),
)


def _matches(
    pattern: re.Pattern[str], text: str, at: int, holds: Callable[[re.Match[str]], bool] | None
) -> Iterator[re.Match[str]]:
    """Go through the matches from a place on that hold; one may begin inside one that does not."""
    while match := pattern.search(text, at):
        if holds is None or holds(match):
            yield match
            at = match.end()
        else:
            at = match.start() + 1


def may_hold(text: str) -> bool:
    """Tell fast whether a text could hold personal data; most could not."""
    return _ANY_AT_ALL.search(text) is not None


def find_personal(text: str, kinds: Sequence[str] = KINDS) -> list[tuple[int, int, str]]:
    """Find personal data in a text: sorted, non-overlapping spans (start, end, kind)."""
    if not may_hold(text):
        return []
    if _ANY_WIDE.search(text):
        text = text.translate(_WIDE)
    if not WORTH_A_LOOK.search(text):
        return []
    found: list[tuple[int, int, str]] = []
    taken = bytearray(len(text))
    for kind, first, pattern, holds in FINDERS:
        begin = first(text) if kind in kinds else -1
        if begin >= 0:
            for match in _matches(pattern, text, begin, holds):
                start, end = match.span()
                if taken.find(1, start, end) < 0:
                    found.append((start, end, kind))
                    taken[start:end] = b"\1" * (end - start)
    return sorted(found)


def mask_personal(text: str, kinds: Sequence[str] = KINDS) -> tuple[str, Counter[str]]:
    """Mask personal data with [PHONE], [EMAIL], [ID_CARD], [BANK_CARD] or [IP].

    Replaces what `find_personal` finds; the rest of the sentence stays. Returns the text and the
    number of replacements per kind. Masking twice changes nothing more.
    """
    counts: Counter[str] = Counter()
    # A second round finds something only where a mark separated it from its neighbour.
    while spans := find_personal(text, kinds):
        pieces, at = [], 0
        for start, end, kind in spans:
            pieces += [text[at:start], f"[{kind.upper()}]"]
            counts[kind] += 1
            at = end
        text = "".join([*pieces, text[at:]])
    return text, counts


def mask_json(thing: Any, counts: Counter[str]) -> Any:
    """Mask personal data in a JSON value's strings and integers; add to `counts`."""
    if isinstance(thing, str):
        text, found = mask_personal(thing)
        counts.update(found)
        return text
    if isinstance(thing, int) and not isinstance(thing, bool):
        text, found = mask_personal(str(thing))
        counts.update(found)
        return text if found else thing
    if isinstance(thing, Mapping):
        return {key: mask_json(value, counts) for key, value in thing.items()}
    if isinstance(thing, list):
        return [mask_json(value, counts) for value in thing]
    return thing


def mask_arguments(text: str, counts: Counter[str]) -> str:
    """Mask personal data in the JSON text of a tool call's arguments, which stays valid JSON.

    Text that is not JSON is masked as plain text.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return mask_json(text, counts)
    masked = mask_json(given, counts)
    return text if masked == given else json.dumps(masked, ensure_ascii=False)


def mask_call(call: Any, counts: Counter[str]) -> Any:
    """Mask personal data in a tool call's arguments, as JSON text or as an object."""
    if not isinstance(call, Mapping):
        return call
    return {
        key: mask_call(value, counts)
        if key == "function"
        else value
        if key not in ARGUMENTS
        else mask_arguments(value, counts)
        if isinstance(value, str)
        else mask_json(value, counts)
        for key, value in call.items()
    }


def score(
    texts: Sequence[dict[str, Any]],
    find: Callable[[str], list[tuple[int, int, str]]] = find_personal,
) -> dict[str, dict[str, Any]]:
    """Compute a PII finder's precision and recall per kind on labelled texts.

    A labelled span counts as found only if one found span of its kind covers all of it: nothing of
    it may stay readable. A found span is right if it overlaps a labelled one of its kind.

    Args:
        texts: dicts with "text" and "spans", a list of [start, end, kind] (`labelled` makes one).
        find: returns (start, end, kind) for a text.
    Returns:
        kind -> counts "right" and "wrong" of what was found, "labelled" and "missed" of what should
        be found; "precision" and "recall" in [0, 1] (nan for 0 of 0); and the "missed texts" and
        "wrong texts".
    """
    table = {
        kind: {
            "right": 0,
            "wrong": 0,
            "labelled": 0,
            "missed": 0,
            "missed texts": [],
            "wrong texts": [],
        }
        for kind in KINDS
    }
    for item in texts:
        text, wanted, found = (
            item["text"],
            [tuple(span) for span in item["spans"]],
            find(item["text"]),
        )
        for start, end, kind in wanted:
            covered = any(a <= start and end <= b and k == kind for a, b, k in found)
            table[kind]["labelled"] += 1
            table[kind]["missed"] += not covered
            if not covered:
                table[kind]["missed texts"].append(text)
        for start, end, kind in found:
            right = any(a < end and start < b and k == kind for a, b, k in wanted)
            table[kind]["right" if right else "wrong"] += 1
            if not right:
                table[kind]["wrong texts"].append(text)
    for row in table.values():
        found_all, labels = row["right"] + row["wrong"], row["labelled"]
        row["precision"] = row["right"] / found_all if found_all else float("nan")
        row["recall"] = (labels - row["missed"]) / labels if labels else float("nan")
    return table


def labelled(text: str, **values: Sequence[str]) -> dict[str, Any]:
    """Label a text for `score`: labelled("call 16400001111", phone=["16400001111"]).

    Raises:
        Qwen3labError: an unknown kind, or a value that does not occur in the text.
    """
    spans: list[list[Any]] = []
    for kind, strings in values.items():
        if kind not in KINDS:
            raise Qwen3labError(
                f"There is no kind of personal data {kind!r}. Use one of: {', '.join(KINDS)}."
            )
        at = 0
        for string in strings:
            start = text.find(string, at)
            if start < 0 or not string:
                raise Qwen3labError(
                    f"{string!r} does not stand in the text {text!r}. Write it exactly as it stands"
                    " there, in the order of the text."
                )
            at = start + len(string)
            spans.append([start, at, kind])
    return {"text": text, "spans": sorted(spans)}


def by_pattern(
    pattern: re.Pattern[str], kind: str = "phone"
) -> Callable[[str], list[tuple[int, int, str]]]:
    """Build a finder for `score` from a single pattern."""
    return lambda text: [(*match.span(), kind) for match in pattern.finditer(text)]
