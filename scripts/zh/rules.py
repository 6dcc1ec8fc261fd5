"""Compare a translated text with its original: what must be the same, and how Chinese is set."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

from markdown_it import MarkdownIt

from qwen3lab import paths

LOCALE = paths.ROOT / "locales" / "zh_CN"
FENCE = re.compile(r"```.*?```", re.DOTALL)
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)|<(https?://[^>]+)>")
NUMBER = re.compile(r"\.?\d[\d.,]*")
HANZI = "\u4e00-\u9fff"
SPACE = re.compile(rf"[{HANZI}][A-Za-z0-9]|[A-Za-z0-9%][{HANZI}]")
HALF = re.compile(rf"[{HANZI}]\s?[,;:?!](?!\w)|[{HANZI}]\.(\s|$)|[{HANZI}]\(")
LINES = {"headings": re.compile(r"(?m)^#+ "), "list items": re.compile(r"(?m)^\s*(?:[-*]|\d+\.) ")}
MARKDOWN = MarkdownIt().enable("table")
LEAST = 0.6  # Chinese characters for each English word
FEW_WORDS = 3  # a text with no more of them may stay as it is


def glossary() -> dict[str, list[str]]:
    """Read the terms: English -> the Chinese forms that a translation may use."""
    return tomllib.loads((LOCALE / "glossary.toml").read_text(encoding="utf-8"))


def faults(english: str, chinese: str, terms: dict[str, list[str]] | None = None) -> list[str]:
    """Compare one text in both languages; returns one line per fault.

    terms: of a cell. Without them the text is a message: no Markdown, and perhaps bare code.
    """
    (same, words), (other, text) = _parts(english), _parts(chinese)
    found = [
        f"{kind}: lost {list((same[kind] - other[kind]).elements())},"
        f" new {list((other[kind] - same[kind]).elements())}"
        for kind in same
        if same[kind] != other[kind]
    ]
    hanzi, many = len(re.findall(f"[{HANZI}]", text)), len(re.findall(r"[A-Za-z]{2,}", words))
    if many > FEW_WORDS and hanzi < (LEAST * many if terms else 1):
        found.append(f"{hanzi} Chinese characters for {many} words")
    shown = text.replace("*", "")
    for name, rule in (("no space", SPACE), ("half-width mark", HALF)):
        found += [f"{name}: {_around(shown, match)!r}" for match in rule.finditer(shown)]
    if terms is None:
        return found
    plain, said = re.sub(r"[*_]", "", words), re.sub(r"[*_]", "", text).lower()
    for term, forms in terms.items():
        if _holds(plain, term) and not any(form.lower() in said for form in forms):
            found.append(f"the term {term!r} without one of {forms}")
    for name, rule in LINES.items():
        if len(rule.findall(words)) != len(rule.findall(text)):
            found.append(f"another number of {name}")
    if words.count("**") != text.count("**"):
        found.append("another number of bold marks")
    tokens = [token for block in MARKDOWN.parse(chinese) for token in block.children or ()]
    if any(token.type == "text" and "**" in token.content for token in tokens):
        found.append("bold marks that stay visible: full-width marks belong outside of them")
    return found


def _holds(text: str, term: str) -> bool:
    """Check for a term as a whole word, its plural included; names keep their capitals."""
    word = rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?![\w-])"
    return bool(re.search(word, text, re.IGNORECASE if term.islower() else 0))


def _around(text: str, match: re.Match) -> str:
    return text[max(0, match.start() - 6) : match.end() + 6]


def _parts(text: str) -> tuple[dict[str, Counter], str]:
    """Take apart what a translation must keep, and what is left of the text without it."""
    found = {"code blocks": Counter(FENCE.findall(text))}
    text = FENCE.sub(" ", text)
    found["code spans"] = Counter(match[1] for match in CODE.findall(text))
    text = CODE.sub(" ", text)
    found["formulas"] = Counter(FORMULA.findall(text))
    text = FORMULA.sub(" ", text)
    found["links"] = Counter(target or address for target, address in LINK.findall(text))
    text = LINK.sub("] ", text)
    numbered = re.sub(r"(?m)^(\s*)\d+\.\s", r"\1", text)
    found["numbers"] = Counter(number.rstrip(".,") for number in NUMBER.findall(numbered))
    return found, text
