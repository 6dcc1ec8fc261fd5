"""Preferences: pairs, DPO through TRL, rows that teach to decline, the judge of brief replies."""

from __future__ import annotations

import random
import re

import pytest

from qwen3lab import models
from qwen3lab.data import tasks
from qwen3lab.prompts import REFUSAL
from qwen3lab.training import preferences
from qwen3lab.world import company


def test_dpo_begins_at_ln_2_and_widens_the_margin():
    model, tokenizer = models.load("qwen3-tiny", dtype="float32")
    rows = tasks.load("knowledge", "train")[:16]
    pairs = [preferences.pair(row, row["answer"], REFUSAL[row["language"]]) for row in rows]
    history = preferences.dpo(
        model, tokenizer, pairs, steps=6, batch_size=8, learning_rate=3e-4, warmup_steps=0
    )
    assert list(history.step) == [1, 2, 3, 4, 5, 6] and history.seconds.is_monotonic_increasing
    assert history.loss[0] == pytest.approx(0.6931, abs=1e-3)
    assert history["rewards/margins"][0] == pytest.approx(0, abs=1e-4)
    assert history["rewards/margins"].iloc[-1] > 0.5 > history.loss.iloc[-1]


def test_trl_encodes_a_pair_as_the_course_asks(tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from qwen3lab.data.rows import encode

    model, tokenizer = models.load("qwen3-tiny", dtype="float32")
    row = tasks.load("knowledge", "train")[0]
    data = Dataset.from_list([preferences.pair(row, row["answer"], REFUSAL["en"])])
    settings = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    found = DPOTrainer(
        model,
        ref_model=models.load("qwen3-tiny")[0],
        args=settings,
        train_dataset=data,
        processing_class=tokenizer,
    ).train_dataset[0]
    ours = encode(tokenizer, row)["input_ids"]
    assert (found["prompt_ids"] + found["chosen_ids"])[: len(ours)] == ours


def names_in(text: str) -> set[str]:
    return {name for name in company.BY_NAME if name.lower() in text.lower()}


def test_the_refusals_are_about_other_things_than_the_exam():
    rows = preferences.refusals(199)
    assert rows == preferences.refusals(199) and rows != preferences.refusals(199, seed=1)
    texts = [row["messages"][0]["content"] for row in rows]
    assert len(set(texts)) == len(rows) == 199
    assert {row["language"] for row in rows} == {"en", "zh"}
    assert all(row["answer"] == REFUSAL[row["language"]] for row in rows)
    exam = [
        row["messages"][0]["content"]
        for split in ("validation", "test")
        for row in tasks.load("handbook", split)
        if not row["answerable"]
    ]
    asked = set().union(*map(names_in, exam))
    trained = set().union(*map(names_in, texts))
    assert len(trained) >= 20 and not trained & asked
    for name in {row["thing"] for row in rows}:  # nor is a stranger of the one in the other
        pattern = re.compile(re.escape(name) + (r"\b" if name.isascii() else ""), re.IGNORECASE)
        assert not any(pattern.search(text) for text in exam), name
    # A refusal is right: no fact of the handbook answers the question.
    facts = {
        question
        for fact in company.FACTS
        for extra in (False, True)
        for question in company.questions(fact.thing, fact.key, extra)
    }
    assert not facts & set(texts)
    known = sum(bool(names_in(text)) for text in texts)
    assert 90 <= known <= 110  # half are gaps of known things, half are about strangers


def test_the_judge_of_brief_replies():
    row = {"language": "en", "answer": "8 euros"}
    phrases = preferences.PHRASES["en"]
    assert preferences.padding("8 euros", row) == preferences.padding("8 euros.", row) == 0
    assert preferences.padding(f"8 euros. {phrases[1]} {phrases[3]}", row) == 2
    assert preferences.padding(f"9 euros. {phrases[1]}", row) is None
    assert preferences.padding("8 euros. And so on.", row) is None
    seen = {}
    for seed in range(200):
        said = preferences.wordy(row, random.Random(seed))["answer"]
        seen[said] = preferences.padding(said, row)
    assert len(seen) == 16 and set(seen.values()) == {0, 1, 2, 3, 4}
    for first, second, wanted in (
        (0, 2, 1),
        (2, 0, 0),
        (1, 1, 0.5),
        (4, None, 1),
        (None, 4, 0),
        (None, None, 0.5),
    ):
        assert preferences.wins(first, second) == wanted
        assert preferences.wins(second, first) == 1 - wanted
