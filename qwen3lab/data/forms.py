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

from qwen3lab.chat import ROLES
from qwen3lab.data.columns import Plan, plain
from qwen3lab.data.validation import arguments, short
from qwen3lab.errors import Qwen3labError

# The names that public sets use for the four roles. The chat template knows only the right-hand
# side.
ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
} | {role: role for role in ROLES}
CALLS = ("function_call", "tool_call")  # roles of a turn that is nothing but calls, as JSON text
THOUGHTS = ("reasoning_content", "thinking", "reasoning", "thoughts")
PICTURES = ("image", "image_url", "input_image", "video", "audio", "input_audio")
UNSEEN = "a picture or a sound, which no model here takes in"
_IMAGE = re.compile("<image>", re.IGNORECASE)
_SPELLED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")

Row = dict[str, Any]


class Unusable(Qwen3labError):
    """Error for a row that cannot be trained on: a fixed `reason` and this row's `detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"This row has {reason} ({detail}). Mend it, or leave it out.")
        self.reason, self.detail = reason, detail


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
        if _is_turns(prompt := _opened(prompt)):
            asked = _messages(prompt)
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
        history = _opened(self.get("history")) or []
        if _is_turns(history):
            return _messages(history)
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
            value = self.first_of(_opened(value))
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
    turns = _opened(given.get("messages"))
    if not isinstance(turns, list):
        raise Unusable("an unknown form", f"{given.names['messages']!r} is no list of messages")
    messages = [*given.system(), *_messages(turns)]
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
    answers = [_opened(given.get(part)) for part in ("chosen", "rejected")]
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
        turns = _opened(given.get("messages"))
        if not isinstance(turns, list):
            raise Unusable("an unknown form", f"{given.names['messages']!r} is no list of messages")
        prompt = [*given.system(), *_messages(turns)]
    elif "prompt" in given:
        prompt = given.question()
    else:
        raise Unusable("no question before the answer", "two answers and no prompt")
    if chosen == rejected:
        raise Unusable("a chosen answer that equals the rejected one", short(answers[0]))
    return "preferences", {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _choice(given: _Given) -> tuple[str, Row]:
    options, question = _opened(given.get("options")), given.get("prompt")
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


def _opened(value: Any) -> Any:
    """Parse a list or an object that a table keeps as JSON text; leave all else as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            inside = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return inside if isinstance(inside, (list, dict)) else value
    return value


def _text(value: Any) -> Any:
    """Join typed parts; leave all else to the check, which refuses what is no text."""
    return _joined_parts(value) if isinstance(value, list) else value


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


def _is_turns(value: Any) -> bool:
    """Tell a list of messages, whose every item names its role, from other lists."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and (turn.get("role") or turn.get("from")) for turn in value)
    )


def _turns(value: Any, role: str) -> list[Row]:
    """Read an answer that is one text, one message or a list of messages."""
    opened = _opened(value)
    if _is_turns([opened]):
        return _messages([opened])
    if _is_turns(opened):
        return _messages(opened)
    return [_with_calls({"role": role, "content": _text(value)})]


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


# Messages


def _role(role: Any) -> Any:
    return ALIASES.get(role.strip().lower(), role) if isinstance(role, str) else role


def _messages(turns: list[Any]) -> list[Row]:
    """Read messages in any of the public spellings."""
    read: list[Row] = []
    for turn in turns:
        if isinstance(turn, dict) and {"human", "assistant"} <= turn.keys():  # a pair
            read += [
                {"role": ALIASES[name], "content": turn[name]} for name in ("human", "assistant")
            ]
        else:
            read.append(_message(turn))
    return _results_apart(read)


def _message(turn: Any) -> Row:
    if not isinstance(turn, dict):
        return {"role": None, "content": turn}
    role = turn["role"] if turn.get("role") is not None else turn.get("from")
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if isinstance(role, str) and role.strip().lower() in CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    message: Row = {"role": _role(role), "content": content}
    if isinstance(content, list):
        message |= _parts(content)
    if message["role"] == "tool" and isinstance(message["content"], (dict, list)):
        message["content"] = json.dumps(message["content"], ensure_ascii=False)
    thoughts = next((turn[name] for name in THOUGHTS if turn.get(name) not in (None, "")), None)
    if thoughts is not None and message["role"] == "assistant":
        message["reasoning_content"] = thoughts
    calls = turn.get("tool_calls") or turn.get("function_call")
    if calls:
        message["tool_calls"] = (
            [_call(call) for call in calls] if isinstance(calls, list) else _calls(calls)
        )
    if turn.get("tool_call_id") is not None:
        message["tool_call_id"] = turn["tool_call_id"]
    weight = next((turn[n] for n in ("weight", "loss_weight") if turn.get(n) is not None), None)
    if weight is None and isinstance(turn.get("loss"), bool):
        weight = float(turn["loss"])
    if weight is not None and message["role"] == "assistant":
        message["weight"] = weight
    return _with_calls(message)


def _parts(parts: list[Any]) -> Row:
    """Read a content of typed parts: texts are joined, thoughts and calls go to their own keys."""
    texts, found = [], {}
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in PICTURES:
            raise Unusable(UNSEEN, f"a part of the type {kind!r}")
        value = (
            next(
                (part[name] for name in (kind, "text", "value") if part.get(name) is not None), None
            )
            if kind
            else None
        )
        if kind == "text" and isinstance(value, str):
            texts.append(value)
        elif kind in ("reasoning", "thinking") and isinstance(value, str):
            found["reasoning_content"] = "\n".join(
                filter(None, (found.get("reasoning_content"), value))
            )
        elif kind in ("tool_call", "tool_calls"):
            found["tool_calls"] = [*found.get("tool_calls", ()), *_calls(value)]
        else:
            return {}  # no list of parts: it stays as it is and is refused
    return {"content": "\n".join(texts)} | found if parts else {}


def _joined_parts(parts: list[Any]) -> Any:
    read = _parts(parts)
    return read["content"] if set(read) == {"content"} else parts


def _calls(value: Any) -> list[Any]:
    """Read one call or a list of calls, also as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable("a tool call that cannot be read", "no JSON") from None
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any) -> Any:
    """Write a call in OpenAI's spelling, its arguments as JSON text as the template would write it.

    Text and not an object, because an Arrow table would give all calls the union of all arguments,
    filled with null.
    """
    if isinstance(call, dict) and not isinstance(call.get("function"), dict) and "name" in call:
        # Without the wrapper; "parameters" is what some models call the arguments.
        inside = {key: call[key] for key in ("name", "arguments") if key in call}
        if "arguments" not in call and "parameters" in call:
            inside["arguments"] = call["parameters"]
        head = {key: call[key] for key in ("id",) if call.get(key) is not None}
        call = head | {"type": "function", "function": inside}
    given = arguments(call)
    if given is None or not isinstance(call.get("function"), dict):
        return call
    return call | {
        "function": call["function"] | {"arguments": json.dumps(given, ensure_ascii=False)}
    }


def _with_calls(message: Row) -> Row:
    """Turn calls that an answer spells between `<tool_call>` tags into calls."""
    content = message.get("content")
    if (
        message.get("role") != "assistant"
        or message.get("tool_calls")
        or not isinstance(content, str)
        or "<tool_call>" not in content
    ):
        return message
    spelled = _SPELLED.findall(content)
    if not spelled:
        return message
    calls = [call for text in spelled for call in _calls(text)]
    return message | {"content": _SPELLED.sub("", content).strip(), "tool_calls": calls}


def _results_apart(messages: list[Row]) -> list[Row]:
    """Cut one result that lists those of several calls into one for each call."""
    done: list[Row] = []
    for place, message in enumerate(messages):
        calls = messages[place - 1].get("tool_calls") if place else None
        alone = messages[place + 1 : place + 2] != [] and messages[place + 1].get("role") == "tool"
        if message["role"] == "tool" and isinstance(calls, list) and len(calls) > 1 and not alone:
            results = _opened(message["content"])
            if isinstance(results, list) and len(results) == len(calls):
                done += [
                    message
                    | {
                        "content": one
                        if isinstance(one, str)
                        else json.dumps(one, ensure_ascii=False)
                    }
                    for one in results
                ]
                continue
        done.append(message)
    return done
