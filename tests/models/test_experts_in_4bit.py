"""The experts of a mixture in 4 bits: same codes, right values, adapters on attention that train as
they should.
"""

from __future__ import annotations

import pytest
import torch

from qwen3lab import family, measure, memory, models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import nf4
from qwen3lab.models import experts_in_4bit

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def wide_moe(tmp_path_factory):
    """A mixture whose matrices fit 4-bit blocks."""
    from helpers import make_checkpoint

    return make_checkpoint(
        tmp_path_factory.mktemp("wide-moe") / "moe",
        "30B-A3B",
        hidden_size=128,
        num_attention_heads=4,
        head_dim=32,
        moe_intermediate_size=64,
    )


def _quantised(folder):
    model, tokenizer = models.load_4bit(folder)
    return model, tokenizer, experts_in_4bit.quantize_experts(model)


def _rows(count=16):
    return [
        {
            "input_ids": [5 * i + j for j in range(12)],
            "labels": [-100] * 8 + [5 * i + j for j in range(8, 12)],
        }
        for i in range(count)
    ]


def test_every_expert_is_quantised_and_counted(wide_moe):
    model, _, count = _quantised(wide_moe)
    shape = family.shape(model.config)
    assert count == shape.expert_parameters
    assert models.share_4bit(model) == (
        shape.linear_parameters + shape.expert_parameters,
        shape.parameters,
    )
    planned = memory.plan(model.config, "qlora", bytes_per_weight=4, experts_in_4bit=True).parts
    assert measure.model_bytes(model) == planned["4-bit weights"] + planned["other weights"]


@pytest.mark.parametrize("double", [False, True])
def test_values_are_those_of_our_own_quantisation(wide_moe, double):
    original, _ = models.load(wide_moe)
    model, _ = models.load(wide_moe)
    experts_in_4bit.quantize_experts(model, double_quant=double)
    for exact, layer in zip(
        experts_in_4bit.expert_modules(original), experts_in_4bit.expert_modules(model), strict=True
    ):
        for name in experts_in_4bit.NAMES:
            weight = getattr(exact, name).detach()
            codes, scales = nf4.quantize(weight)
            scales = (
                nf4.double_dequantize(nf4.double_quantize(scales))[:, None] if double else scales
            )
            assert torch.equal(getattr(layer, name), nf4.dequantize(codes, scales, weight.shape))
            assert torch.equal(layer.parametrizations[name].original.flatten(), nf4.pack(codes))


def test_adapters_on_attention_get_the_gradients_of_a_model_with_the_same_values(wide_moe):
    four_bit, _ = models.load(wide_moe)
    experts_in_4bit.quantize_experts(four_bit)
    plain, _ = models.load(wide_moe)
    with torch.no_grad():
        for to, layer in zip(
            experts_in_4bit.expert_modules(plain), experts_in_4bit.expert_modules(four_bit)
        ):
            for name in experts_in_4bit.NAMES:
                getattr(to, name).copy_(getattr(layer, name))
    ids = torch.arange(40).reshape(2, 20)
    found = []
    for model in (four_bit, plain):
        torch.manual_seed(0)
        adapted = training.add_lora(
            model, init_lora_weights=False
        )  # B is not zero, so that A has a gradient too
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append(
            (
                loss.item(),
                {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad},
            )
        )
    (loss, mine), (wanted, theirs) = found
    assert (
        loss == wanted and mine.keys() == theirs.keys() and len(mine) == 2 * 2 * 4
    )  # A and B, layers, projections
    for name, gradient in mine.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-8)


def test_fine_tune_takes_such_a_model_and_the_loss_falls(wide_moe):
    model, tokenizer, _ = _quantised(wide_moe)
    before = [
        layer.parametrizations[name].original.clone()
        for layer in experts_in_4bit.expert_modules(model)
        for name in experts_in_4bit.NAMES
    ]
    run = training.fine_tune(
        model,
        _rows(),
        method="qlora",
        steps=12,
        batch_size=16,
        learning_rate=3e-2,
        warmup_steps=0,
        tokenizer=tokenizer,
    )
    after = [
        layer.parametrizations[name].original
        for layer in experts_in_4bit.expert_modules(run.model)
        for name in experts_in_4bit.NAMES
    ]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert run.history.loss.iloc[-1] < run.history.loss.iloc[0] - 0.5
    moved = [p.abs().max() > 0 for name, p in run.model.named_parameters() if "lora_B" in name]
    assert len(moved) == 8 and all(moved)
    planned = memory.plan(model.config, "qlora", bytes_per_weight=4, experts_in_4bit=True).parts
    assert run.bytes["frozen weights"] == planned["4-bit weights"] + planned["other weights"]
    assert run.parameters == family.shape(model.config).parameters + run.trained


def test_peft_finds_no_experts_any_more(wide_moe):
    """Alone they are an error; beside attention they are left out with a warning, which
    is worse."""
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model, _, _ = _quantised(wide_moe)
    with pytest.raises(ValueError, match="no `target_parameters` found"):
        training.add_lora(model, target_modules=[], target_parameters=targets)
    model, _, _ = _quantised(wide_moe)
    with pytest.warns(RuntimeWarning, match="were set but no parameter was matched"):
        adapted = training.add_lora(model, target_parameters=targets)
    assert not [
        name for name, _ in adapted.named_parameters() if "lora" in name and "self_attn" not in name
    ]
    plain, _ = models.load(wide_moe)
    assert [
        name
        for name, _ in training.add_lora(plain, target_parameters=targets).named_parameters()
        if "lora" in name and "experts" in name
    ]


def test_what_cannot_be_quantised_is_refused(wide_moe, checkpoint):
    with pytest.raises(Qwen3labError, match="This model has no experts. Give a mixture"):
        experts_in_4bit.quantize_experts(models.load(checkpoint)[0])
    model, _, _ = _quantised(wide_moe)
    with pytest.raises(Qwen3labError, match="in 4 bits already. Use it as it is"):
        experts_in_4bit.quantize_experts(model)
    with pytest.raises(
        Qwen3labError, match="carries an adapter already. Quantise the experts first"
    ):
        experts_in_4bit.quantize_experts(training.add_lora(models.load(wide_moe)[0]))
