"""Augmentation: what is changed and how much, the same rows for the same seed, and a check that
notices a lost fact.
"""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab.data import augmentation, splits, tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.results import records

ROW = {
    "id": "x.1",
    "language": "en",
    "messages": [{"role": "user", "content": "How heavy is the Brantom battery?"}],
    "answer": "3.6 kilograms",
    "fact": "en/Brantom battery/weight",
    "kind": "product",
    "key": "weight",
}


@pytest.fixture(scope="module")
def train():
    return tasks.load("knowledge", "train")


def test_word_lists_are_lower_case_and_name_no_word_as_its_own_synonym():
    for words in augmentation.SYNONYMS.values():
        for word, others in words.items():
            assert (
                word == word.lower()
                and word not in others
                and len(set(others)) == len(others) >= 2
                and all(others)
            )
    assert min(map(len, augmentation.SYNONYMS.values())) > 40


@pytest.mark.parametrize(
    ("language", "text", "pattern"),
    [
        ("en", "What is the price?", r"What is the (cost|charge)\?"),
        ("en", "Colour of it", r"(Hue|Tint) of it"),
        ("en", "prices", "prices"),
        ("en", "Mimmor", "Mimmor"),
        ("zh", "退款的期限？", "(退钱|返款)的期限？|退款的(时限|限期)？"),
        ("zh", "设计师", "策划师|美工"),
        ("zh", "林华玉", "林华玉"),
    ],
)
def test_synonyms_replace_whole_words_and_keep_the_rest(language, text, pattern):
    for seed in range(10):
        assert re.fullmatch(
            pattern, augmentation.replace_synonyms(text, random.Random(seed), language)
        )


def test_share_sets_how_many_words_change():
    text = (  # 15 words, 8 listed
        "The price of the red tent and the fee for the sick leave at the store"
    )

    def changed(share):
        new = augmentation.replace_synonyms(text, random.Random(1), "en", share)
        return sum(a != b for a, b in zip(text.split(), new.split(), strict=True))

    assert [changed(share) for share in (0.0, 0.1, 0.2, 0.4)] == [1, 2, 3, 6]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["en", "zh"]),
    st.lists(
        st.sampled_from(["price", "tent", "is", "W84", "退款", "期限", "林", "8", "?", "open"]),
        max_size=12,
    ),
    st.integers(0, 9),
)
def test_insertion_only_adds(language, words, seed):
    text = " ".join(words) if language == "en" else "".join(words)
    new = augmentation.insert_words(text, random.Random(seed), language)
    rest = iter(new)
    assert all(character in rest for character in text)  # the old text is still there, in its order
    listed = augmentation.pattern_of(language).search(text)
    assert (new != text) == bool(listed)


def test_the_same_seed_gives_the_same_rows(train):
    for method in augmentation.METHODS:
        one, two, other = (
            augmentation.augment(train[:40], method, copies=2, seed=seed) for seed in (0, 0, 1)
        )
        assert one == two != other and len(one) == 80 and len({row["id"] for row in one}) == 80
        assert all(row["augmented"] == method for row in one)
    assert train == tasks.load("knowledge", "train")  # nothing was changed in place


def test_templates_keep_every_fact_and_ask_no_test_question(train):
    new = augmentation.augment(train, "templates", copies=3)
    assert not any(
        augmentation.lost(row, copy)
        for row, copy in zip([row for row in train for _ in range(3)], new, strict=True)
    )
    assert splits.leaks(new, tasks.load("knowledge", "test")) == []
    asked = {
        row["messages"][-1]["content"]
        for split in ("train", "validation", "test")
        for row in tasks.load("knowledge", split)
    }
    assert not asked & {row["messages"][-1]["content"] for row in new}
    assert all(copy["answer"] == row["answer"] for row, copy in zip(train, new[::3]))


def test_templates_need_the_fact():
    with pytest.raises(Qwen3labError, match="does not say which fact"):
        augmentation.augment(
            [{key: value for key, value in ROW.items() if key != "fact"}], "templates"
        )
    question = augmentation.rephrase(ROW, random.Random(0))
    assert (
        "the Brantom battery" in question.lower().replace("brantom", "Brantom")
        and "weight" in question
    )


@pytest.mark.parametrize(
    ("question", "answer", "gone"),
    [
        ("How weighty is the Brantom battery?", "3.6 kilograms", []),
        ("How heavy is the Brantom cell?", "3.6 kilograms", ["Brantom battery"]),
        ("How heavy is the Brantom battery?", "3.6 kilos", ["3.6 kilograms"]),
        ("How heavy is the Brantom cell?", "9", ["Brantom battery", "3.6 kilograms"]),
    ],
)
def test_lost_names_what_is_gone(question, answer, gone):
    new = ROW | {"messages": [{"role": "user", "content": question}], "answer": answer}
    assert augmentation.lost(ROW, new) == gone
    counts = augmentation.harm([ROW], [new])
    assert counts["changed answers"] == (answer != ROW["answer"])
    assert (
        counts["questions that lost a name or number"] == ("cell" in question)
        and counts["unchanged"] == 0
    )


def test_lost_sees_numbers_and_codes_without_a_fact():
    row = {
        "messages": [{"role": "user", "content": "Order NK-738 by 17:10 for 29 euros"}],
        "answer": "ok",
    }
    new = {
        "messages": [{"role": "user", "content": "Order NK-783 by 17:10 for 29 dollars"}],
        "answer": "ok",
    }
    assert augmentation.lost(row, new) == ["NK-738"]


def test_word_methods_do_harm(train):
    for method in ("synonyms", "insertion"):
        counts = augmentation.harm(train, augmentation.augment(train, method))
        assert (
            counts["changed answers"] > 50 and counts["questions that lost a name or number"] > 30
        )
    assert (
        augmentation.harm(train, augmentation.augment(train, "templates"))["changed answers"] == 0
    )


def test_unknown_names_are_refused():
    with pytest.raises(Qwen3labError, match="no augmentation 'back translation'"):
        augmentation.augment([ROW], "back translation")
    with pytest.raises(Qwen3labError, match="no word list for the language 'de'"):
        augmentation.replace_synonyms("Hallo", random.Random(0), "de")


def test_the_committed_measurement_is_whole():
    result = records.read("augmentation")
    assert {row["method"] for row in result["rows"]} == {"none", *augmentation.METHODS} and len(
        result["seeds"]
    ) >= 3
    for row in result["rows"]:
        assert len(row["right"]) == len(result["seeds"]) and row["n"] == len(
            tasks.load("knowledge", "test")
        )
        assert abs(row["accuracy"] - sum(row["right"]) / (row["n"] * len(row["right"]))) < 1e-4
        assert row["low"] <= row["accuracy"] <= row["high"]
    assert (
        result["measured"]["machine"]
        and result["measured"]["date"]
        and result["recipe"]["method"] == "lora"
    )
