"""Raw rows: converted by name, refused with a reason, never dropped or repaired in silence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import paths
from qwen3lab.data import formats
from qwen3lab.errors import Qwen3labError

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
SYSTEM, TOOL = {"role": "system", "content": "Be brief."}, {"role": "tool", "content": "5"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


@pytest.mark.parametrize(("row", "expected"), [
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}, [USER, ASSISTANT]),
    ({"conversations": [{"from": "User", "value": "Hi"}, {"from": "GPT", "value": "Hello."}], "system": "Be brief."}, [SYSTEM, USER, ASSISTANT]),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "observation", "value": "5"}]}, [USER, TOOL]),
    ({"messages": [USER, CALL, TOOL, ASSISTANT]}, [USER, CALL, TOOL, ASSISTANT]),
    ({"messages": [{"role": "human", "content": "Hi"}]}, [USER]),
    ({"instruction": "Hi", "input": "", "output": "Hello."}, [USER, ASSISTANT]),
    ({"instruction": "Hi", "output": "Hello."}, [USER, ASSISTANT]),
    ({"instruction": "Translate.", "input": "Hi", "output": "你好"}, [{"role": "user", "content": "Translate.\n\nHi"}, {"role": "assistant", "content": "你好"}]),
    ({"instruction": "Hi", "output": "Hello.", "system": "Be brief.", "history": [["a", "b"]]},
     [SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, USER, ASSISTANT])])
def test_to_messages(row, expected):
    assert formats.to_messages(row) == expected


@pytest.mark.parametrize("row", [{}, {"question": "a", "answer": "b"}, {"instruction": "a"}, {"conversations": "a"},
                                 {"instruction": "a", "output": "b", "history": [5]}])
def test_unknown_forms(row):
    with pytest.raises(Qwen3labError, match="known form"):
        formats.to_messages(row)


@pytest.mark.parametrize(("messages", "reason"), [
    ([USER, ASSISTANT], None), ([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], None), ([USER, CALL, TOOL, TOOL, ASSISTANT], None), ([USER, CALL], None),
    ([], "no messages"), ([USER], "no answer at the end"), ([ASSISTANT], "no question before the answer"), ([SYSTEM], "no question before the answer"),
    ([USER, {"role": "gpt", "content": "a"}], "a role that the chat template does not know"), ([USER, "a"], "a role that the chat template does not know"),
    ([USER, {"role": "assistant", "content": " \n"}], "an empty message"), ([USER, {"role": "assistant", "content": None}], "a content that is not text"),
    ([USER, {"role": "assistant", "content": ["a"]}], "a content that is not text"), ([USER, {"role": "assistant", "content": "\ufffd"}], "text that was decoded wrongly"),
    ([USER, SYSTEM, ASSISTANT], "a system message that is not the first"), ([USER, USER, ASSISTANT], "two turns that cannot follow each other"),
    ([USER, ASSISTANT, ASSISTANT], "two turns that cannot follow each other"), ([USER, TOOL, ASSISTANT], "two turns that cannot follow each other")])
def test_fault(messages, reason):
    assert formats.fault(messages) == reason


def test_convert_counts_every_row():
    raw = [{"messages": [USER, ASSISTANT]}, "{broken", {"messages": [USER]}, {"a": 1}, {"instruction": "几点关门？", "output": "八点。"}]
    done = formats.convert(raw, "mix")
    assert [row["id"] for row in done.rows] == ["mix.0001", "mix.0005"] and [row["language"] for row in done.rows] == ["en", "zh"]
    assert [(bad["row"], bad["reason"]) for bad in done.rejected] == [(2, "no JSON object"), (3, "no answer at the end"), (4, "an unknown form")]
    assert done.rejected[1]["raw"] == raw[2]


@pytest.mark.parametrize(("text", "expected"), [("Hello", "en"), ("你好", "zh"), ("", "en"), ("12:30", "en"), ("Translate: 火车九点开", "zh"),
                                                ("The word 你好 means hello, and that is all there is to say", "en")])
def test_language(text, expected):
    assert formats.language(text) == expected


def test_read_raw(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\n\n{broken\n[1]\n'.encode())
    assert formats.read_raw(path) == [{"a": "x\u2028y"}, "{broken", [1]]
    path.write_text(' [{"a": 1}, 2]')
    assert formats.read_raw(path) == [{"a": 1}, 2]


@pytest.mark.parametrize(("data", "message"), [(b"", "holds no rows"), (b"[]", "holds no rows"), (b"[1", "begins like a JSON array"), (b"\xff\xfe", "not UTF-8")])
def test_broken_files(tmp_path, data, message):
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    with pytest.raises(Qwen3labError, match=message):
        formats.read_raw(path)
    with pytest.raises(Qwen3labError, match="no file"):
        formats.read_raw(tmp_path / "none.json")


any_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                            ["conversations", "messages", "from", "value", "role", "content", "instruction", "input", "output", "history", "system"]), inner, max_size=4), max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(any_json, max_size=4))
def test_any_json_is_kept_or_refused(raw):
    done = formats.convert(raw, "x")
    assert len(done.rows) + len(done.rejected) == len(raw)
    assert all(formats.fault(row["messages"]) is None for row in done.rows)


def test_the_samples_are_what_the_notebook_says():
    chats = formats.convert(formats.read_raw(paths.DATA / "samples" / "sharegpt.jsonl"), "sharegpt")
    tasks = formats.convert(formats.read_raw(paths.DATA / "samples" / "alpaca.json"), "alpaca")
    assert (len(chats.rows), len(chats.rejected), len(tasks.rows), len(tasks.rejected)) == (37, 6, 70, 4)
    for row in chats.rows + tasks.rows:
        json.dumps(row)
