"""A smoke run: the same calls, few steps and short answers, and it says so."""

from __future__ import annotations

import pytest

from qwen3lab import models, profiles, training
from qwen3lab.data import tasks
from qwen3lab.models import generation
from qwen3lab.pitfalls import label_masks


@pytest.fixture()
def smoke(monkeypatch):
    monkeypatch.setenv("QWEN3LAB_SMOKE", "1")


@pytest.mark.parametrize(
    "value, on", [("", False), ("0", False), (" No ", False), ("1", True), ("yes", True)]
)
def test_the_environment_asks_for_it(value, on, monkeypatch):
    monkeypatch.setenv("QWEN3LAB_SMOKE", value)
    assert profiles.smoke() is on
    assert profiles.smoke_steps(200) == (profiles.SMOKE_STEPS if on else 200)
    assert profiles.smoke_tokens(64) == (profiles.SMOKE_TOKENS if on else 64)
    assert profiles.smoke_steps(2) == 2 and profiles.smoke_tokens(3) == 3
    assert (profiles.SMOKE_WHAT in profiles.get().describe()) is on


def test_a_training_is_cut_short_and_says_so(smoke, checkpoint, capsys):
    rows = tasks.load("knowledge", "train")[:8]
    run = training.fine_tune(checkpoint, rows, epochs=50, batch_size=4)
    assert run.steps == 3 and "smoke run: 3 of 100 steps" in capsys.readouterr().out
    watched = {"patience": 2, "eval_steps": 3, "logging_steps": 3}
    run = training.fine_tune(checkpoint, rows, validation=rows[:2], steps=40, **watched)
    assert run.steps == 3 and run.best_step == 3


def test_an_answer_is_cut_short(smoke, checkpoint, monkeypatch):
    model, tokenizer = models.load(checkpoint)
    rows = [tokenizer("ab").input_ids]
    monkeypatch.setattr(generation, "end_tokens", lambda *_: [])
    assert [len(ids) for ids in generation.generate_ids(model, tokenizer, rows)] == [4]
    monkeypatch.delenv("QWEN3LAB_SMOKE")
    assert [len(ids) for ids in generation.generate_ids(model, tokenizer, rows)] == [64]


def test_a_mistake_is_cut_short(smoke, checkpoint):
    model, _ = models.load(checkpoint)
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    model.model.register_forward_hook(lambda *_: steps.append(1))
    label_masks.train(model, [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}], steps=10)
    assert len(steps) == 3


def test_a_real_run_does_not_find_a_smoke_run(monkeypatch):
    from qwen3lab.course import checkpoints

    real = checkpoints.folder("lora")
    monkeypatch.setenv("QWEN3LAB_SMOKE", "1")
    assert checkpoints.folder("lora").parent.name == real.parent.name + "-smoke"
