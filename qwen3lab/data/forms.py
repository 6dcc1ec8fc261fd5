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

from qwen3lab.data.columns import Left, Plan, filled, plain
from qwen3lab.data.turns import (
    UNSEEN,
    Keys,
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


def read(row: Row, found: Plan, notes: Counter[str], left: Left) -> tuple[str, Row]:
    """Read a row as (kind, what it becomes).

    The kind is "rows" (with messages), "texts" (text), "preferences" (prompt, chosen and rejected
    as messages) or "labelled" (prompt and completion as messages, label). `notes` counts what was
    read in another way than it is spelled; `left` takes what holds something and was not read.

    Raises:
        Unusable: the row is of no known form, or a part of it cannot be read.
    """
    if not found.kind:
        keys = ", ".join(sorted(short(key, 20) for key in row)[:8])
        raise Unusable("an unknown form", f"keys {keys or 'none'}")
    given = _Given(row, found, notes, left)
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

    def __init__(self, row: Row, found: Plan, notes: Counter[str], left: Left):
        self.row, self.names, self.notes, self.left = row, found.names, notes, left

    def __contains__(self, part: str) -> bool:
        return part in self.names

    def get(self, part: str) -> Any:
        return self.row.get(self.names[part]) if part in self.names else None

    def leave(self, *parts: str) -> None:
        """Note parts that are there and not used."""
        self.left.update((self.names[part], "") for part in parts if part in self.names)

    def question(self) -> list[Row]:
        """Build the messages up to the question: system, history, then the prompt."""
        prompt, extra, context = map(self.get, ("prompt", "input", "context"))
        if is_turns(prompt := opened(prompt)):
            asked = messages_of(prompt, self.left)
            self.leave("input", "context")
        else:
            prompt = _text(prompt, self.left)
            if extra not in (None, ""):
                prompt = _joined(prompt, _written(extra, self.left), "input")
            if context not in (None, ""):
                prompt = _joined(_written(context, self.left), prompt, "context")
            asked = [{"role": "user", "content": prompt}]
        return [*self.system(), *self.history(), *asked]

    def system(self) -> list[Row]:
        system = _text(self.get("system"), self.left)
        return [{"role": "system", "content": system}] if filled(system) else []

    def history(self) -> list[Row]:
        history = opened(self.get("history"))
        if not filled(history):
            return []
        if is_turns(history):
            return messages_of(history, self.left)
        if not isinstance(history, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in history
        ):
            raise Unusable("an unknown form", "a history that is no list of pairs")
        return [
            {"role": role, "content": _text(text, self.left)}
            for pair in history
            for role, text in zip(("user", "assistant"), pair)
        ]

    def turns(self) -> list[Row]:
        """Read the column of messages, after the system message."""
        turns = opened(self.get("messages"))
        if not isinstance(turns, list):
            raise Unusable("an unknown form", f"{self.names['messages']!r} is no list of messages")
        return [*self.system(), *messages_of(turns, self.left)]

    def answer(self) -> list[Row]:
        """Build the answer's messages, with thoughts and a weight where the row has them beside."""
        value = self.get("completion")
        if plain(self.names.get("completion")) == "answers":
            value = self.first_of(opened(value))
        answer = _turns(value, "assistant", self.left)
        self.beside(answer[-1])
        return answer

    def beside(self, answer: Row) -> None:
        """Add the thoughts and the weight that the row has beside an answer without its own."""
        thoughts, weight = self.get("thoughts"), self.get("weight")
        if filled(thoughts) and answer.setdefault("reasoning_content", thoughts) != thoughts:
            self.leave("thoughts")
        if filled(weight) and answer.setdefault("weight", _number(weight)) != _number(weight):
            self.leave("weight")

    def first_of(self, answers: Any) -> Any:
        """Take the first of several answers to one question, as in SQuAD."""
        if isinstance(answers, dict):
            keys = Keys(answers)
            answers = keys.first("text", "value")
            keys.leave(self.left, repr(self.names["completion"]))
        if isinstance(answers, list):
            if not answers:
                raise Unusable("no answer", f"the list {self.names['completion']!r} is empty")
            if len(set(map(repr, answers))) > 1:
                self.notes["the first of several answers was taken"] += 1
            return answers[0]
        return answers


# Each reader gives (kind, what the row becomes).


def _conversation(given: _Given) -> tuple[str, Row]:
    messages = given.turns()
    if not messages:
        return _labelled(given, messages)
    if messages[-1].get("role") == "assistant":
        given.beside(messages[-1])
        given.leave("completion")
    elif "completion" in given:
        messages += given.answer()  # as in `data/tasks`
    else:
        given.leave("thoughts", "weight")
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


_ASKED = ("messages", "prompt", "input", "context", "history", "system")  # parts of a question


def _says(messages: list[Row], value: Any) -> bool:
    """Tell whether a text, or every text of a list of messages, stands in the messages."""
    inside = opened(value)
    said = (
        [turn.get("content") for turn in messages_of(inside, set())]
        if is_turns(inside)
        else [value]
    )
    return all(text in [message.get("content") for message in messages] for text in said)


def _preferred(given: _Given) -> tuple[str, Row]:
    answers = [opened(given.get(part)) for part in ("chosen", "rejected")]
    if all(isinstance(answer, str) and _TRANSCRIPT.match(answer) for answer in answers):
        answers = [_transcript(answer) for answer in answers]
    chosen, rejected = (_turns(answer, "assistant", given.left) for answer in answers)
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
        prompt = given.turns()
    elif "prompt" in given:
        prompt = given.question()
    else:
        raise Unusable("no question before the answer", "two answers and no prompt")
    if whole or "messages" in given:
        given.leave(*(part for part in _ASKED if not _says(prompt, given.get(part))))
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
        listed, options = options, {}
        for option in listed:
            keys = Keys(option)
            letter, text = keys.first("key"), keys.first("value")
            if letter in options:
                raise Unusable("options that cannot be read", f"two under {short(letter)}")
            options[letter] = text
            keys.leave(given.left, "an option")
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
    given.leave(*({"repo_name", "path", "license"} - kept.keys()))
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


def _text(value: Any, left: Left) -> Any:
    """Join typed parts; leave all else to the check, which refuses what is no text."""
    return joined_parts(value, left) if isinstance(value, list) else value


def _written(value: Any, left: Left) -> Any:
    """Write a whole number beside a question as its text; else as `_text`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_whole else _text(value, left)


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


def _turns(value: Any, role: str, left: Left) -> list[Row]:
    """Read an answer that is one text, one message or a list of messages."""
    inside = opened(value)
    for turns in ([inside], inside):
        if is_turns(turns):
            return messages_of(turns, left)
    return [with_calls({"role": role, "content": _text(value, left)}, left)]


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
    if tools is False or not filled(tools) or (isinstance(tools, str) and not tools.strip()):
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
