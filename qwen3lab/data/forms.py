"""Read one raw row of a public form: its columns are known, names are changed, nothing is repaired.

`columns.plan` tells which column is what. `read` gives what the row becomes; `validation.check`
says afterwards whether it can be trained on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from qwen3lab.data.columns import Plan, plain
from qwen3lab.data.turns import (
    UNSEEN,
    Row,
    Unusable,
    is_turns,
    joined_parts,
    messages_of,
    opened,
    with_calls,
)
from qwen3lab.data.validation import short

_IMAGE = re.compile("<image>", re.IGNORECASE)
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def read(row: Row, found: Plan, notes: Counter[str]) -> tuple[str, Row]:
    """Read a row as (kind, what it becomes).

    The kind is "rows" (with messages), "texts" (text), "preferences" (prompt, chosen and rejected
    as messages) or "labelled" (prompt and completion as messages, label). `notes` counts what was
    read in another way than it is spelled.

    Raises:
        Unusable: the row is of no known form, or a part of it cannot be read.
    """
    if not found.kind:
        keys = ", ".join(sorted(short(key, 20) for key in row)[:8])
        raise Unusable("an unknown form", f"keys {keys or 'none'}")
    given = _Given(row, found, notes)
    if given.get("pictures"):
        raise Unusable(UNSEEN, f"the column {found.names['pictures']!r}")
    kind, became = _READERS[found.kind](given)
    for message in became.get("messages", became.get("prompt", ())):
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str) and _IMAGE.search(content):
            raise Unusable(UNSEEN, "<image> in the text")
    tools = _tools(given.get("tools"))
    return kind, became | ({"tools": tools} if tools and "text" not in became else {})


class _Given:
    """A row's parts by what they are."""

    def __init__(self, row: Row, found: Plan, notes: Counter[str]):
        self.row, self.names, self.notes = row, found.names, notes

    def __contains__(self, part: str) -> bool:
        return part in self.names

    def get(self, part: str) -> Any:
        return self.row.get(self.names[part]) if part in self.names else None

    def question(self) -> list[Row]:
        """Build the messages up to the question: system, history, then the prompt."""
        prompt, extra = self.get("prompt"), self.get("input")
        if is_turns(prompt := opened(prompt)):
            asked = messages_of(prompt)
        else:
            prompt = _text(prompt)
            if extra not in (None, ""):
                prompt = _joined(prompt, _written(extra), "input")
            if self.get("context") not in (None, ""):
                prompt = _joined(_written(self.get("context")), prompt, "context")
            asked = [{"role": "user", "content": prompt}]
        return [*self.system(), *self.history(), *asked]

    def system(self) -> list[Row]:
        system = self.get("system")
        return [{"role": "system", "content": system}] if system else []

    def history(self) -> list[Row]:
        history = opened(self.get("history")) or []
        if is_turns(history):
            return messages_of(history)
        if not isinstance(history, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in history
        ):
            raise Unusable("an unknown form", "a history that is no list of pairs")
        return [
            {"role": role, "content": _text(text)}
            for pair in history
            for role, text in zip(("user", "assistant"), pair)
        ]

    def answer(self) -> list[Row]:
        """Build the answer's messages, with thoughts and a weight where the row has them beside."""
        value = self.get("completion")
        if plain(self.names.get("completion")) == "answers":
            value = self.first_of(opened(value))
        answer = _turns(value, "assistant")
        if isinstance(self.get("thoughts"), str) and self.get("thoughts"):
            answer[-1]["reasoning_content"] = self.get("thoughts")
        if self.get("weight") is not None:
            answer[-1]["weight"] = _number(self.get("weight"))
        return answer

    def first_of(self, answers: Any) -> Any:
        """Take the first of several answers to one question, as in SQuAD."""
        if isinstance(answers, dict):
            answers = answers.get("text", answers.get("value"))
        if isinstance(answers, list):
            if not answers:
                raise Unusable("no answer", f"the list {self.names['completion']!r} is empty")
            if len(set(map(repr, answers))) > 1:
                self.notes["the first of several answers was taken"] += 1
            return answers[0]
        return answers


# Each reader gives (kind, what the row becomes).


def _conversation(given: _Given) -> tuple[str, Row]:
    turns = opened(given.get("messages"))
    if not isinstance(turns, list):
        raise Unusable("an unknown form", f"{given.names['messages']!r} is no list of messages")
    messages = [*given.system(), *messages_of(turns)]
    if "completion" in given and messages and messages[-1].get("role") != "assistant":
        messages += given.answer()  # as in `data/tasks`
    elif given.get("weight") is not None and messages:
        messages[-1].setdefault("weight", _number(given.get("weight")))
    return _labelled(given, messages)


def _answered(given: _Given) -> tuple[str, Row]:
    kind, became = _labelled(given, [*given.question(), *given.answer()])
    if "origin" in given:
        # Answers are worked in words (chain of thought) or as a program: two tasks, to be kept
        # apart in a mixture.
        origin = given.get("origin")
        how = "program" if isinstance(origin, str) and "/PoT/" in origin else "words"
        became["task"] = f"problem in {how}"
    return kind, became


def _labelled(given: _Given, messages: list[Row]) -> tuple[str, Row]:
    """Set a row with a label (a good or a bad answer) apart: a bad one is not to be learned."""
    if "label" not in given:
        return "rows", {"messages": messages}
    return "labelled", {
        "prompt": messages[:-1],
        "completion": messages[-1:],
        "label": truth(given.get("label")),
    }


def _preferred(given: _Given) -> tuple[str, Row]:
    answers = [opened(given.get(part)) for part in ("chosen", "rejected")]
    if all(isinstance(answer, str) and _TRANSCRIPT.match(answer) for answer in answers):
        answers = [_transcript(answer) for answer in answers]
    chosen, rejected = (_turns(answer, "assistant") for answer in answers)
    whole = chosen[:1] and chosen[0].get("role") != "assistant"
    if whole:  # both are conversations from the first message on: the same beginning is the prompt
        shared = next(
            (place for place, pair in enumerate(zip(chosen, rejected)) if pair[0] != pair[1]),
            min(len(chosen), len(rejected)),
        )
        shared = min(shared, len(chosen) - 1, len(rejected) - 1)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if prompt and prompt[0].get("role") != "system":
            prompt = [*given.system(), *prompt]
    elif "messages" in given:
        turns = opened(given.get("messages"))
        if not isinstance(turns, list):
            raise Unusable("an unknown form", f"{given.names['messages']!r} is no list of messages")
        prompt = [*given.system(), *messages_of(turns)]
    elif "prompt" in given:
        prompt = given.question()
    else:
        raise Unusable("no question before the answer", "two answers and no prompt")
    if chosen == rejected:
        raise Unusable("a chosen answer that equals the rejected one", short(answers[0]))
    return "preferences", {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _choice(given: _Given) -> tuple[str, Row]:
    options, question = opened(given.get("options")), given.get("prompt")
    if not isinstance(question, str):
        raise Unusable("an unknown form", "a question that is no text")
    if isinstance(options, list) and all(
        isinstance(option, dict) and isinstance(option.get("key"), str) for option in options
    ):
        # a second public spelling
        options = {option["key"]: option.get("value") for option in options}
    if (
        not isinstance(options, dict)
        or not options
        or not all(isinstance(text, str) for pair in options.items() for text in pair)
    ):
        raise Unusable("options that cannot be read", "no letters with their texts")
    answer, letter = given.get("completion"), given.get("letter")
    if letter is None:
        letter = next((key for key, text in options.items() if text == answer), None)
    if not isinstance(letter, str) or letter not in options:
        raise Unusable(
            "an answer that is none of the options", short(letter if letter is not None else answer)
        )
    if answer is not None and answer != options[letter]:
        raise Unusable(
            "an answer that contradicts its letter", f"{letter} is {short(options[letter])}"
        )
    asked = question + "\n\n" + "\n".join(f"{key}. {text}" for key, text in options.items())
    return "rows", {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": f"{letter}. {options[letter]}"},
        ]
    }


def _code(given: _Given) -> tuple[str, Row]:
    # Nobody asked for this file. An invented question ("Write a file that ...") would teach the
    # model an exchange that never took place.
    kept = {
        part: given.get(part)
        for part in ("repo_name", "path", "license")
        if isinstance(given.get(part), str)
    }
    return "texts", {"text": given.get("text"), "language": "code"} | kept


def _plain_text(given: _Given) -> tuple[str, Row]:
    return "texts", {"text": given.get("text")}


_READERS: Mapping[str, Callable[[_Given], tuple[str, Row]]] = {
    "preference": _preferred,
    "messages": _conversation,
    "choice": _choice,
    "code": _code,
    "answer": _answered,
    "text": _plain_text,
}


# Values


def truth(value: Any) -> bool | None:
    """Read a label of a good or a bad answer: true and false, also as text, 0 and 1; else None."""
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int)) and value in (0, 1) else None


def thoughts(value: Any) -> str | None:
    """Read thoughts beside an answer, which are text; else None, as for "thinking": true."""
    return value if isinstance(value, str) else None


def _text(value: Any) -> Any:
    """Join typed parts; leave all else to the check, which refuses what is no text."""
    return joined_parts(value) if isinstance(value, list) else value


def _written(value: Any) -> Any:
    """Write a whole number beside a question as its text; else as `_text`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_whole else _text(value)


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Unusable("a weight that is no number", short(value)) from None


def _joined(first: Any, second: Any, what: str) -> Any:
    """Put two texts under each other with a blank line; refuse what is no text."""
    for value in (first, second):
        if not isinstance(value, str):
            kind = "there is none" if value is None else f"of type {type(value).__name__}"
            raise Unusable("a content that is not text", f"{what} or question: {kind}")
    return f"{first}\n\n{second}"


def _turns(value: Any, role: str) -> list[Row]:
    """Read an answer that is one text, one message or a list of messages."""
    inside = opened(value)
    for turns in ([inside], inside):
        if is_turns(turns):
            return messages_of(turns)
    return [with_calls({"role": role, "content": _text(value)})]


def _transcript(text: str) -> list[Row]:
    """Cut a transcript of "Human:" and "Assistant:" into messages."""
    pieces = _TRANSCRIPT.split(text)[1:]
    return [
        {"role": "user" if name == "Human" else "assistant", "content": said.strip()}
        for name, said in zip(pieces[::2], pieces[1::2])
    ]


def _tools(tools: Any) -> list[Any] | None:
    """Read schemas of functions, in OpenAI's spelling; some sets keep them as one JSON text."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise Unusable("tools that cannot be read", "no JSON") from None
    if not tools or isinstance(tools, str):
        return None
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", "function": tool}
        if isinstance(tool, dict)
        and "name" in tool
        and "function" not in tool
        and tool.get("type", "function") == "function"
        else tool
        for tool in tools
    ]
