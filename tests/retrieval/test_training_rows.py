"""Rows that train a model for retrieval: what stands in them, and that no question of the
evaluation does.
"""

from __future__ import annotations

import re

import pytest

from qwen3lab import models, paths, prompts, retrieval
from qwen3lab.data import tasks
from qwen3lab.data.pdf import read_pdf
from qwen3lab.retrieval import Chunk, Hit, training_rows

squeeze = lambda text: re.sub(r"\s+", "", text).lower()


@pytest.mark.parametrize(
    ("text", "value", "left"),
    [
        (
            "The Halve canoe sells for 940 euros. It is made of oak. It weighs 31.5 kilograms.",
            "oak",
            "The Halve canoe sells for 940 euros. It weighs 31.5 kilograms.",
        ),
        (
            "Stiwel paddle: price 58 euros; material bamboo; shelf P14.",
            "bamboo",
            "Stiwel paddle: price 58 euros; shelf P14.",
        ),
        (
            "Stiwel paddle: price 58 euros; material bamboo; shelf P14.",
            "58 euros",
            "Stiwel paddle: material bamboo; shelf P14.",
        ),
        (
            "Stiwel paddle: price 58 euros; material bamboo; shelf P14.",
            "P14",
            "Stiwel paddle: price 58 euros; material bamboo.",
        ),
        ("Stiwel paddle: shelf P14.", "P14", "Stiwel paddle:"),
        ("退款：联系人徐丽莲；期限25天；表格T68。", "25天", "退款：联系人徐丽莲；表格T68。"),
        ("维修需要支付23欧元。它的表格是W27。", "W27", "维修需要支付23欧元。"),
        ("One line is green.\nAnother is not.", "green", "Another is not."),
    ],
)
def test_a_value_is_taken_out_with_its_sentence_or_entry(text, value, left):
    assert training_rows.without(text, value) == left


@pytest.fixture(scope="module")
def made():
    """A third of the closed-book questions with what keywords find for them: {seed: rows}, and the
    rows that they were made from.
    """
    tokenizer = models.load_tokenizer(paths.MODELS / "qwen3-tiny")
    search = retrieval.Keywords(retrieval.chunk(read_pdf(paths.HANDBOOK), tokenizer, 100))
    taught = tasks.load("knowledge", "train")[::3]
    found = search.search(questions_of(taught), k=40)
    search.search = lambda questions, k: found[: len(questions)]  # one search for all
    return (
        {seed: training_rows.rows(taught, search, tokenizer, seed=seed) for seed in range(2)},
        taught,
        search,
        tokenizer,
    )


def questions_of(rows):
    return [row["messages"][-1]["content"] for row in rows]


def asked(row):
    return re.split(r"Question: |问题：", row["messages"][-1]["content"])[-1]


def test_no_question_of_the_evaluation_is_trained(made):
    by_seed, taught, *_ = made
    every = questions_of(tasks.load("knowledge", "train"))
    held_out = {
        squeeze(question)
        for split in ("test", "validation")
        for task in ("handbook", "knowledge")
        for question in questions_of(tasks.load(task, split))
    }
    facts = {row["fact"] for row in taught}
    untaught = {
        row["fact"]
        for split in ("test", "validation")
        for row in tasks.load("handbook", split)
        if row["answerable"] and not row["taught"]
    }
    assert len(held_out) > 600 and len(untaught) > 100
    assert not {squeeze(question) for question in every} & held_out
    for rows in by_seed.values():
        assert len(rows) == len(taught)
        assert not {squeeze(asked(row)) for row in rows} & held_out
        assert {squeeze(asked(row)) for row in rows} == {
            squeeze(question) for question in questions_of(taught)
        }
        assert {row["fact"] for row in rows} <= facts and not {
            row["fact"] for row in rows
        } & untaught


def test_where_the_answer_is_trained_the_text_tells_it_and_where_not_it_does_not(made):
    by_seed, taught, search, _ = made
    values, texts = (
        {row["id"]: row["answer"] for row in taught},
        {chunk.id: chunk.text for chunk in search.chunks},
    )
    for row in by_seed[0]:
        value, name, text = (
            squeeze(values[row["id"]]),
            squeeze(row["fact"].split("/")[1]),
            row["messages"][-1]["content"],
        )
        assert (row["answer"] == prompts.REFUSAL[row["language"]]) == (
            row["kind"] in ("not found", "left out")
        )
        told = [
            number
            for number in row["chunks"]
            if value in squeeze(texts[number]) and name in squeeze(texts[number])
        ]
        assert {"among others": len(told) == 1, "not found": not told, "left out": len(told) == 1}[
            row["kind"]
        ], row["id"]
        if row["kind"] == "among others":
            assert texts[told[0]] in text
        if row["kind"] == "left out":
            assert (
                texts[told[0]] not in text
                and training_rows.without(texts[told[0]], values[row["id"]]) in text
            )


def test_kinds_shares_and_places(made):
    by_seed, *_ = made
    rows = by_seed[0]
    kinds = [row["kind"] for row in rows]
    assert 0.33 < sum(kind != "among others" for kind in kinds) / len(kinds) < 0.47
    assert abs(kinds.count("not found") - kinds.count("left out")) < 25
    assert by_seed[0] != by_seed[1]
    # The chunk that tells it comes first, second or third about equally often.
    three = [row for row in rows if row["kind"] == "among others" and len(row["chunks"]) == 3]
    gold = lambda row: next(
        n
        for n, number in enumerate(row["chunks"])
        if training_rows.holds(
            made[2].chunks[number], next(t for t in made[1] if t["id"] == row["id"])
        )
    )
    places = [gold(row) for row in three]
    assert len(places) > 60 and all(
        0.2 < places.count(place) / len(places) < 0.5 for place in range(3)
    )


def test_every_row_fits_and_is_what_the_model_is_asked_later(made):
    _, taught, search, tokenizer = made
    for row in made[0][0][:60]:
        assert len(tokenizer(row["messages"][0]["content"]).input_ids) <= 488 - 16
    (row,) = training_rows.rows(taught[:1], search, tokenizer, kinds=("alone",))
    chunk = next(chunk for chunk in search.chunks if chunk.id == row["chunks"][0])
    assert row["messages"] == retrieval.prompt(tokenizer, questions_of(taught)[0], [chunk], 488)[0]
    assert row["answer"] == taught[0]["answer"] and row["kind"] == "alone"


def test_questions_without_a_chunk_are_left_out():
    class Search:
        chunks = [Chunk(0, "Nothing of use.", 1, "")]

        def search(self, questions, k):
            return [[Hit(self.chunks[0], 1.0)] for _ in questions]

    assert training_rows.rows(tasks.load("knowledge", "train")[:3], Search(), None) == []
