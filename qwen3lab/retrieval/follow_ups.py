"""Rewrite a follow-up question ("And its weight?") as one that can be searched by itself.

`standalone` is a rule for short questions about one thing. `by_model` asks a released chat model;
the course's tiny model was never trained to rewrite.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen3lab.retrieval.answering import language_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POSSESSIVE = re.compile(r"\b(its|his|her|their)\s+(?=\w)", re.IGNORECASE)
PRONOUN = re.compile(
    r"\b(it|he|she|they|them|him|this one|that one|the same one)\b(?!')", re.IGNORECASE
)
OPENING = re.compile(r"^(?:and|what about|how about|and what about)\b[\s,]*", re.IGNORECASE)
CHINESE = re.compile(r"它们|他们|她们|它|他|她|这个(?!\w)|那个(?!\w)")
REST = re.compile(r"^(?:那么|那|还有)?[，,]?(.+?)呢[？?]?$")
PARTICLES = re.compile(r"[的是在有了吗呢多少什么哪几个请问，。？?]")
ATTRIBUTE = 4  # characters; a longer Chinese "…呢" names another thing
NAME = re.compile(r"\b(?!I\b)[A-Z]")
ARTICLES = ("the", "a", "an")
WORD = re.compile(r"[^\s.,;:!?()\"]+")
SMALL = frozenset(
    "a an and are as at be by can do does for from has have how i in is it much of on or our please"
    " tell me that the their there this to was what when where which who whose with you your"
    " many long one".split()
)
REWRITE = (
    "Rewrite the last question so that it can be understood without the conversation. Keep its"
    " language. Reply with the question alone."
)


def standalone(question: str, before: str, passage: str = "") -> str:
    """Rewrite a follow-up by a rule; a question that refers to nothing comes back as it is.

    The thing in question is the longest run of words that the question before and the passage cited
    for it share ("the Solfem canoe"). It takes the place of a pronoun; "And the weight?" asks for
    that of the same thing; "And the Halve canoe?", with a capital or the same last word, asks the
    question before about another thing.

    Args:
        question: the follow-up.
        before: the standalone question before it.
        passage: the paragraph that answered it.
    """
    thing = shared(before, passage)
    if not thing:
        return question
    if language_of(question) == "zh":
        return _chinese(question, before, thing)
    rest = OPENING.sub("", question).strip().rstrip("?. ")
    if not rest or rest == question.strip().rstrip("?. "):
        if NAME.search(question.strip()[1:]):  # it names what it asks about
            return question
        asked = POSSESSIVE.sub(lambda _: f"{thing}'s ", question, count=1)
        return PRONOUN.sub(lambda _: thing, question, count=1) if asked == question else asked
    own = POSSESSIVE.match(rest)
    if own or not (NAME.search(rest) or rest.lower().endswith(f" {thing.lower().split()[-1]}")):
        attribute = rest[own.end() :] if own else rest.removeprefix("the ")
        return f"What is the {attribute} of {thing}?"
    return before.replace(thing, rest)


def _chinese(question: str, before: str, thing: str) -> str:
    if CHINESE.search(question):
        return CHINESE.sub(thing, question, count=1)
    rest = REST.match(question.strip())
    if not rest:
        return question
    if rest[1].endswith(thing[-2:]) or len(rest[1]) > ATTRIBUTE:
        return before.replace(thing, rest[1])
    return f"{thing}的{rest[1].removeprefix('的')}是多少？"


def shared(question: str, passage: str) -> str:
    """Find the name that a question and the passage that answers it share, or "".

    It is a run of words, or of Chinese characters, without small words such as "of" or "的". Runs
    with a capital letter come first, then longer ones, then later ones.
    """
    if language_of(question) == "zh":
        runs = [
            part[i:j]
            for part in PARTICLES.split(question)
            for i in range(len(part))
            for j in range(i + 2, len(part) + 1)
            if part[i:j] in passage
        ]
        return max(runs, key=len, default="")
    words = list(WORD.finditer(question))
    plain = [word[0].lower().removesuffix("'s") for word in words]
    said = f" {' '.join(WORD.findall(passage.lower()))} "
    found = [("", (False, 0, 0))]
    for i in range(len(words)):
        for j in range(i, len(words)):
            if plain[j] in SMALL or f" {' '.join(plain[i : j + 1])} " not in said:
                break
            first = i - (i > 0 and plain[i - 1] in ARTICLES)
            run = question[words[first].start() : words[j].end()].removesuffix("'s")
            capital = i > 0 and NAME.search(run) is not None
            found.append((run, (capital, j - i + 1, j)))
            if words[j][0].endswith("'s"):  # what follows is an attribute
                break
    return max(found, key=lambda run: run[1])[0]


def messages(history: list[tuple[str, str]], question: str) -> list[dict[str, str]]:
    """Build the prompt that asks a model to rewrite a question after (question, answer) pairs."""
    talk = "\n".join(f"Q: {asked}\nA: {answered}" for asked, answered in history)
    return [{"role": "user", "content": f"{REWRITE}\n\n{talk}\nQ: {question}"}]


def by_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int = 64
) -> Callable[[str, str, str], str]:
    """Create a rewriter, as `standalone` is one, that asks a chat model (a released one)."""
    from qwen3lab.models import generation

    def rewrite(question: str, before: str, passage: str = "") -> str:
        (text,) = generation.generate(
            model,
            tokenizer,
            [messages([(before, passage)], question)],
            max_new_tokens=max_new_tokens,
        )
        return text.strip().split("\n")[0] or question

    return rewrite
