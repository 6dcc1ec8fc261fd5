"""Which conversations are refused, and how long ones are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3lab.data import validation
from qwen3lab.errors import Qwen3labError

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
SYSTEM, TOOL = {"role": "system", "content": "Be brief."}, {"role": "tool", "content": "5"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def call(*names, ids=(), arguments="{}"):
    ids = ids or [None] * len(names)
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            ({"id": one} if one else {})
            | {"type": "function", "function": {"name": name, "arguments": arguments}}
            for name, one in zip(names, ids)
        ],
    }


def result(one=None, content="5"):
    return {"role": "tool", "content": content} | ({"tool_call_id": one} if one else {})


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ASSISTANT],
        [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
        [USER, call("f"), TOOL, ASSISTANT],
        [USER, call("f", "f"), TOOL, TOOL, ASSISTANT],
        [USER, call("f"), TOOL, call("f"), TOOL, ASSISTANT, USER, ASSISTANT],
        [USER, call("f", "g", ids="ab"), result("b"), result("a"), ASSISTANT],
        [USER, call("f")],
        [USER, call("f", arguments='{"a": [1]}'), TOOL, ASSISTANT],
        [USER, call("f", arguments={"a": 1})],
        [USER, ASSISTANT | {"reasoning_content": "Greet."}],
        [
            USER,
            {"role": "assistant", "content": "Let me see.", "tool_calls": call("f")["tool_calls"]},
        ],
    ],
)
def test_rows_that_can_be_trained_on(messages):
    assert validation.check(messages) is None


@pytest.mark.parametrize(
    ("messages", "reason", "detail"),
    [
        ([], "no messages", "the list is empty"),
        ([USER, ASSISTANT, USER], "no answer at the end", "it ends with the role user"),
        ([USER, call("f"), TOOL], "no answer at the end", "it ends with the role tool"),
        ([ASSISTANT], "no question before the answer", "it begins with the role assistant"),
        ([SYSTEM], "no question before the answer", "nothing but a system message"),
        (
            [USER, {"role": "gpt", "content": "a"}],
            "a role that the chat template does not know",
            "message 2: 'gpt'",
        ),
        ([USER, "a"], "a role that the chat template does not know", "message 2: 'a'"),
        (
            [{"role": ["user"], "content": "a"}],
            "a role that the chat template does not know",
            "message 1: ['user']",
        ),
        (
            [USER, {"role": "assistant", "content": " \n"}],
            "an empty message",
            "message 2: the assistant's",
        ),
        (
            [USER, {"role": "assistant", "content": None}],
            "a content that is not text",
            "message 2: there is none",
        ),
        (
            [USER, {"role": "assistant", "content": ["a"]}],
            "a content that is not text",
            "message 2: of type list",
        ),
        (
            [USER, {"role": "assistant", "content": "\ufffd"}],
            "text that was decoded wrongly",
            "message 2: the replacement character U+FFFD at place 1",
        ),
        (
            [USER, {"role": "assistant", "content": "ab\ud83d"}],
            "half a character",
            "message 2: the lone surrogate U+D83D at place 3",
        ),
        (
            [USER, ASSISTANT | {"reasoning_content": 5}],
            "a content that is not text",
            "message 2: its thoughts",
        ),
        ([USER, SYSTEM, ASSISTANT], "a system message that is not the first", "message 2"),
        (
            [USER, USER, ASSISTANT],
            "two turns that cannot follow each other",
            "message 2: user after user",
        ),
        (
            [USER, ASSISTANT, ASSISTANT],
            "two turns that cannot follow each other",
            "message 3: assistant after assistant",
        ),
        ([USER, TOOL, ASSISTANT], "a tool result without its call", "message 2: tool after user"),
        (
            [USER, ASSISTANT, TOOL],
            "a tool result without its call",
            "message 3: tool after assistant",
        ),
        (
            [USER, call("f"), TOOL, TOOL, ASSISTANT],
            "a tool result without its call",
            "message 4: one result too many",
        ),
        (
            [USER, call("f", ids="a"), result("b"), ASSISTANT],
            "a tool result without its call",
            "message 3: id 'b'",
        ),
        (
            [USER, call("f", "g"), TOOL, ASSISTANT],
            "a tool call without its result",
            "message 4: g was not answered",
        ),
        (
            [USER, call("f"), ASSISTANT],
            "a tool call without its result",
            "message 3: assistant after a tool call",
        ),
        (
            [USER, call("f", arguments="{a}"), TOOL, ASSISTANT],
            "a tool call that cannot be read",
            "message 2: its arguments are no JSON object",
        ),
        (
            [USER, call("f", arguments="[1]"), TOOL, ASSISTANT],
            "a tool call that cannot be read",
            "message 2: its arguments are no JSON object",
        ),
        ([USER, call("")], "a tool call that cannot be read", "message 2: it has no name"),
        (
            [USER | {"tool_calls": [1]}, ASSISTANT],
            "a tool call that cannot be read",
            "message 1: a call by the role user",
        ),
        (
            [USER, call("f", arguments='{"a": "\ud800"}')],
            "half a character",
            "a lone surrogate outside the text",
        ),
    ],
)
def test_rows_that_are_refused(messages, reason, detail):
    assert validation.check(messages) == (reason, detail)
    assert validation.fault(messages) == reason


def test_calls_of_tools_that_nobody_declared():
    assert validation.check([USER, call("f"), TOOL, ASSISTANT], TOOLS) is None
    assert validation.check([USER, call("g"), TOOL, ASSISTANT], TOOLS) == (
        "a call of a tool that is not declared",
        "message 2: 'g'",
    )
    assert validation.fault([USER, ASSISTANT], ["f"]) == "tools that cannot be read"


def test_long_rows_are_refused_by_their_size():
    messages = [USER, {"role": "assistant", "content": "a" * validation.LONGEST}]
    assert validation.check(messages) == ("too long", "200,002 characters; at most 200,000 fit")
    assert validation.check(messages, longest=300_000) is None
    assert validation.check_text("a" * 200_001) == (
        "too long",
        "200,001 characters; at most 200,000 fit",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", None),
        ("", "an empty message"),
        (" \n", "an empty message"),
        (None, "a content that is not text"),
        ("\ud800", "half a character"),
        ("\ufffd", "text that was decoded wrongly"),
    ],
)
def test_plain_texts(text, reason):
    found = validation.check_text(text)
    assert (found[0] if found else None) == reason


def turn(n):
    return [
        {"role": "user", "content": f"q{n}"},
        call("f") | {"n": n},
        result(),
        {"role": "assistant", "content": f"a{n}"},
    ]


def test_the_window_cuts_between_turns_and_keeps_the_system_message():
    long = [SYSTEM, *(message for n in range(8) for message in turn(n))]
    assert validation.window(long) == [
        SYSTEM,
        *(message for n in range(3, 8) for message in turn(n)),
    ]
    assert validation.window(long, 1) == [SYSTEM, *turn(7)]
    assert validation.window(long[1:], 2) == [*turn(6), *turn(7)]
    assert (
        validation.window(long, 8) == validation.window(long, 100) == long
        and validation.window([]) == []
    )
    with pytest.raises(Qwen3labError, match="A window of 0 turns holds nothing"):
        validation.window(long, 0)


# Any conversation that is accepted: turns of zero to three rounds of one to three calls, with their
# results, then the answer.
turns = st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=7)


@given(turns, st.booleans(), st.integers(1, 8))
def test_a_window_of_a_good_conversation_is_good(rounds, system, size):
    messages = [SYSTEM] if system else []
    for calls in rounds:
        messages.append(USER)
        for count in calls:
            messages += [call(*"f" * count), *[result()] * count]
        messages.append(ASSISTANT)
    assert validation.check(messages, TOOLS) is None
    cut = validation.window(messages, size)
    assert validation.check(cut, TOOLS) is None
    assert sum(message["role"] == "user" for message in cut) == min(size, len(rounds))
    assert cut[-1] is messages[-1] and (cut[0] is SYSTEM) == system


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "role",
                        "content",
                        "tool_calls",
                        "function",
                        "name",
                        "arguments",
                        "id",
                        "tool_call_id",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=14,
    ).map(lambda x: x if isinstance(x, list) else [x])
)
def test_anything_gets_a_reason_or_passes(messages):
    found = validation.check(messages)
    assert found is None or (all(isinstance(part, str) for part in found) and "\n" not in found[1])


def test_short_stays_on_one_line():
    assert validation.short("a\nb" + "c" * 100, 10) == repr("a b" + "c" * 7 + "…")
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert validation.short(deep) == "(nested too deeply)"
    while deep:  # taken apart by hand: freeing it at once would recurse as deeply
        deep = deep.pop()
