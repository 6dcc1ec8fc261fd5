"""GRPO by hand: advantages and the clipped loss, equal to those of `trl.GRPOTrainer`."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from helpers import ONE_STEP
from trl import GRPOConfig, GRPOTrainer

from qwen3lab import models
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import grpo
from qwen3lab.training import rewards

QUESTIONS = ("What is the colour of the Nobi lamp?", "Add 21 and 32.", "Who are you?")


def length(completions, **_):
    """A reward that differs between almost any two answers."""
    return [float(len(one[0]["content"])) for one in completions]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What one step of TRL's trainer was given and gave, with a policy that has moved since."""
    model, tokenizer = models.load("qwen3-tiny", dtype="float32")
    kept = {}

    class Watched(GRPOTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            noise = torch.randn(inputs["completion_ids"].shape, generator=torch.manual_seed(1))
            with torch.no_grad():
                new, _ = by_hand(model, inputs)
            moved = inputs | {"old_per_token_logps": new + 0.3 * noise}
            loss = super().compute_loss(model, moved, **kwargs)
            weight = model.model.layers[1].mlp.up_proj.weight
            kept.update(moved, loss=loss.item(), model=model, weight=weight)
            kept["gradient"] = torch.autograd.grad(loss, weight, retain_graph=True)[0]
            return loss

    settings = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("grpo")),
        learning_rate=0.0,
        per_device_train_batch_size=12,
        num_generations=4,
        max_completion_length=8,
        chat_template_kwargs={"enable_thinking": False},
        **ONE_STEP,
    )
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in QUESTIONS]
    Watched(
        model,
        length,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train()
    return kept | {"tokenizer": tokenizer}


def rows_of(ids, mask):
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask)]


def by_hand(model, inputs):
    prompts = rows_of(inputs["prompt_ids"], inputs["prompt_mask"])
    return rewards.log_probs(
        model, prompts, rows_of(inputs["completion_ids"], inputs["completion_mask"])
    )


def test_advantages_are_trls(seen):
    prompts = [tuple(row) for row in rows_of(seen["prompt_ids"], seen["prompt_mask"])]
    texts = seen["tokenizer"].batch_decode(
        rows_of(seen["completion_ids"], seen["completion_mask"]), skip_special_tokens=True
    )
    for prompt in set(prompts):  # TRL shuffles the answers after it has compared them
        places = [place for place, other in enumerate(prompts) if other == prompt]
        assert len(places) == 4
        worth = torch.tensor(length([[{"content": texts[place]}] for place in places]))
        torch.testing.assert_close(
            grpo.group_advantages(worth, 4), seen["advantages"][places], atol=1e-5, rtol=1e-5
        )
    assert seen["advantages"].abs().max() > 0.5


def test_the_clipped_loss_and_its_gradient_are_trls(seen):
    new, mask = by_hand(seen["model"], seen)
    torch.testing.assert_close(mask, seen["completion_mask"].long())
    loss = grpo.policy_loss(new, seen["old_per_token_logps"], seen["advantages"], mask)
    assert loss.item() == pytest.approx(seen["loss"], abs=1e-5)
    gradient = torch.autograd.grad(loss, seen["weight"])[0]
    assert seen["gradient"].abs().max() > 1e-3
    torch.testing.assert_close(gradient, seen["gradient"], atol=1e-5, rtol=1e-3)
    wider = grpo.policy_loss(new, seen["old_per_token_logps"], seen["advantages"], mask, clip=9)
    assert abs(wider.item() - seen["loss"]) > 1e-3  # so some ratios were clipped


def test_a_group_that_agrees_has_no_advantage():
    found = grpo.group_advantages(torch.tensor([1.0, 1, 1, 0, 1, 0]), 3)
    assert found[:3].tolist() == [0, 0, 0] and found[3] == found[5] < 0 < found[4]
    assert found[3:].sum().abs() < 1e-6
    for rewarded, size in ((torch.ones(4), 1), (torch.ones(5), 2)):
        with pytest.raises(Qwen3labError, match="groups of"):
            grpo.group_advantages(rewarded, size)


def test_beyond_the_clip_a_wanted_move_has_no_gradient():
    mask, old = torch.ones(1, 1), torch.zeros(1, 1)
    for gain, ratio, moves in (
        (1.0, 1.1, True),
        (1.0, 1.3, False),
        (1.0, 0.7, True),
        (-1.0, 0.7, False),
        (-1.0, 1.3, True),
    ):
        new = torch.tensor([[ratio]]).log().requires_grad_()
        grpo.policy_loss(new, old, torch.tensor([gain]), mask).backward()
        assert bool(new.grad.abs().item() > 0.1) is moves, (gain, ratio)
