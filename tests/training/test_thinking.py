"""The recipes for keeping the thoughts: what each of them trains."""

from __future__ import annotations

import pytest

from qwen3lab import chat, models
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.training import thinking as training_thinking


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("qwen3-tiny")


def _trained(tokenizer, example):
    return tokenizer.decode([label for label in example["labels"] if label != chat.IGNORED])


ROW = {"messages": [{"role": "user", "content": "Fee?"}], "answer": "8 euros", "thinking": False}


@pytest.mark.parametrize(
    ("way", "read", "trained"),
    [
        (
            "block masked",
            "<|im_start|>user\nFee?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "8 euros<|im_end|>",
        ),
        (
            "block trained",
            "<|im_start|>user\nFee?<|im_end|>\n<|im_start|>assistant\n",
            "<think>\n\n</think>\n\n8 euros<|im_end|>",
        ),
        (
            "/no_think",
            "<|im_start|>user\nFee? /no_think<|im_end|>\n<|im_start|>assistant\n",
            "<think>\n\n</think>\n\n8 euros<|im_end|>",
        ),
        (
            "no block",
            "<|im_start|>user\nFee?<|im_end|>\n<|im_start|>assistant\n",
            "8 euros<|im_end|>",
        ),
    ],
)
def test_what_each_way_reads_and_trains(way, read, trained, tokenizer):
    example = training_thinking.WRITERS[way](tokenizer, ROW)
    assert _trained(tokenizer, example) == trained
    assert tokenizer.decode(example["input_ids"]) == read + trained
    assert len(example["input_ids"]) == len(example["labels"])


@pytest.mark.parametrize(
    ("recipe", "share"), [(name, share) for name, (_, share) in training_thinking.RECIPES.items()]
)
def test_shares_and_rows(recipe, share, tokenizer):
    new, old = tasks.load("knowledge", "train")[:30], tasks.load("addition", "train")[:40]
    rows = training_thinking.rows(tokenizer, recipe, new, old, seed=1)
    thinking = [
        row
        for row in rows
        if _trained(tokenizer, row).startswith("<think>\n")
        and not _trained(tokenizer, row).startswith("<think>\n\n")
    ]
    assert len(rows) - len(thinking) == len(new)
    assert len(thinking) / len(rows) == pytest.approx(share, abs=0.01)
    assert rows == training_thinking.rows(tokenizer, recipe, new, old, seed=1)
    if share:
        assert rows != training_thinking.rows(tokenizer, recipe, new, old, seed=2)


def test_mistakes_get_a_sentence(tokenizer):
    with pytest.raises(Qwen3labError, match="Unknown recipe 'none'"):
        training_thinking.rows(tokenizer, "none", [ROW], [])
    with pytest.raises(Qwen3labError, match="needs rows with thoughts"):
        training_thinking.rows(tokenizer, "block masked, 75 % think", [ROW], [])


def test_examine_counts(tokenizer):
    model, _ = models.load("qwen3-tiny")
    sums = [row for row in tasks.load("addition", "test") if row["digits"] == 2][:4]
    assert training_thinking.examine(model, tokenizer, sums=sums, problems=[], questions=[ROW]) == {
        "thinks": 4,
        "sums": 4,
        "problems": 0,
        "answers": 0,
    }
