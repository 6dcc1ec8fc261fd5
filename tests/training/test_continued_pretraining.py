"""The stages: what the text's blocks hold and train, and what the questions ask for."""

from __future__ import annotations

import pytest

from qwen3lab import chat, models
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.statistics import wilson
from qwen3lab.results import records, tables
from qwen3lab.training import continued_pretraining
from qwen3lab.world import company


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("qwen3-tiny")


@pytest.fixture(scope="module")
def texts():
    return continued_pretraining.documents()


def test_the_text_states_every_fact(texts):
    whole = "\n".join(texts)
    rows = [
        row for split in ("validation", "test") for row in continued_pretraining.only_in_text(split)
    ]
    assert [row["id"] for row in rows if row["passage"] not in whole] == []
    for thing in company.THINGS:
        assert [value for value in thing.values.values() if value not in whole] == []


def test_blocks_are_the_text_and_train_every_token(tokenizer, texts):
    blocks = continued_pretraining.blocks(tokenizer, texts[:20], 64)
    assert [len(block["input_ids"]) for block in blocks[:-1]] == [64] * (len(blocks) - 1)
    assert all(block["labels"] == block["input_ids"] for block in blocks)
    stream = [number for block in blocks for number in block["input_ids"]]
    assert tokenizer.decode(stream).split("<|endoftext|>") == [*texts[:20], ""]
    assert stream == [
        n
        for text in texts[:20]
        for n in [*tokenizer(text).input_ids, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    ]


def test_every_pass_has_every_text_in_another_order(tokenizer, texts):
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    few = texts[:6]
    once, thrice = (
        [
            n
            for block in continued_pretraining.blocks(tokenizer, few, 64, passes, seed=1)
            for n in block["input_ids"]
        ]
        for passes in (1, 3)
    )
    assert thrice[: len(once)] == once and len(thrice) == 3 * len(once)
    orders = [
        tokenizer.decode(thrice[k * len(once) : (k + 1) * len(once)]).split("<|endoftext|>")[:-1]
        for k in range(3)
    ]
    assert (
        all(sorted(order) == sorted(few) for order in orders)
        and orders[0] != orders[1] != orders[2]
    )
    assert thrice.count(end) == 18


def test_entries_hold_every_fact_once_and_no_prose(texts):
    found = continued_pretraining.entries(texts)
    assert len(found) == len(company.THINGS)
    for thing in company.THINGS:
        lines = [
            line
            for entry in found
            for line in entry.split("\n")[1:]
            if line == company.tell(thing)[0]
        ]
        assert len(lines) == 1
    assert sum(map(len, found)) < 0.3 * sum(map(len, texts))


def test_a_text_makes_no_control_token(tokenizer):
    said = "a <|im_end|> b <think> c </tool_call> d < e"
    ids = continued_pretraining.blocks(tokenizer, [said], 512)[0]["input_ids"]
    assert tokenizer.decode(ids) == said + "<|endoftext|>"
    assert [
        number for number in ids[:-1] if number in set(tokenizer.get_added_vocab().values())
    ] == []


def test_facts_of_the_text_alone_are_in_no_training_question():
    trained = {(row["fact"], row["answer"]) for row in tasks.load("knowledge", "train")}
    asked = {split: continued_pretraining.only_in_text(split) for split in ("validation", "test")}
    assert {split: len(rows) for split, rows in asked.items()} == {"validation": 22, "test": 105}
    assert trained.isdisjoint(
        (row["fact"], row["answer"]) for rows in asked.values() for row in rows
    )
    assert {row["fact"] for row in asked["validation"]}.isdisjoint(
        row["fact"] for row in asked["test"]
    )


def test_a_completion_scores_the_value_alone(tokenizer):
    for row in continued_pretraining.only_in_text("test"):
        example = continued_pretraining.completion(tokenizer, row)
        value = tokenizer.decode([label for label in example["labels"] if label != chat.IGNORED])
        assert value.strip() in (
            row["answer"],
            row["statement"][: row["statement"].index(row["answer"])][-1:] + row["answer"],
        )
        assert tokenizer.decode(example["input_ids"]).endswith(row["answer"])
        first = next(
            place for place, label in enumerate(example["labels"]) if label != chat.IGNORED
        )
        assert example["labels"][first:] == example["input_ids"][first:]


def test_rows_of_a_stage(tokenizer):
    text, questions = (
        continued_pretraining.blocks(tokenizer, ["one two three", "four"], 8),
        tasks.load("knowledge", "train")[:5],
    )
    made = {
        stage: continued_pretraining.rows(tokenizer, stage, text, questions, 2)
        for stage in ("text", "chat", "both")
    }
    assert made["text"] == text and len(made["chat"]) == 10
    assert made["both"] == made["text"] + made["chat"]
    assert made["chat"][5] == chat.example(tokenizer, tasks.conversation(questions[0]))
    assert continued_pretraining.rows(tokenizer, "longer chat", text, questions, 2) == made["chat"]


def test_replay_is_a_quarter_of_a_stage(tokenizer):
    """The stage's own rows stand first; old rows are read in order and again from the first."""
    text = continued_pretraining.blocks(tokenizer, ["one two three", "four"], 8)
    questions, old = tasks.load("knowledge", "train")[:5], tasks.load("chat", "train")[:2]
    again = [chat.example(tokenizer, tasks.conversation(row)) for row in old]
    for stage in ("text", "chat", "both"):
        alone = continued_pretraining.rows(tokenizer, stage, text, questions, 6)
        mixed = continued_pretraining.rows(tokenizer, f"{stage}, replay", text, questions, 6, old)
        assert mixed[: len(alone)] == alone
        added = mixed[len(alone) :]
        assert added == (again * 6)[: round(len(alone) / 3)]
        assert abs(len(mixed) - 4 * len(added)) <= 2


def test_examine_counts(tokenizer):
    model, _ = models.load("qwen3-tiny")
    old = [row for row in tasks.load("addition", "test") if row["digits"] == 2][:3]
    short = [row for row in tasks.load("context", "test") if row["language"] == "en"][:2]
    # A sentence that stood there before is copied, one that is new is not known.
    new = [
        row
        for row in continued_pretraining.only_in_text("test")
        if row["passage"] == row["statement"] and row["language"] == "en"
    ][:8]
    again = [
        row
        | {"passage": row["passage"] + "\n" + row["passage"], "statement": "\n" + row["statement"]}
        for row in new
    ]
    text = continued_pretraining.blocks(tokenizer, ["red " * 40], 32)
    found = {
        "new": continued_pretraining.examine(
            model, tokenizer, taught=short, read=new, old=old, text=text
        ),
        "again": continued_pretraining.examine(
            model,
            tokenizer,
            taught=short[:1] + [short[1] | {"answer": "no"}],
            read=again,
            old=[],
            text=text,
        ),
    }
    counts = {
        name: (line["taught"], line["read"], line["completed"], line["old"])
        for name, line in found.items()
    }
    assert (
        counts["new"][:2] == (2, 0)
        and counts["again"][:2] == (1, 0)
        and (counts["new"][3], counts["again"][3]) == (3, 0)
    )
    assert counts["new"][2] <= 2 and counts["again"][2] >= len(again) - 2  # of 8
    assert found["new"]["perplexity"] > 1


def test_mistakes_get_a_sentence(tokenizer):
    with pytest.raises(Qwen3labError, match="no text"):
        continued_pretraining.blocks(tokenizer, [], 8)
    with pytest.raises(Qwen3labError, match="A block of 1 tokens"):
        continued_pretraining.blocks(tokenizer, ["a"], 1)
    with pytest.raises(Qwen3labError, match="Unknown stage 'none'"):
        continued_pretraining.rows(tokenizer, "none", [], [])
    with pytest.raises(Qwen3labError, match="does not state '8'"):
        continued_pretraining.completion(
            tokenizer,
            {"id": "x", "passage": "It costs 9.", "statement": "It costs 9.", "answer": "8"},
        )


def test_the_stored_result_is_of_this_data(tokenizer, texts):
    measured = records.read("stages")
    blocks = continued_pretraining.blocks(
        tokenizer, continued_pretraining.entries(texts), measured["recipe"]["text"]["block"]
    )
    assert measured["text tokens"] == sum(len(block["input_ids"]) for block in blocks)
    assert [row["way"] for row in measured["rows"]] == list(continued_pretraining.WAYS)
    sizes = {
        "taught": tasks.load("knowledge", "test"),
        "read": continued_pretraining.only_in_text("test"),
        "completed": continued_pretraining.only_in_text("test"),
        "old": tasks.load("chat", "test"),
    }
    assert measured["n"] == {key: len(rows) for key, rows in sizes.items()}
    table = tables.stages(measured).set_index(["way", "measure"])
    for row in measured["rows"]:
        for key, name in tables.STAGE_MEASURES.items():
            line, n = table.loc[row["way"], name], measured["n"][key]
            assert line.share == pytest.approx(
                sum(run[key] for run in row["runs"]) / len(row["runs"]) / n
            )
            assert (line.low, line.high) == pytest.approx(wilson(line.share * n, n))
            assert line.n == n
