"""Rows of each kind go to their own list, in one spelling; what cannot be used says why."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from qwen3lab.data import formats
from qwen3lab.errors import Qwen3labError

USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {"role": "assistant", "content": "B"}
SYSTEM = {"role": "system", "content": "S"}
TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
WRAPPED = [{"type": "function", "function": TOOL}]


def call(*numbers, **more):
    arguments = json.dumps(dict(zip("ab", numbers)))
    return more | {"type": "function", "function": {"name": "add", "arguments": arguments}}


def calling(*calls, content=""):
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def share(*turns, **more):
    return {"conversations": [{"from": role, "value": text} for role, text in turns]} | more


ADD = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
THREE = {"role": "tool", "content": "3"}
CONVERSATIONS = {
    "ShareGPT's calls": (
        share(("human", "Q"), ("function_call", ADD), ("observation", "3"), ("gpt", "A")),
        [USER, calling(call(1, 2)), THREE, ASSISTANT],
    ),
    "several calls with a list of results": (
        share(
            ("human", "Q"),
            ("function_call", f"[{ADD}, {ADD}]"),
            ("observation", "[3, 3]"),
            ("gpt", "A"),
        ),
        [USER, calling(call(1, 2), call(1, 2)), THREE, THREE, ASSISTANT],
    ),
    "calls between tags": (
        {"prompt": "Q", "completion": f"I add.\n<tool_call>\n{ADD}\n</tool_call>"},
        [USER, calling(call(1, 2), content="I add.")],
    ),
    "calls without their wrapper": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [json.loads(ADD) | {"id": "c"}]}]},
        [USER, {"role": "assistant", "content": None, "tool_calls": [call(1, 2, id="c")]}],
    ),
    "other names of the arguments": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"name": "add", "parameters": {"a": 1, "b": 2}},
                        {"name": "add", "args": {"a": 1, "b": 2}, "type": "tool_call"},
                        {"type": "function", "function": {"name": "add", "input": {"a": 3}}},
                    ],
                },
            ]
        },
        [USER, calling(call(1, 2), call(1, 2), call(3), content=None)],
    ),
    "a turn of calls with thoughts": (
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": ADD, "reasoning": "t", "weight": 1},
            ]
        },
        [USER, calling(call(1, 2)) | {"reasoning_content": "t", "weight": 1}],
    ),
    "the older function_call": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": json.loads(ADD)},
                {"role": "function", "name": "add", "content": {"sum": 3}},
                ASSISTANT,
            ]
        },
        [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call(1, 2)]},
            {"role": "tool", "content": '{"sum": 3}'},
            ASSISTANT,
        ],
    ),
    "a tool with nothing to say": (
        {"messages": [USER, calling(call(1, 2)), {"role": "tool", "content": ""}, ASSISTANT]},
        [USER, calling(call(1, 2)), {"role": "tool", "content": ""}, ASSISTANT],
    ),
    "typed values": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Q"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "t"},
                        {"type": "text", "value": "A"},
                    ],
                    "loss_weight": 1.0,
                },
            ]
        },
        [USER, ASSISTANT | {"reasoning_content": "t", "weight": 1.0}],
    ),
    "a value of calls": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [{"type": "tool_call", "value": ADD}]},
            ]
        },
        [USER, calling(call(1, 2))],
    ),
    "parts without a type": (
        {
            "system": [{"text": "S"}],
            "messages": [{"role": "user", "content": [{"text": "Q"}]}, ASSISTANT],
        },
        [SYSTEM, USER, ASSISTANT],
    ),
    "role and content under conversations": (
        {"conversations": [USER, ASSISTANT]},
        [USER, ASSISTANT],
    ),
    "from and value under messages": (
        {"messages": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        [USER, ASSISTANT],
    ),
    "pairs": ({"conversation": [{"human": "Q", "assistant": "A"}]}, [USER, ASSISTANT]),
    "thoughts": (
        {"messages": [USER, ASSISTANT | {"thinking": "t"}]},
        [USER, ASSISTANT | {"reasoning_content": "t"}],
    ),
    "thoughts of several names": (
        {"messages": [USER, ASSISTANT | {"thinking": "", "reasoning": "t"}]},
        [USER, ASSISTANT | {"reasoning_content": "t"}],
    ),
    "thoughts beside the messages": (
        {"messages": [USER, ASSISTANT], "reasoning": "t"},
        [USER, ASSISTANT | {"reasoning_content": "t"}],
    ),
    "thoughts of ShareGPT": (
        {"conversations": [USER, {"from": "gpt", "value": "A", "reasoning_content": "t"}]},
        [USER, ASSISTANT | {"reasoning_content": "t"}],
    ),
    "thoughts beside": (
        {"instruction": "Q", "output": "A", "reasoning": "t"},
        [USER, ASSISTANT | {"reasoning_content": "t"}],
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_spellings_of_a_conversation(name):
    row, expected = CONVERSATIONS[name]
    done = formats.convert([row], "x")
    assert [one["messages"] for one in done.rows] == [expected] and done.rejected == []


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), WRAPPED, json.dumps(WRAPPED), TOOL])
def test_tools_are_kept_in_one_spelling_called_or_not(tools):
    for turns in ((("human", "Q"), ("gpt", "A")), (("human", "Q"), ("function_call", ADD))):
        done = formats.convert([share(*turns, tools=tools)], "x")
        assert done.rows[0]["tools"] == WRAPPED
    for nothing in ("", "[]", [], None):
        assert "tools" not in formats.convert([share(*turns, tools=nothing)], "x").rows[0]


PREFERENCES = {
    "texts": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "other names": {"question": "Q", "chosen": "A", "rejected": "B"},
    "messages": {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
    "whole conversations": {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    "whole beside the prompt": {
        "prompt": "Q",
        "chosen": [USER, ASSISTANT],
        "rejected": [USER, OTHER],
    },
    "transcripts": {
        "chosen": "\n\nHuman: Q\n\nAssistant: A",
        "rejected": "\n\nHuman: Q\n\nAssistant: B",
    },
    "ShareGPT": share(("human", "Q"))
    | {"chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}},
    "as JSON text": {
        "prompt": "Q",
        "chosen": json.dumps([ASSISTANT]),
        "rejected": json.dumps([OTHER]),
    },
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences(name):
    done = formats.convert([PREFERENCES[name]], "x")
    assert done.preferences == [
        {
            "id": "x.0001",
            "source": "x",
            "task": "x",
            "language": "en",
            "prompt": [USER],
            "chosen": [ASSISTANT],
            "rejected": [OTHER],
        }
    ]
    assert done.rows == done.rejected == []
    assert done.said().startswith("x: 1 row: 1 preference\n")


def test_preferences_keep_system_input_and_tools():
    row = {
        "system": "S",
        "instruction": "Q",
        "input": "x",
        "chosen": "A",
        "rejected": "B",
        "tools": [TOOL],
    }
    (made,) = formats.convert([row], "x").preferences
    assert made["prompt"] == [SYSTEM, {"role": "user", "content": "Q\n\nx"}]
    assert made["tools"] == WRAPPED


def test_trl_takes_the_preferences():
    from trl import is_conversational

    done = formats.convert(PREFERENCES.values(), "x")
    assert len(done.preferences) == len(PREFERENCES) and all(
        map(is_conversational, done.preferences)
    )


@pytest.mark.parametrize(
    ("label", "expected"), [(True, True), ("False", False), ("true", True), (1, True), ("0", False)]
)
def test_labelled_answers(label, expected):
    for row in ({"prompt": "Q", "completion": "A"}, {"messages": [USER, ASSISTANT]}):
        done = formats.convert([row | {"label": label}], "x")
        assert [(one["prompt"], one["completion"], one["label"]) for one in done.labelled] == [
            ([USER], [ASSISTANT], expected)
        ]
        assert done.rows == []


@pytest.mark.parametrize(
    "row", [{"text": "T"}, {"Text": "T", "label": 3, "meta": {"a": 1}}, {"content": "T"}]
)
def test_plain_texts(row):
    done = formats.convert([row], "x")
    assert done.texts == [
        {"id": "x.0001", "source": "x", "task": "x", "language": "en", "text": "T"}
    ]


PICTURE = "a picture or a sound, which no model here takes in"


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"messages": [USER, ASSISTANT], "images": ["a.png"]}, PICTURE, "the column 'images'"),
        ({"prompt": "<image>What?", "completion": "A"}, PICTURE, "<image> in the text"),
        (
            {"prompt": "<image>What?", "chosen": "A", "rejected": "B"},
            PICTURE,
            "<image> in the text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ASSISTANT]},
            PICTURE,
            "a part of the type 'image'",
        ),
        ({"messages": [USER | {"images": ["a.png"]}, ASSISTANT]}, PICTURE, "'images' of a message"),
        (
            {"messages": [{"role": "user", "content": [{"image": "a.png"}]}, ASSISTANT]},
            PICTURE,
            "a part of the type 'image'",
        ),
        (
            {"question": "Q", "options": [{"key": "A", "value": "a"}] * 2, "answer": "a"},
            "options that cannot be read",
            "two under 'A'",
        ),
        (
            {"messages": [USER, ASSISTANT], "tools": '"add"'},
            "tools that cannot be read",
            "each needs a function with a name",
        ),
        (
            {"system": 0, "prompt": "Q", "completion": "A"},
            "a content that is not text",
            "message 1: of type int",
        ),
        (
            {"prompt": "Q", "chosen": "A", "rejected": "A"},
            "a chosen answer that equals the rejected one",
            "'A'",
        ),
        (
            {"chosen": "A", "rejected": "B"},
            "no question before the answer",
            "two answers and no prompt",
        ),
        (
            {"prompt": "Q", "chosen": "A", "rejected": ""},
            "an empty message",
            "rejected, message 2: the assistant's",
        ),
        (
            {"prompt": "Q", "completion": "", "label": True},
            "an empty message",
            "completion, message 2: the assistant's",
        ),
        ({"question": "Q", "answers": {"text": []}}, "no answer", "the list 'answers' is empty"),
        (
            share(("human", "Q"), ("function_call", "add(1)"), ("observation", "3")),
            "a tool call that cannot be read",
            "no JSON",
        ),
        (
            {"prompt": "Q", "completion": "<tool_call>add(1)</tool_call>"},
            "a tool call that cannot be read",
            "no JSON",
        ),
        (
            {"instruction": "Q", "input": [1], "output": "A"},
            "a content that is not text",
            "input or question: of type list",
        ),
        (
            {"prompt": "Q", "completion": 2.5},
            "a content that is not text",
            "message 2: of type float",
        ),
        (
            {"messages": [USER, ASSISTANT | {"weight": 0}]},
            "an answer that is not to be trained",
            "the last message has the weight 0",
        ),
        (
            {"prompt": "Q", "completion": "A", "loss_weight": "0.5"},
            "a weight that the training cannot give",
            "0.5 instead of 0 or 1",
        ),
        (
            {"prompt": "Q", "completion": "A", "weight": "much"},
            "a weight that is no number",
            "'much'",
        ),
        ({"text": ""}, "an empty message", "no character"),
    ],
)
def test_what_cannot_be_used_says_why(row, reason, detail):
    done = formats.convert([row], "x")
    assert [(bad["reason"], bad["detail"]) for bad in done.rejected] == [(reason, detail)]
    assert done.said().split("\n")[-1] == f"refused: {reason} (1)"
    with pytest.raises(Qwen3labError, match="x, row 1: "):
        formats.convert([row], "x", strict=True)


def test_an_earlier_answer_of_weight_0_is_kept():
    before = [USER, ASSISTANT | {"weight": 0}, USER, OTHER | {"weight": 1}]
    assert formats.convert([{"messages": before}], "x").rows[0]["messages"] == before


LEFT = [
    ({"messages": [USER | {"name": "Kim"}, ASSISTANT | {"refusal": None}]}, "'name' of a message"),
    ({"messages": [USER | {"weight": 1}, ASSISTANT]}, "'weight' of a message"),
    ({"messages": [USER | {"weight": 0, "loss": False}, ASSISTANT]}, None),  # it is not trained
    ({"messages": [USER, ASSISTANT | {"value": "A"}]}, None),  # it says the same
    ({"messages": [USER, ASSISTANT | {"value": "B"}]}, "'value' of a message"),
    (
        {"messages": [USER, ASSISTANT | {"thinking": "t", "thoughts": "u"}]},
        "'thoughts' of a message",
    ),
    ({"messages": [USER, ASSISTANT], "answer": "B"}, "'answer'"),
    ({"messages": [USER, ASSISTANT | {"thinking": "t"}], "reasoning": "u"}, "'reasoning'"),
    ({"conversation": [{"human": "Q", "assistant": "A", "id": 1}]}, "'id' of a turn"),
    (
        {"messages": [USER | {"content": [{"text": "Q", "annotations": ["n"]}]}, ASSISTANT]},
        "'annotations' of a part",
    ),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": [json.loads(ADD) | {"index": 0}]}]},
        "'index' of a call",
    ),
    ({"prompt": [USER], "input": "x", "completion": "A"}, "'input'"),
    (
        {"question": "Q", "answers": {"text": ["A"], "answer_start": [3]}},
        "'answer_start' of 'answers'",
    ),
    (
        {"question": "Q", "options": [{"key": "A", "value": "a", "why": "w"}], "answer": "a"},
        "'why' of an option",
    ),
    ({"prompt": "Z", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, "'prompt'"),
    ({"repo_name": "r", "path": "p", "content": "x", "license": ["mit"]}, "'license'"),
]


@pytest.mark.parametrize(("row", "left"), LEFT)
def test_what_is_not_read_is_named(row, left):
    done = formats.convert([row, row], "x")
    assert done.rejected == []
    said = [line for line in done.said().split("\n") if line.startswith("not used: ")]
    assert said == ([f"not used: {left} (2 rows)"] if left else [])


MIXED = [
    {"prompt": "Q", "completion": "A"},
    {"prompt": "Q", "chosen": "A", "rejected": "B"},
    {"prompt": "Q", "completion": "A", "label": False},
    {"text": "T"},
    {"foo": 1},
    "{broken",
]


def test_a_stream_gives_what_the_lists_hold():
    report = formats.Report("x")
    streamed = list(formats.converting(iter(MIXED), "x", report=report))
    assert [kind for kind, _ in streamed] == [
        *("rows", "preferences", "labelled", "texts", "rejected", "rejected")
    ]
    done = formats.convert(MIXED, "x")
    for kind in formats.KINDS:
        assert getattr(done, kind) == [row for found, row in streamed if found == kind]
    assert str(report) == done.said()


def test_a_source_of_one_row_and_of_equal_rows(tmp_path):
    path = tmp_path / "rows.csv"
    for count in (1, 2):
        path.write_text("prompt,completion\n" + "Q,A\n" * count)
        done = formats.load(path)
        assert [row["messages"] for row in done.rows] == [[USER, ASSISTANT]] * count
        assert [row["id"] for row in done.rows] == ["rows.0001", "rows.0002"][:count]


def test_uneven_records_are_said_and_not_lost(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,note\nQ,A,x\nQ,A\nQ\nQ,A,x,y\n")
    done = formats.load(path)
    assert len(done.rows) == 2 and [bad["row"] for bad in done.rejected] == [3, 4]
    assert done.said().split("\n") == [
        "rows: 4 rows: 2 conversations, 2 refused rows",
        "columns: 'prompt' (3 rows), 'completion' (2 rows)",
        "not used: 'note' (1 row)",
        "2 rows: with fewer cells than the header has columns; the missing ones are taken as empty",
        "refused: a content that is not text (1), a record that does not fit its table (1)",
    ]


def test_a_folder_says_what_it_did_not_read(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nQ,A\n")
    pd.DataFrame([{"prompt": "Q", "completion": "B"}]).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "notes.docx").write_text("x")
    done = formats.load(tmp_path)
    assert [row["messages"][1] for row in done.rows] == [ASSISTANT, OTHER]
    assert done.said().split("\n")[-1] == "files not read: notes.docx"
    (tmp_path / "empty").mkdir()
    with pytest.raises(Qwen3labError, match="The folder empty holds no data files"):
        formats.load(tmp_path / "empty")
