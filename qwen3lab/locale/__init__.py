"""Translate finished English text where it leaves the package; English itself costs nothing.

`QWEN3LAB_LANG=zh` chooses Chinese, else the machine's locale does. The catalogue is made by
`make zh` from locales/zh_CN/qwen3lab.po. A sentence that is not in it stays English.
"""

from __future__ import annotations

import gettext
import os
import re
from functools import lru_cache
from pathlib import Path
from string import Formatter

VARIABLES = ("QWEN3LAB_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
CATALOGUE = Path(__file__).with_name("zh_CN") / "LC_MESSAGES" / "qwen3lab.mo"
_SEPARATOR = "\x04"  # of gettext, between the kind of a message and its text
_DEEPEST = 3  # holes within holes


def language() -> str:
    """Return "zh" or "en": the first variable that is set decides, as gettext has it."""
    chosen = next((value for name in VARIABLES if (value := os.environ.get(name))), "en")
    return "zh" if chosen.lower().startswith("zh") else "en"


def translate(text: str, kind: str) -> str:
    """Translate a finished text of one kind: "error", "exercise", "command" or "chart".

    Looks for the text itself, then for the template with the longest fixed text that it was made
    from; what stands in the holes is looked up in the same way.
    """
    if language() == "en" or not text:
        return text
    return _lookup(text, kind, _DEEPEST)


def fixed(template: str) -> str:
    """Return what a template says between its holes."""
    return "".join(literal for literal, *_ in Formatter().parse(template))


def pattern(template: str) -> re.Pattern:
    """Compile the expression that a filled template matches, with its holes as groups."""
    pieces = [
        re.escape(literal) + (f"(?P<{hole}>.*?)" if hole is not None else "")
        for literal, hole, *_ in Formatter().parse(template)
    ]
    return re.compile("".join(pieces), re.DOTALL)


def _lookup(text: str, kind: str, depth: int) -> str:
    exact, templates = catalogue(kind)
    if text in exact:
        return exact[text]
    for form, chinese in templates:
        found = form.fullmatch(text)
        if found:
            holes = found.groupdict()
            if depth:
                holes = {name: _hole(hole, kind, depth - 1) for name, hole in holes.items()}
            return chinese.format_map(holes)
    return text


def _hole(text: str, kind: str, depth: int) -> str:
    """Translate what fills a hole; padding around it stays, where it is no part of a message."""
    said, bare = _lookup(text, kind, depth), text.strip()
    if said != text or bare in ("", text):
        return said
    return text.replace(bare, _lookup(bare, kind, depth))


@lru_cache
def catalogue(kind: str) -> tuple[dict[str, str], list[tuple[re.Pattern, str]]]:
    """Load one kind of messages: the plain ones as a dict, the templates, most specific first."""
    with CATALOGUE.open("rb") as file:
        table = gettext.GNUTranslations(file)._catalog  # gettext lists its messages no other way
    begin = kind + _SEPARATOR
    found = {key.removeprefix(begin): text for key, text in table.items() if key.startswith(begin)}
    plain = {key: text for key, text in found.items() if not pattern(key).groups}
    templates = sorted(found.keys() - plain.keys(), key=lambda key: (-len(fixed(key)), key))
    return (
        {fixed(key): fixed(text) for key, text in plain.items()},
        [(pattern(key), found[key]) for key in templates],
    )
