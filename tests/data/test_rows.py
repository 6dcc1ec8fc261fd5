"""One kind of row: what a trainer and an exam are given reads the same, whatever it came as."""

from __future__ import annotations

import pandas as pd
import pytest
from datasets import Dataset

from qwen3lab import evaluation, models, training
from qwen3lab.data import formats, rows, tasks
from qwen3lab.errors import Qwen3labError

ASK = {"role": "user", "content": "Code of box 3?"}
SAY = {"role": "assistant", "content": "111"}
THINK = {"role": "assistant", "content": "111", "reasoning_content": "3 times 37"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "code", "arguments": '{"box": 3}'}}],
}


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return models.load_tokenizer(checkpoint)


@pytest.mark.parametrize("wrap", [list, pd.DataFrame, Dataset.from_list])
def test_validation_rows_come_in_the_same_holders(wrap, checkpoint):
    given = [{"messages": [ASK, SAY]}] * 2
    run = training.fine_tune(checkpoint, wrap(given), validation=wrap(given), steps=1)
    assert run.history.eval_loss.notna().any() and len(run.held_out) == 2


SAME = [
    {"messages": [ASK], "answer": "111", "thinking": False},
    {"messages": [ASK, SAY]},
    {"messages": [ASK, SAY], "tools": None, "answer": None},
    {"prompt": "Code of box 3?", "completion": "111"},
    {"prompt": [ASK], "completion": [SAY]},
]


@pytest.mark.parametrize("row", SAME)
def test_all_kinds_are_trained_alike(row, tokenizer):
    wanted = training.encode(tokenizer, SAME[0])
    assert training.encode(tokenizer, row) == wanted
    assert evaluation.example(tokenizer, row) == wanted


@pytest.mark.parametrize("wrap", [list, pd.DataFrame, Dataset.from_list, iter])
def test_all_holders_are_trained_alike(wrap, tokenizer):
    given = [{"messages": [ASK, SAY]}, {"messages": [ASK, THINK]}]
    found = training.dataset(tokenizer, wrap(given), 512).to_list()
    assert found == training.dataset(tokenizer, given, 512).to_list()
    assert tokenizer.decode(found[1]["input_ids"]).count("3 times 37") == 1


@pytest.mark.parametrize("row", SAME)
def test_an_exam_has_the_prompt_and_the_answer_apart(row):
    found = rows.exam(row)
    assert (found["messages"], found["answer"], found["thinking"]) == ([ASK], "111", False)


def test_thoughts_are_asked_for_and_calls_are_compared_as_written():
    assert rows.exam({"messages": [ASK, THINK]})["thinking"] is True
    inline = {"role": "assistant", "content": "<think>\n3 times 37\n</think>\n\n111"}
    found = rows.exam({"messages": [ASK, inline], "id": "a"})
    assert (found["answer"], found["thinking"], found["id"]) == ("111", True, "a")
    call = rows.exam({"messages": [ASK, CALL]})["answer"]
    assert call == '<tool_call>\n{"name": "code", "arguments": {"box": 3}}\n</tool_call>'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Once"}, "the keys 'text' cannot be trained or scored. Give messages"),
        ({"messages": [ASK]}, "ends without an answer"),
        ({"messages": []}, "ends without an answer"),
        ({}, "the keys none cannot"),
        ("Once", "A row is a str, not a dict"),
    ],
)
def test_what_is_no_row_gets_a_sentence(row, message):
    with pytest.raises(Qwen3labError, match=message):
        rows.conversation(row)
    with pytest.raises(Qwen3labError, match=message):
        rows.exam(row)


@pytest.mark.parametrize("name", ["sharegpt", "alpaca", "medqa", "mathinstruct"])
def test_rows_of_public_formats_are_trained_and_scored(name, checkpoint):
    """What notebook 02 makes of a public set goes into the trainer and the exam as it is."""
    made = formats.load(name).rows[:3]
    run = training.fine_tune(checkpoint, made, steps=1, batch_size=2, too_long="drop")
    answers = evaluation.evaluate_tasks(run.model, run.tokenizer, made, max_new_tokens=2)
    assert run.steps == 1 and answers.id.tolist() == [row["id"] for row in made]


def test_the_course_s_own_rows_are_left_as_they_are():
    for task in ("chat", "context", "addition", "tone"):
        for row in tasks.load(task, "test")[:20]:
            assert rows.exam(row) == row
            messages, thinking, tools = rows.conversation(row)
            assert messages == tasks.conversation(row)
            assert (thinking, tools) == (row["thinking"], row.get("tools"))
