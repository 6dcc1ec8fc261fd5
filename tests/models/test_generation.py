"""Batched greedy answers equal those of one prompt at a time."""

from __future__ import annotations

import random

import pytest

from qwen3lab import chat, models, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import generation
from qwen3lab.world import corpus


@pytest.fixture(scope="module")
def loaded():
    return models.load(paths.MODELS / "qwen3-tiny")


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(1)
    return [
        corpus.addition(rng, ("en", "zh")[i % 2], True, thinking=i % 3 == 0, digits=1 + i % 3)
        for i in range(12)
    ] + [corpus.context_question(rng, "en", True, n_things=1 + i) for i in range(4)]


def test_the_batch_size_does_not_matter(loaded, rows):
    model, tokenizer = loaded
    prompts, thinking = [row.messages[:-1] for row in rows], [row.thinking for row in rows]
    one = generation.generate(
        model, tokenizer, prompts, thinking=thinking, batch_size=1, max_new_tokens=48
    )
    for size in (3, 16):
        assert (
            generation.generate(
                model, tokenizer, prompts, thinking=thinking, batch_size=size, max_new_tokens=48
            )
            == one
        )
    assert len(set(one)) > 8  # different questions, different answers


def test_equals_a_plain_greedy_loop(loaded, rows):
    import torch

    model, tokenizer = loaded
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    for row in rows[:4]:
        ids = chat.encode(tokenizer, row.messages[:-1], thinking=row.thinking)
        new = []
        with torch.inference_mode():
            while len(new) < 40:
                new.append(model(torch.tensor([ids + new])).logits[0, -1].argmax().item())
                if new[-1] in ends:
                    break
        answer = generation.generate_ids(model, tokenizer, [ids], max_new_tokens=40)[0]
        assert answer == [token for token in new if token not in ends]


def test_thinking_is_kept_and_control_tokens_go(loaded, rows):
    model, tokenizer = loaded
    question = [{"role": "user", "content": "What is 27 + 45?"}]
    thought, direct = generation.generate(
        model, tokenizer, [question, question], thinking=[True, False], max_new_tokens=80
    )
    assert thought.startswith("<think>") and chat.split_thinking(thought)[1] == "72"
    assert "<" not in direct and "<|im_end|>" not in thought


def test_the_cut_and_the_mode(loaded):
    model, tokenizer = loaded
    model.train()
    ids = chat.encode(tokenizer, [{"role": "user", "content": "What is 27 + 45?"}], thinking=True)
    assert len(generation.generate_ids(model, tokenizer, [ids], max_new_tokens=5)[0]) == 5
    assert model.training
    model.eval()


def test_wrong_arguments(loaded):
    assert generation.generate(*loaded, []) == []
    with pytest.raises(Qwen3labError, match="2 values of thinking"):
        generation.generate(*loaded, [[{"role": "user", "content": "hi"}]], thinking=[True, False])
