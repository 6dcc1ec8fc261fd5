"""LoRA from scratch against PEFT, and the coverage report."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qwen3lab import family, models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import lora
from qwen3lab.training import lora as training_lora

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("r", "alpha"), [(1, 1), (4, 16), (16, 32)])
def test_forward_gradients_and_merge_are_pefts(r, alpha, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 40, bias=bias), torch.randn(7, 48)
    ours = lora.LoRALinear(copy.deepcopy(layer), r, alpha)
    theirs = training.add_lora(
        nn.Sequential(layer), r=r, lora_alpha=alpha, target_modules=["0"], task_type=None
    )
    their_layer = theirs.base_model.model[0]
    with torch.no_grad():
        ours.B.normal_()
        their_layer.lora_A["default"].weight.copy_(ours.A)
        their_layer.lora_B["default"].weight.copy_(ours.B)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-6)
    (ours(x) ** 2).sum().backward()
    (theirs(x) ** 2).sum().backward()
    torch.testing.assert_close(
        ours.A.grad, their_layer.lora_A["default"].weight.grad, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(
        ours.B.grad, their_layer.lora_B["default"].weight.grad, atol=1e-4, rtol=1e-5
    )
    assert ours.layer.weight.grad is None
    torch.testing.assert_close(
        ours.delta(), their_layer.get_delta_weight("default"), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(ours.merge()(x), ours(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours.merge().weight, theirs.merge_and_unload()[0].weight, atol=1e-6, rtol=1e-6
    )


def test_it_starts_as_the_layer_and_with_pefts_spread():
    layer, x = nn.Linear(400, 30), torch.randn(5, 400)
    ours = lora.LoRALinear(layer)
    assert torch.equal(ours(x), layer(x))
    assert 0.9 / 20 < ours.A.abs().max() <= 1 / 20 and not ours.B.any()


def test_dropout_is_on_in_training_only():
    torch.manual_seed(0)
    ours, x = lora.LoRALinear(nn.Linear(64, 8), dropout=0.5), torch.randn(3, 64)
    with torch.no_grad():
        ours.B.normal_()
    assert not torch.equal(ours(x), ours(x))
    assert torch.equal(ours.eval()(x), ours(x))


def test_bad_rank():
    with pytest.raises(Qwen3labError, match="The rank is 0"):
        lora.LoRALinear(nn.Linear(2, 2), r=0)


@pytest.fixture(scope="module")
def dense():
    return training_lora.coverage(training.add_lora(models.load("qwen3-tiny")[0], r=4))


def test_coverage_counts_every_parameter_once(dense):
    shape = family.shape("qwen3-tiny")
    assert dense.weights.sum() == shape.parameters
    assert dense.adapter.sum() == shape.lora_parameters(4, "all-linear")
    assert dense.trained.sum() == 0
    assert (dense.adapted[dense["rank"] > 0] == 4).all() and set(dense["rank"]) == {0, 4}
    assert list(dense.index[dense.adapted > 0]) == [
        "attention q_proj",
        "attention k_proj",
        "attention v_proj",
        "attention o_proj",
        "FFN gate_proj",
        "FFN up_proj",
        "FFN down_proj",
    ]


def test_coverage_of_experts_and_of_a_miss():
    model = training.add_lora(models.load("qwen3-tiny-moe")[0], r=2)  # attention alone
    assert training_lora.require(model, ["attention"]).adapter.sum() == model.num_parameters(
        only_trainable=True
    )
    with pytest.raises(
        Qwen3labError,
        match=(
            r"experts gate_up_proj: 0 of 4 tensors; experts down_proj: 0 of 4"
            r" tensors.*target_parameters"
        ),
    ):
        training_lora.require(model, ["attention", "experts"])
    with pytest.raises(Qwen3labError, match="no weights of the group 'FFN'"):
        training_lora.require(model, ["FFN"])
    model = training.add_lora(models.load("qwen3-tiny-moe")[0], r=2, target_parameters=EXPERTS)
    table = training_lora.require(model, ["attention", "experts"])
    assert table.adapter.sum() == model.num_parameters(only_trainable=True)
    assert table.weights.sum() == family.shape("qwen3-tiny-moe").parameters
    assert table.adapted["router"] == 0 and table.weights["router"] == 4 * 16 * 256


def test_the_usual_seven_names_double_the_rank_on_experts():
    seven = [*training.ATTENTION, "gate_proj", "up_proj", "down_proj"]
    table = training_lora.coverage(
        training.add_lora(models.load("qwen3-tiny-moe")[0], r=2, target_modules=seven)
    )
    assert (
        table["rank"]["experts gate_up_proj"],
        table["rank"]["experts down_proj"],
        table["rank"]["attention q_proj"],
    ) == (4, 2, 2)
    with pytest.raises(ValueError, match="lora_dropout"):
        training.add_lora(
            models.load("qwen3-tiny-moe")[0], r=2, lora_dropout=0.05, target_modules=seven
        )


def test_coverage_of_weights_in_four_bits():
    from qwen3lab import models

    model = training.add_lora(models.load_4bit("qwen3-tiny")[0], r=4)
    assert training_lora.coverage(model).weights.sum() == family.shape("qwen3-tiny").parameters
