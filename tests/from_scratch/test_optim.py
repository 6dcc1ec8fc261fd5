"""AdamW, schedules, clipping, accumulation and loss scaling against torch's and
transformers' own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from qwen3lab import models
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import optim


@pytest.fixture
def model(checkpoint):
    return models.load(checkpoint, dtype="float32")[0].train()


def _batches(count: int, rows: int = 2, tokens: int = 12):
    """Small batches of random tokens; in each row all but 2 to 9 labels are masked, so that batches
    differ in trained tokens.
    """
    rng = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        ids = torch.randint(0, 256, (rows, tokens), generator=rng)
        mask = torch.zeros(rows, tokens)
        mask[:, tokens - 2 - 2 * number :] = 1
        found.append((ids, mask))
    return found


def _losses(model, ids, mask):
    """The loss of each token that has one before it, and the mask of these."""
    logits = model(input_ids=ids).logits[:, :-1]
    return (
        functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(
            len(ids), -1
        ),
        mask[:, 1:],
    )


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("step", "theirs"),
    [(optim.adamw_step, torch.optim.AdamW), (optim.adam_l2_step, torch.optim.Adam)],
)
def test_five_steps_of_adam_on_every_weight(step, theirs, model):
    weights = list(model.parameters())
    state = [(w.detach().clone(), torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    optimizer = theirs(weights, lr=1e-3, weight_decay=0.1)
    for t, (ids, mask) in enumerate(_batches(5), start=1):
        gradients = _gradients(model, optim.token_mean(*zip(_losses(model, ids, mask))))
        state = [step(w, g, m, v, t, lr=1e-3, decay=0.1) for (w, m, v), g in zip(state, gradients)]
        optimizer.step()
    differences = [(mine - w).abs().max().item() for (mine, _, _), w in zip(state, weights)]
    assert max(differences) < 3e-7
    for (_, m, v), w in zip(state, weights):
        torch.testing.assert_close(m, optimizer.state[w]["exp_avg"], atol=1e-8, rtol=1e-5)
        torch.testing.assert_close(v, optimizer.state[w]["exp_avg_sq"], atol=1e-10, rtol=1e-5)


def test_decay_in_the_gradient_is_divided_away():
    # Two weights of 1, gradients of another size but steady: decoupled, both lose the same to the
    # decay.
    g = torch.tensor([0.01, 10.0])
    found = {}
    for step in (optim.adamw_step, optim.adam_l2_step):
        for decay in (0.0, 0.1):
            w, m, v = torch.ones(2), torch.zeros(2), torch.zeros(2)
            for t in range(1, 11):
                w, m, v = step(w, g * (-1) ** t, m, v, t, lr=1e-2, decay=decay)
            found[step, decay] = w
    lost = {
        step: found[step, 0.0] - found[step, 0.1] for step in (optim.adamw_step, optim.adam_l2_step)
    }
    assert lost[optim.adamw_step].tolist() == pytest.approx([0.01, 0.01], rel=0.02)
    assert (
        lost[optim.adam_l2_step][0] > 3 * lost[optim.adamw_step][0]
        and lost[optim.adam_l2_step][1] < 0.2 * lost[optim.adamw_step][1]
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.cosine_rate, get_cosine_schedule_with_warmup),
        (optim.linear_rate, get_linear_schedule_with_warmup),
    ],
)
@pytest.mark.parametrize(("steps", "warmup"), [(50, 5), (7, 0), (4, 4), (3, 8)])
def test_every_step_of_the_schedules(ours, theirs, steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    plan = theirs(optimizer, warmup, steps)
    for step in range(steps + 2):
        assert ours(step, steps, warmup, 2e-3) == pytest.approx(plan.get_last_lr()[0], abs=1e-12)
        optimizer.step(), plan.step()


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping(max_norm, model):
    ids, mask = _batches(1)[0]
    gradients = _gradients(model, optim.token_mean(*zip(_losses(model, ids, mask))))
    ours, norm = optim.clip(gradients, max_norm)
    assert norm == pytest.approx(
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm).item(), rel=1e-6
    )
    assert norm > 0.5  # the first bound is one that cuts
    assert (
        max(
            (mine - parameter.grad).abs().max().item()
            for mine, parameter in zip(ours, model.parameters())
        )
        < 1e-8
    )


def test_the_small_number_under_the_fraction():
    g = [torch.tensor([3e-6, 4e-6])]
    assert optim.clip(g, 1e-6)[0][0].tolist() == pytest.approx(
        [5e-7, 2 / 3 * 1e-6]
    )  # 1 / (5 + 1), not 1 / 5


def test_four_small_batches_are_one_large_one(model):
    batches = _batches(4)
    large = _gradients(
        model, optim.token_mean(*zip(_losses(model, *(torch.cat(part) for part in zip(*batches)))))
    )
    step = {
        per_batch: _gradients(
            model,
            optim.token_mean(
                *zip(*(_losses(model, *batch) for batch in batches)), per_batch=per_batch
            ),
        )
        for per_batch in (False, True)
    }
    length = torch.stack([g.norm() for g in large]).norm()
    apart = {
        key: (
            (
                torch.stack([(mine - g).norm() for mine, g in zip(value, large)]).norm() / length
            ).item()
        )
        for key, value in step.items()
    }
    assert apart[False] < 1e-5
    assert apart[True] > 0.1


def test_the_trainer_counts_tokens_as_we_do(model):
    batches = _batches(4)
    trained = sum(mask[:, 1:].sum() for _, mask in batches)
    theirs = sum(
        model(
            input_ids=ids, labels=ids.masked_fill(mask == 0, -100), num_items_in_batch=trained
        ).loss
        for ids, mask in batches
    )
    ours = optim.token_mean(*zip(*(_losses(model, *batch) for batch in batches)))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    trap = (
        sum(
            model(input_ids=ids, labels=ids.masked_fill(mask == 0, -100)).loss
            for ids, mask in batches
        )
        / 4
    )
    assert optim.token_mean(
        *zip(*(_losses(model, *batch) for batch in batches)), per_batch=True
    ).item() == pytest.approx(trap.item(), abs=1e-6)


def test_a_worked_example_of_the_trap():
    losses, masks = (
        [torch.tensor([[4.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0]])],
        [torch.tensor([[1, 0]]), torch.ones(1, 3)],
    )
    assert optim.token_mean(losses, masks).item() == 7 / 4
    assert optim.token_mean(losses, masks, per_batch=True).item() == 5 / 2
    with pytest.raises(Qwen3labError, match="no trained token"):
        optim.token_mean(losses, [torch.zeros(1, 2), masks[1]])


def test_loss_scaling_over_a_sequence_with_overflows():
    weight = torch.nn.Parameter(torch.tensor([0.5, -0.25]))
    mine = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    theirs, ours = (
        torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3),
        optim.LossScaler(patience=3),
    )
    scales = []
    for factor in (1, 1, float("inf"), 1, 1, 1, 2, 1, 1, float("nan"), float("inf"), 1):
        optimizer.zero_grad()
        theirs.scale((weight**2).sum() * factor).backward()
        gradients = ours.unscale([weight.grad.clone()])
        theirs.step(optimizer)
        theirs.update()
        if gradients is not None:
            mine = mine - 0.1 * gradients[0]
        scales.append(ours.scale)
        assert ours.scale == theirs.get_scale()
        assert mine.tolist() == weight.tolist()
    assert scales == [2.0**power for power in (16, 16, 15, 15, 15, 16, 16, 16, 17, 16, 15, 15)]
    assert ours.skipped == 3


def test_float16_loses_small_gradients_and_the_scale_saves_them():
    small = torch.tensor([2e-8, 1e-3])
    assert small.half().tolist()[0] == 0.0
    scaler = optim.LossScaler()
    assert scaler.unscale([(small * scaler.scale).half()])[0].tolist() == pytest.approx(
        small.tolist(), rel=1e-3
    )


def test_the_ends_of_the_16_bit_formats():
    largest = torch.tensor(65504.0, dtype=torch.float16)
    assert torch.isfinite(largest) and torch.isinf(largest + 32) and torch.isinf(largest * 2)
    assert torch.isfinite(largest.bfloat16() * 2)
    one = torch.tensor(1.0)
    assert (one.bfloat16() - 1e-3).item() == 1.0 and (one.half() - 1e-3).item() != 1.0
    assert (
        optim.changed(one, 1e-3, torch.bfloat16) == 0.0
        and optim.changed(one, 1e-3, torch.float32) == 1.0
    )
    assert optim.changed(torch.tensor([1.0, 0.1]), 1e-3, torch.bfloat16) == 0.5
