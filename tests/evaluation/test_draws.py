"""Drawn answers follow the model's probabilities and the seed; tests made from references tell
right from wrong.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from qwen3lab import chat, evaluation, models
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import assistant, metrics, sandbox
from qwen3lab.models import generation


def test_draws_follow_the_probabilities(checkpoint):
    """One token each: the share of the likeliest tokens equals the softmax at that temperature."""
    model, tokenizer = models.load(checkpoint)
    row = {"id": "a", "messages": [{"role": "user", "content": "Say A"}], "thinking": False}
    with torch.no_grad():
        logits = model(torch.tensor([chat.encode(tokenizer, row["messages"])])).logits[0, -1]
    highest = []
    for temperature in (0.02, 1.0):
        p = (logits / temperature).softmax(-1)
        found = Counter(
            generation.draw(
                model,
                tokenizer,
                [row],
                2000,
                temperature=temperature,
                max_new_tokens=1,
                batch_size=500,
            ).prediction
        )
        wanted = Counter()  # several tokens may be written alike
        for token, chance in enumerate(p.tolist()):
            wanted[tokenizer.decode([token], skip_special_tokens=True).strip()] += chance
        for text, chance in wanted.most_common(20):
            assert found[text] / 2000 == pytest.approx(
                chance, abs=4.5 * (chance * (1 - chance) / 2000) ** 0.5
            )
        highest.append(wanted.most_common(1)[0][1])
    assert highest[0] > 1.5 * highest[1]


def test_seed_order_and_state():
    model, tokenizer = models.load("draft")
    rows = [row for row in tasks.load("chat", "test") if row["task"] == "code"][:3]
    state = torch.random.get_rng_state()
    first = generation.draw(model, tokenizer, rows, 2, temperature=1.5, seed=1, max_new_tokens=24)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (
        first.id.tolist() == [row["id"] for row in rows for _ in range(2)]
        and first.trial.tolist() == [0, 1] * 3
    )
    assert first.equals(
        generation.draw(model, tokenizer, rows, 2, temperature=1.5, seed=1, max_new_tokens=24)
    )
    assert not first.equals(
        generation.draw(model, tokenizer, rows, 2, temperature=1.5, seed=2, max_new_tokens=24)
    )
    cold = generation.draw(model, tokenizer, rows, 2, temperature=1e-4, max_new_tokens=32)
    greedy = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=32)
    assert cold.prediction.tolist() == [text for text in greedy.prediction for _ in range(2)]


def test_tests_of_references():
    rows = [row for row in tasks.load("chat", "test") if row["task"] == "code"]
    found = metrics.PassAtK().compute(
        predictions=[row["answer"] for row in rows], tests=[assistant.tests_of(row) for row in rows]
    )
    assert (found["pass@1"], found["problems"]) == (1, 24)
    for answer, wrong in (
        ("def f(x): return x > 62", ["x >= 62", "x > 61", "x < 62"]),
        ("def f(v): return v[:9]", ["v[:8]", "v[-9:]", "v"]),
        ("def f(s): return s[:46]", ["s[:45]", "s"]),
        ("def f(a, b): return min(a, b)", ["a", "b", "max(a, b)"]),
        ("def f(x): return x ** 38", ["x ** 37", "x * 38"]),
    ):
        tests = assistant.tests_of({"answer": answer})
        assert sandbox.run(answer, tests).passed
        assert not any(
            sandbox.run(answer.split("return")[0] + f"return {body}", tests).passed
            for body in wrong
        )


def test_mistakes_get_a_sentence(checkpoint):
    model, tokenizer = models.load(checkpoint)
    for n, temperature in ((0, 1.0), (2, 0.0)):
        with pytest.raises(Qwen3labError, match="cannot be drawn"):
            generation.draw(
                model, tokenizer, tasks.load("code", "test")[:1], n, temperature=temperature
            )
    with pytest.raises(Qwen3labError, match="no one-line function"):
        assistant.tests_of({"id": "a", "answer": "import os"})
