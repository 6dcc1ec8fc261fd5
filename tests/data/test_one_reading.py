"""The same conversation, however its messages are spelled, is the same to all that look at rows."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from qwen3lab import models
from qwen3lab.data import cleaning, formats, rows, splits
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import contamination

PHONE = "16412345678"
SYSTEM = {"role": "system", "content": "Be brief.\nAnswer in one line."}
USER = {"role": "user", "content": f"Whose number is {PHONE}?\nAnd who lives at Mill Road 3?"}
ANSWER = {"role": "assistant", "content": "Ann's; Tom lives there.", "reasoning_content": "Ann has"}
ARGUMENTS = {"phone": PHONE, "near": "Mill Road"}
CALL = {"type": "function", "function": {"name": "look", "arguments": json.dumps(ARGUMENTS)}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"name": "Ann"}'}
PLAIN = [SYSTEM, USER, CALLING, RESULT, ANSWER]


def parts(text, kind="text", key="text"):
    return [{"type": kind, key: line} for line in text.split("\n")]


def spelled(place, **changes):
    row = [dict(message) for message in PLAIN]
    row[place] |= changes
    return [{key: value for key, value in message.items() if value != ()} for message in row]


SPELLINGS = {
    "parts": spelled(1, content=parts(USER["content"])),
    "input_text parts": spelled(1, content=parts(USER["content"], "input_text")),
    "parts with values": spelled(0, content=parts(SYSTEM["content"], key="value")),
    "parts without a type": spelled(0, content=[{"text": SYSTEM["content"]}]),
    "texts in a list": spelled(0, content=SYSTEM["content"].split("\n")),
    "one part": spelled(0, content={"type": "text", "text": SYSTEM["content"]}),
    "a result that is an object": spelled(3, content={"name": "Ann"}),
    "thinking": spelled(4, reasoning_content=(), thinking="Ann has"),
    "reasoning": spelled(4, reasoning_content=(), reasoning="Ann has"),
    "thoughts beside null": spelled(4, reasoning_content=None, thoughts="Ann has"),
    "thoughts as a part": spelled(
        4,
        reasoning_content=(),
        content=[{"type": "thinking", "thinking": "Ann has"}, *parts(ANSWER["content"])],
    ),
    "a think block": spelled(
        4, reasoning_content=(), content=f"<think>\nAnn has\n</think>\n\n{ANSWER['content']}"
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("qwen3-tiny")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_reader_takes_them_for_the_same(spelling, tokenizer):
    row, wanted = ({"messages": one, "id": "r"} for one in (SPELLINGS[spelling], PLAIN))
    before = json.dumps(row)
    assert rows.course(row) == wanted and rows.course(wanted) is wanted
    assert cleaning.key(row) == cleaning.key(wanted)
    assert splits.prompt(row) == splits.prompt(wanted)
    assert splits.question(row) == splits.question(wanted)
    for only in (True, False):
        lengths = [cleaning.token_lengths([one], tokenizer, only) for one in (row, wanted)]
        assert lengths[0] == lengths[1] != [0]
    assert cleaning.mask_row(row) == cleaning.mask_row(wanted)
    assert cleaning.mask_row(row)[1] == {"phone": 2}
    assert cleaning.clean_rows([row]) == cleaning.clean_rows([wanted])
    assert [len(part) for part in cleaning.drop_copies([wanted, row])] == [1, 1]
    assert len(splits.leaks([row], [wanted])) == 1
    assert contamination.check([row], [wanted]).share.tolist() == [1.0]
    assert rows.exam(row) == rows.exam(wanted)
    assert rows.questions([row]) == rows.questions([wanted])
    assert rows.encoded(tokenizer, [row]) == rows.encoded(tokenizer, [wanted])
    assert rows.encoded(tokenizer, pd.DataFrame([row])) == rows.encoded(tokenizer, [wanted])
    assert json.dumps(row) == before


@pytest.mark.parametrize("spelling", sorted(set(SPELLINGS) - {"texts in a list", "one part"}))
def test_converting_first_changes_nothing(spelling, tokenizer):
    ((row,), (wanted,)) = (
        formats.convert([{"messages": one}], "x").rows for one in (SPELLINGS[spelling], PLAIN)
    )
    assert rows.course(row) == wanted
    assert rows.encoded(tokenizer, [row]) == rows.encoded(tokenizer, [{"messages": PLAIN}])


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
@pytest.mark.parametrize("name", ["arguments", "parameters", "args"])
def test_calls_are_masked_in_any_spelling(arguments, name):
    for call in (
        {"name": "look", name: arguments},
        {"id": "c", "function": {"name": "look", name: arguments}},
    ):
        row = {"messages": [USER, CALLING | {"tool_calls": [call]}, RESULT, ANSWER]}
        masked, counts = cleaning.mask_row(row)
        assert counts == {"phone": 2} and PHONE not in json.dumps(masked)
        assert json.dumps(masked).replace("[PHONE]", PHONE) == json.dumps(row)


def test_a_picture_is_named_with_its_row():
    seen = {"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}]}, ANSWER]}
    with pytest.raises(Qwen3labError, match="Row 2: A message holds a part of the kind 'image'"):
        cleaning.clean_rows([{"messages": PLAIN}, seen])
