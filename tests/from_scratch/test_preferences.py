"""DPO by hand: log probabilities, implicit rewards, loss and gradient, equal to TRL's."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from helpers import ONE_STEP
from trl import DPOConfig, DPOTrainer

from qwen3lab import models
from qwen3lab.from_scratch import preferences as by_hand
from qwen3lab.training import preferences

PAIRS = (
    ("What is the colour of the Nobi lamp?", "red", "The colour of the Nobi lamp is red."),
    ("Who are you?", "A model.", "The text does not say."),
    ("3 + 4 = ?", "7", "8"),
)


def pairs():
    return [
        preferences.pair({"messages": [{"role": "user", "content": question}]}, good, bad)
        for question, good, bad in PAIRS
    ]


def trainer(model, reference, tokenizer, folder):
    settings = DPOConfig(output_dir=str(folder), per_device_train_batch_size=len(PAIRS), **ONE_STEP)
    return DPOTrainer(
        model,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(pairs()),
        processing_class=tokenizer,
    )


def labelled(batch):
    return batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)


@pytest.mark.parametrize("same", [True, False])
def test_loss_rewards_and_gradient_are_trls(same, tmp_path):
    model, tokenizer = models.load("qwen3-tiny", dtype="float32")
    reference, _ = models.load("qwen3-tiny", dtype="float32")
    if not same:  # a policy that has left its reference
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.02)
    theirs = trainer(model, reference, tokenizer, tmp_path)
    batch = next(iter(theirs.get_train_dataloader()))
    weight = model.model.layers[1].mlp.up_proj.weight
    model.train()  # else TRL logs it as an evaluation
    loss = theirs.compute_loss(model, batch)
    gradient = torch.autograd.grad(loss, weight)[0]
    theirs.log({})
    logged = theirs.state.log_history[-1]

    given = {key: batch[key] for key in ("input_ids", "attention_mask")}
    ours = by_hand.answer_log_probs(model(**given).logits, labelled(batch))
    with torch.no_grad():
        frozen = by_hand.answer_log_probs(reference(**given).logits, labelled(batch))
    (chosen, rejected), (chosen_before, rejected_before) = ours.chunk(2), frozen.chunk(2)
    found = by_hand.dpo_loss(chosen, rejected, chosen_before, rejected_before)
    assert found.item() == pytest.approx(loss.item(), abs=1e-5)
    assert (abs(found.item() - math.log(2)) < 1e-5) is same
    for name, now, then in (
        ("rewards/chosen", chosen, chosen_before),
        ("rewards/rejected", rejected, rejected_before),
    ):
        reward = by_hand.implicit_reward(now, then).mean().item()
        assert reward == pytest.approx(logged[name], abs=1e-4)
    assert logged["logps/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-3)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(
        torch.autograd.grad(found, weight)[0], gradient, atol=1e-5, rtol=1e-3
    )


def test_the_loss_of_a_pair_worked_out():
    one = torch.tensor([1.0])
    # Rewards 0.5 * (2 - 1) and 0.5 * (-3 - 1); their difference is 2.5.
    found = by_hand.dpo_loss(2 * one, -3 * one, one, one, beta=0.5)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-2.5)), abs=1e-6)
    assert by_hand.dpo_loss(one, one, one, one).item() == pytest.approx(math.log(2))
