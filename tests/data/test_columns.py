"""Columns are known by the names of public sets, or mapped by the caller, and it is said."""

from __future__ import annotations

import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from qwen3lab.data import columns, formats
from qwen3lab.errors import Qwen3labError

Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
S = {"role": "system", "content": "S"}
BEFORE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def asked(text):
    return [{"role": "user", "content": text}, A]


PAIRS = {
    "prompt and completion": ({"prompt": "Q", "completion": "A"}, [Q, A]),
    "instruction and output": ({"instruction": "Q", "output": "A"}, [Q, A]),
    "question and answer": ({"question": "Q", "answer": "A"}, [Q, A]),
    "problem and solution": ({"problem": "Q", "solution": "A", "answer": "x"}, [Q, A]),
    "input and target": ({"kind": "x", "input": "Q", "target": "A"}, [Q, A]),
    "source and target": ({"source": "Q", "target": "A"}, [Q, A]),
    "input and output": ({"input": "Q", "output": "A"}, [Q, A]),
    "other letters": ({"Question ": "Q", "ANSWER": "A"}, [Q, A]),
    "system prompt": ({"system_prompt": "S", "question": "Q", "response": "A"}, [S, Q, A]),
    "spelled apart": ({"System Prompt": "S", "question": "Q", "response": "A"}, [S, Q, A]),
    "history": ({"query": "Q", "response": "A", "history": [["q", "a"]]}, [*BEFORE, Q, A]),
    "no history": ({"query": "Q", "response": "A", "history": []}, [Q, A]),
    "history as text": (
        {"query": "Q", "response": "A", "history": '[["q", "a"]]'},
        [*BEFORE, Q, A],
    ),
    "history as messages": ({"query": "Q", "response": "A", "history": BEFORE}, [*BEFORE, Q, A]),
    "an input follows": ({"instruction": "Q", "input": "x", "output": "A"}, asked("Q\n\nx")),
    "a number follows": ({"instruction": "Q", "input": 21, "output": "A"}, asked("Q\n\n21")),
    "a context goes before": ({"question": "Q", "context": "x", "response": "A"}, asked("x\n\nQ")),
    "SQuAD": (
        {"context": "x", "question": "Q", "answers": {"text": ["A", "B"], "answer_start": [0, 0]}},
        asked("x\n\nQ"),
    ),
    "several answers": ({"question": "Q", "answers": ["A", "B"]}, [Q, A]),
    "thoughts": (
        {"Question": "Q", "Complex_CoT": "t", "Response": "A"},
        [Q, A | {"reasoning_content": "t"}],
    ),
    "whether it thinks": ({"prompt": "Q", "completion": "A", "thinking": False}, [Q, A]),
    "messages on both sides": ({"prompt": [S, Q], "completion": [A]}, [S, Q, A]),
    "a class beside": ({"prompt": "Q", "completion": "A", "label": "sport"}, [Q, A]),
    "a course's exam": ({"messages": [S, Q], "answer": "A", "thinking": False}, [S, Q, A]),
    "messages as text": ({"messages": '[{"role": "user", "content": "Q"}]', "answer": "A"}, [Q, A]),
    "filled up by a table": (
        {"prompt": "Q", "completion": "A", "messages": None, "text": None, "chosen": None},
        [Q, A],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_names_of_public_sets(name):
    row, expected = PAIRS[name]
    assert formats.to_messages(row) == expected
    done = formats.convert([row, row], "x")
    assert [one["messages"] for one in done.rows] == [expected] * 2


@pytest.mark.parametrize("wrap", [list, pd.DataFrame, Dataset.from_list])
def test_any_holder(wrap):
    rows = [
        {"question": "Q", "answer": "A", "system": None},
        {"question": "Q", "answer": "A", "system": "S"},
    ]
    done = formats.convert(wrap(rows), "x")
    assert [row["messages"] for row in done.rows] == [[Q, A], [S, Q, A]]


def test_a_data_frame_of_numbers_is_spelled():
    frame = pd.DataFrame({"question": ["Q", "Q"], "answer": [7, -1], "score": [0.5, None]})
    done = formats.convert(frame, "x")
    assert [row["messages"][1]["content"] for row in done.rows] == ["7", "-1"]
    assert done.report.columns.ignored == {"score": 1}


def test_what_became_of_each_column_is_said():
    raw = [
        {"id": 1, "question": "Q", "answer": "A", "output": "B", "topic": "x"},
        {"id": 2, "question": "Q", "answer": "A", "output": "", "topic": None},
        {"id": 3, "question": "Q", "output": "B"},
    ]
    done = formats.convert(raw, "x")
    assert [row["messages"][1]["content"] for row in done.rows] == ["B", "B"]
    assert done.said().split("\n") == [
        "x: 3 rows: 2 conversations, 1 refused row",
        "columns: 'question' is the prompt (3 rows), 'output' is the completion (2 rows)",
        "not used: 'id' (3 rows), 'answer' (2 rows; 'output' was taken), 'topic' (1 row)",
        "refused: an empty message (1)",
    ]


MAPPED = {"frage": "prompt", "antwort": "completion"}


def test_the_caller_says_what_columns_are():
    row = {"frage": "Q", "antwort": "A", "output": "B", "rolle": "S"}
    done = formats.convert([row], "x", columns=MAPPED | {"rolle": "system"})
    assert done.rows[0]["messages"] == [S, Q, A]
    assert done.report.columns.beaten == {"output": "antwort"}
    # Every name of a public set says the same, and None leaves a column out.
    again = formats.convert(
        [row], "x", columns={"frage": "Question", "antwort": None, "rolle": None}
    )
    assert again.rows[0]["messages"] == [Q, {"role": "assistant", "content": "B"}]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"fragen": "prompt"},
            "x has no column 'fragen'. Map one of those that it has: 'antwort', 'frage'",
        ),
        (
            {"frage": "prumpt"},
            "The column 'frage' cannot become 'prumpt'. Map it to one of: messages, p",
        ),
        ({"frage": "prompt", "antwort": "question"}, None),
        (
            {"frage": "prompt", "antwort": "prompt"},
            "'frage' and 'antwort' are both mapped to 'prompt'",
        ),
    ],
)
def test_a_mapping_that_cannot_be(mapping, message):
    raw = [{"frage": "Q", "antwort": "A"}]
    if message is None:  # two names of one part: the second stays unused, and it is said
        assert formats.convert(raw, "x", columns=mapping).report.columns.ignored
        return
    with pytest.raises(Qwen3labError, match=message):
        formats.convert(raw, "x", columns=mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "frage,antwort\nQ,A\n",
            r"rows.csv has no row that can be used: an unknown form \(keys 'antwort', 'frage'\)\."
            r" Say what the columns are, for example columns=\{'frage': 'prompt', 'antwort': 'c",
        ),
        (
            "question,category\nQ,x\n",
            r"The question is in 'question', and no name says where the answer is\. Say it, for"
            r" example columns=\{'category': 'completion'\}",
        ),
        ("question\nQ\n", "The question is in 'question', and there is no column with its answer"),
        ("words\nQ\n", r"columns=\{'words': 'text'\} for plain text"),
    ],
)
def test_columns_that_nobody_knows_are_refused_with_the_way_to_map_them(text, message, tmp_path):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(Qwen3labError, match=message):
        formats.load(tmp_path / "rows.csv")


@given(st.lists(st.sampled_from([*columns.TARGETS, "Answer", "id", "foo", "Input"]), unique=True))
def test_each_column_is_one_part_at_most(names):
    found = columns.plan(tuple(names))
    taken = list(found.names.values())
    assert len(set(taken)) == len(taken) and set(taken) <= set(names)
    assert not set(found.beaten) & set(taken) and set(found.beaten.values()) <= set(taken)
    # The order of the columns plays no part, except between two spellings of one name.
    if not {"Answer", "Input"} & set(names):
        assert columns.plan(tuple(reversed(names))).names == found.names
