"""Nothing of the user vanishes: each word of a raw row is in what it became, in a counted refusal
with the row as it was, or under a key that the report names."""

from __future__ import annotations

import copy
import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab.data import formats
from qwen3lab.data.columns import plain
from qwen3lab.data.turns import opened

_WORD = re.compile(r"z[qk]\d+q|70\d{5}")  # the words that the rows are made of; all differ
SEVERAL = "the first of several answers was taken"


class Words:
    """A new word, key or whole number at each call."""

    def __init__(self):
        self.count = itertools.count()

    def __call__(self) -> str:
        return f"zq{next(self.count)}q"

    def key(self) -> str:
        return f"zk{next(self.count)}q"

    def number(self) -> int:
        return 7_000_000 + next(self.count)


def call(w, name):
    return {"name": name, "arguments": {"a": w(), "b": [w.number()]}}


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def openai(w):
    name = w()
    return {
        "messages": [
            {"role": "developer", "content": w()},
            {"role": "user", "content": [{"type": "text", "text": w()}, {"text": w()}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": call(w, name) | {"arguments": json.dumps({"a": w()})},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": {w.key(): w()}},
            {"role": "assistant", "content": w(), "thinking": w()},
        ],
        "tools": [tool(name)],
    }


def unwrapped(w):
    name = w()
    return {
        "messages": [
            {"role": "user", "content": w()},
            {"role": "assistant", "tool_calls": [call(w, name) | {"id": "c"}]},
            {"role": "tool", "content": w()},
            {"role": "assistant", "content": [{"type": "reasoning", "value": w()}, {"text": w()}]},
        ],
        "tools": json.dumps([tool(name)["function"]]),
    }


def sharegpt(w):
    name = w()
    return {
        "conversations": [
            {"from": "human", "value": w()},
            {"from": "function_call", "value": json.dumps(call(w, name))},
            {"from": "observation", "value": w()},
            {
                "from": "gpt",
                "value": f"{w()}\n<tool_call>\n{json.dumps(call(w, name))}\n</tool_call>",
            },
        ],
        "system": w(),
        "tools": [tool(name)],
    }


def pairs(w):
    return {"conversation": [{"human": w(), "assistant": w()}, {"human": w(), "assistant": w()}]}


def alpaca(w):
    row = {"instruction": w(), "input": w(), "output": w(), "system": w(), "reasoning": w()}
    return row | {"history": [[w(), w()], [w(), w()]]}


def completion(w):
    return {"prompt": w(), "completion": w()}


def turns(w):
    return {
        "prompt": [{"role": "user", "content": w()}],
        "completion": [{"role": "assistant", "content": w(), "reasoning_content": w()}],
        "weight": 1,
    }


def context(w):
    return {
        "context": w(),
        "question": w(),
        "answers": {"text": [w(), w()], "answer_start": [w.number(), w.number()]},
    }


def preference(w):
    return {"system": w(), "question": w(), "input": w(), "chosen": w(), "rejected": w()}


def whole_preference(w):
    begin = {"role": "user", "content": w()}
    return {"prompt": begin["content"], "system": w()} | {
        key: [begin, {"role": "assistant", "content": w()}] for key in ("chosen", "rejected")
    }


def turned_preference(w):
    return {
        "conversations": [{"from": "human", "value": w()}],
        "chosen": {"from": "gpt", "value": w()},
        "rejected": {"from": "gpt", "value": w()},
        "prompt": w(),
    }


def labelled(w):
    return {"prompt": w(), "completion": w(), "label": False}


def exam(w):
    return {"messages": [{"role": "user", "content": w()}], "answer": w(), "reasoning": w()}


def choice(w):
    right = w()
    return {
        "question": w(),
        "options": [{"key": "A", "value": right}, {"key": "B", "value": w()}],
        "answer": right,
        "answer_idx": "A",
    }


def code(w):
    return {"repo_name": w(), "path": w(), "content": w(), "license": w(), "copies": w()}


def maths(w):
    return {"source": "data/PoT/x", "instruction": w(), "output": w()}


def text(w):
    return {"text": w(), "meta": {w.key(): w()}}


FORMS = [
    *(openai, unwrapped, sharegpt, pairs, alpaca, completion, turns, context, preference),
    *(whole_preference, turned_preference, labelled, exam, choice, code, maths, text),
]
# Keys that files put beside those which are read here, and keys that have a meaning elsewhere.
STRAY = (
    *("name", "metadata", "refusal", "id", "index", "tool_call_id", "annotations", "title"),
    *("weight", "loss_weight", "loss", "thinking", "reasoning_content", "reasoning", "input"),
    *("content", "value", "text", "role", "from", "tool_calls", "function_call", "system"),
    *("parameters", "args", "cache_control", "label", "context", "answer", "prompt", "messages"),
    *("images", "history", "tools", "options", "audio", "human", "user"),
)


def values(w):
    """Values of all types; most hold a word."""
    return [
        *(w(), w.number(), w.number() + 0.5, True, False, None, "", [], {}, 0, 1, f" {w()}\n"),
        *([w()], [w.number()], {w.key(): w()}, {w.key(): None}, [[w(), w()]], f"<image>{w()}"),
        [{"type": "text", "text": w()}],
        [{"type": "text", "text": w(), w.key(): w()}],
        [{"role": "user", "content": w()}, {"role": "assistant", "content": w()}],
        {"name": w(), "arguments": {w.key(): w()}},
        json.dumps({"name": w(), "arguments": {"a": w()}, w.key(): w()}),
        json.dumps([{"from": "human", "value": w(), w.key(): w()}]),
        f"<think>\n{w()}\n</think>\n\n{w()}",
        f"<tool_call>{json.dumps({'name': w(), 'parameters': {'a': w()}, 'id': w()})}</tool_call>",
        {"text": [w(), w()], w.key(): w()},
    ]


def places(thing, path=()):
    """Paths to all values of a row."""
    items = thing.items() if isinstance(thing, dict) else enumerate(thing)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def at(thing, path):
    for key in path:
        thing = thing[key]
    return thing


SPELLINGS = (str.upper, str.title, lambda key: key.replace("_", " "), lambda key: key + "_")


@st.composite
def rows(draw):
    w = Words()
    row = draw(st.sampled_from(FORMS))(w)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(places(row))))
        holder, key = at(row, path[:-1]), path[-1]
        change = draw(st.sampled_from(["stray", "type", "spelling", "as text", "doubled"]))
        value = draw(st.sampled_from(values(w)))
        inside = at(row, path)
        if change == "stray":  # an unknown key, or one that means something elsewhere
            holder = inside if isinstance(inside, dict) else holder
            if isinstance(holder, dict):
                holder.setdefault(draw(st.sampled_from([w.key(), *STRAY])), value)
        elif change == "type":
            holder[key] = value
        elif change == "as text":
            holder[key] = json.dumps(inside)
        elif change == "doubled" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif change == "spelling" and isinstance(holder, dict):
            holder.setdefault(draw(st.sampled_from(SPELLINGS))(key), holder.pop(key))
    return row


def words(thing, path=()):
    """Words of a row as (word, the keys above it); a key that holds nothing is none."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if value not in (None, "", [], {}):
                yield from ((word, (*path, key)) for word in _WORD.findall(key))
                yield from words(value, (*path, key))
    elif isinstance(thing, list):
        for value in thing:
            yield from words(value, path)
    elif isinstance(inside := opened(thing), (dict, list)):  # a JSON text
        yield from words(inside, path)
    elif not isinstance(thing, bool):
        yield from ((word, path) for word in _WORD.findall(str(thing)))


def unaccounted(row, done):
    """Words of a row that are neither in what became of it, nor under a key that is shown."""
    said = done.said()
    if done.rejected:
        (bad,) = done.rejected
        assert bad["raw"] == row and bad["reason"] in said.split("refused: ")[1]
        return []
    (made,) = done.rows + done.texts + done.preferences + done.labelled
    out = json.dumps(made, ensure_ascii=False)
    (unused,) = re.findall("^not used: (.*)$", said, re.MULTILINE) or [""]
    lost = []
    for word, path in words(row):
        shown = f"{path[0]!r} (" in unused or any(f"{key!r} of " in unused for key in path[1:])
        # These say what becomes of the row and are no text of it.
        decides = f"{path[0]!r} is the origin" in said
        several = plain(path[0]) == "answers" and SEVERAL in said
        # A call inside a text.
        spelled = "'id' of a call" in unused
        if not (word in out or shown or decides or several or spelled):
            lost.append((word, path))
    return lost


@settings(max_examples=200, deadline=None)
@given(rows())
def test_each_word_is_kept_refused_or_shown(row):
    before = copy.deepcopy(row)
    done = formats.convert([row], "x")
    assert row == before and unaccounted(row, done) == []


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_are_read(form):
    done = formats.convert([form(Words())], "x")
    assert not done.rejected, done.rejected
