"""Training with rewards: draws, log probabilities, rewards, and which rows may be trained on."""

from __future__ import annotations

import pytest
import torch

from qwen3lab import models
from qwen3lab.data import tasks
from qwen3lab.data.rows import ask
from qwen3lab.prompts import REFUSAL
from qwen3lab.training import rewards


@pytest.fixture(scope="module")
def loaded():
    return models.load("qwen3-tiny", dtype="float32")


def test_rewards():
    said, wanted = ["8 euros.", "9 euros", REFUSAL["zh"], REFUSAL["en"]], ["8 euros"] * 3
    wanted.append(REFUSAL["en"])
    assert rewards.right(completions=said, answer=wanted, other=1) == [1, 0, 0, 1]
    messages = [[{"role": "assistant", "content": text}] for text in said]  # as TRL gives them
    assert rewards.right_or_silent(completions=messages, answer=wanted) == [1, -1, 0, 0]


def test_log_probs_of_answers_that_share_a_prompt_are_those_of_whole_rows(loaded):
    model, tokenizer = loaded
    prompts = [ask(tokenizer, row) for row in tasks.load("chat", "train")[:3]]
    end = tokenizer.eos_token_id
    answers = [[5, 6, 7, end], [8, end], [9, 10, end], [11, end], [12, 13], [14, 15, 16, 17]]
    model.requires_grad_(True)
    found, mask = rewards.log_probs(model, prompts, answers)
    weight = model.model.layers[0].self_attn.k_proj.weight
    ours = torch.autograd.grad((found * mask).sum(), weight)[0]
    total = 0
    for place, answer in enumerate(answers):
        prompt = prompts[place // 2]
        logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
        whole = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt + answer) - 1), answer]
        torch.testing.assert_close(found[place][mask[place].bool()], whole, atol=2e-4, rtol=1e-4)
        total = total + whole.sum()
    theirs = torch.autograd.grad(total, weight)[0]
    assert theirs.abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=1e-2)


def test_draws_follow_the_models_distribution(loaded):
    model, tokenizer = loaded
    prompts = [ask(tokenizer, row) for row in tasks.load("chat", "train")[:2]]
    torch.manual_seed(0)
    drawn = rewards.sample(model, tokenizer, prompts, 400, longest=1)
    assert len(drawn) == 800 and {len(answer) for answer in drawn} == {1}
    for prompt, answers in zip(prompts, (drawn[:400], drawn[400:])):
        with torch.no_grad():
            expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        first = torch.bincount(torch.tensor(answers)[:, 0], minlength=len(expected)) / 400
        assert (first - expected).abs().max() < 0.08
    # A low temperature leaves the greedy answer, and an answer ends with its end token.
    greedy = rewards.sample(model, tokenizer, prompts, 2, temperature=1e-4)
    assert greedy[0] == greedy[1] and greedy[2] == greedy[3]
    from qwen3lab.models.generation import generate_ids

    assert [answer[:-1] for answer in greedy[::2]] == generate_ids(
        model, tokenizer, prompts, max_new_tokens=16
    )


def test_a_rewarded_answer_becomes_likelier():
    model, tokenizer = models.load("qwen3-tiny", dtype="float32")
    rows = tasks.load("knowledge", "train")[:4]  # which it does not know: its draws differ

    def short(completions, answer):
        return [-float(len(text)) for text in completions]

    history = rewards.grpo(
        model, tokenizer, rows, short, steps=12, prompts=4, draws=8, learning_rate=3e-4
    )
    assert list(history.columns) == ["step", "reward", "refused", "agreed", "loss", "seconds"]
    assert history.reward[-3:].mean() > history.reward[:3].mean() + 2


def test_accepted_rows_are_right_and_each_stands_once(loaded):
    model, tokenizer = loaded
    rows = (
        tasks.load("knowledge", "train")[:4]
        + [row for row in tasks.load("chat", "train") if row["task"] == "context"][:4]
    )
    kept = rewards.accepted(model, tokenizer, rows, draws=4)
    assert {row["task"] for row in kept} == {"context"}  # the company's facts it cannot know
    assert len(kept) == len({(row["id"], row["answer"]) for row in kept}) >= 2
    assert all(rewards.right([row["answer"]], [row["answer"]]) == [1] for row in kept)


def test_no_question_of_the_exam_is_trained():
    def text(row):
        return row["messages"][-1]["content"]

    trained = {text(row) for row in rewards.reading_rows()}
    asked = {text(row) for row in rewards.reading_exam()}
    assert len(trained) == 252 and len(asked) == 200 and not trained & asked
    assert not trained & {
        text(row) for task in ("context", "unanswerable") for row in tasks.load(task, "validation")
    }
