"""GPTQ by hand against gptqmodel's own class on the same layer and inputs; its error feedback; what
it refuses.
"""

from __future__ import annotations

import pytest
import torch
from helpers import needs_gptqmodel

from qwen3lab import quantization
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import gptq
from qwen3lab.quantization import gptq_checkpoints


def _layer(rows=96, columns=256, tokens=600, seed=0):
    """A weight, and inputs that are correlated and of very different sizes, as activations are."""
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=noise) * 0.05
    mixed = torch.randn(tokens, columns // 4, generator=noise) @ torch.randn(
        columns // 4, columns, generator=noise
    )
    sizes = torch.rand(columns, generator=noise) ** 3 + 0.02
    return weight, (mixed + torch.randn(tokens, columns, generator=noise)) * sizes


def _library(weight, inputs, **settings):
    """gptqmodel's GPTQ on one layer: the weight it keeps, scales, zero points, groups."""
    needs_gptqmodel()
    with gptq_checkpoints.quiet_gptqmodel() as library:
        from gptqmodel.quantization.gptq import GPTQ

        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight.clone()
        task = GPTQ(layer, library.QuantizeConfig(offload_to_disk=False, **settings))
        task.quantizer.configure(perchannel=True)
        task.add_batch(inputs[None], None)
        kept, scales, zeros, groups, *_ = task.quantize()
    return kept, scales, zeros, groups.long()


@pytest.mark.parametrize(
    "order, settings",
    [
        ("group", {}),
        ("natural", {"act_group_aware": False}),
        ("activation", {"desc_act": True, "act_group_aware": False}),
    ],
)
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_those_of_the_library(order, settings, group_size, bits):
    weight, inputs = _layer()
    ours = gptq.quantize(
        weight, gptq.hessian(inputs), bits=bits, group_size=group_size, order=order
    )
    kept, scales, zeros, groups = _library(
        weight, inputs, bits=bits, group_size=group_size, **settings
    )
    assert torch.equal(ours.groups, groups) and torch.equal(ours.zeros, zeros)
    theirs = (kept / scales[:, groups] + zeros[:, groups]).round()
    other = (ours.codes != theirs).any(1)
    # Sums in another order end in other last digits. A weight in the middle of two steps may then
    # go the other way, and its row with it.
    assert other.sum() <= 1 and (ours.codes - theirs).abs().max() <= 2
    torch.testing.assert_close(ours.scales[~other], scales[~other], rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    "group_size, order, settings",
    [(-1, "natural", {"act_group_aware": False}), (64, "group", {"sym": False})],
)
def test_one_group_a_row_and_zero_points(group_size, order, settings):
    weight, inputs = _layer(seed=1)
    ours = gptq.quantize(
        weight,
        gptq.hessian(inputs),
        group_size=group_size,
        order=order,
        symmetric=settings.get("sym", True),
    )
    kept, scales, zeros, groups = _library(
        weight, inputs, bits=4, group_size=group_size, **settings
    )
    assert torch.equal(ours.zeros, zeros) and ours.scales.shape == scales.shape
    assert ((ours.weight() - kept).abs() > 1e-5).any(1).sum() <= 1 and (
        ours.weight() - kept
    ).abs().max() <= 2.1 * scales.max()


def test_a_layer_of_a_model_gets_the_codes_that_the_library_saves(checkpoint, tmp_path):
    """The first layer's q_proj: its inputs do not depend on any rounding, and the file holds
    bfloat16 scales.
    """
    from qwen3lab import models

    needs_gptqmodel()
    texts = [
        "The Basdru mug costs 8 euros.",
        "Add 160 and 609.",
        "Where is the office of Tomor Lasfel?",
    ] * 4
    name = "model.layers.0.self_attn.q_proj"
    small, _ = quantization.load_gptq(
        quantization.gptq(checkpoint, tmp_path / "gptq", texts, group_size=32)
    )
    model, tokenizer = models.load(checkpoint, dtype="bfloat16")
    caught = []
    model.get_submodule(name).register_forward_pre_hook(
        lambda module, given: caught.append(given[0].flatten(0, -2))
    )
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt"))
    weight = model.get_submodule(name).weight.float()
    ours = gptq.quantize(weight, gptq.hessian(torch.cat(caught)), group_size=32)
    theirs = small.get_submodule(name).dequantize_weight().T.float()
    step = ours.scales.repeat_interleave(32, 1)
    assert (((ours.weight() - theirs).abs() / step) < 0.1).float().mean() > 0.97


def test_feedback_helps_the_output_and_hurts_the_weights():
    weight, inputs = _layer(seed=2)
    H = gptq.hessian(inputs)
    plain, fed = gptq.nearest(weight, group_size=64), gptq.quantize(weight, H, group_size=64)
    error = {
        name: gptq.output_error(weight, rounded.weight(), inputs)
        for name, rounded in (("plain", plain), ("fed", fed))
    }
    assert error["fed"] < 0.7 * error["plain"]
    assert (fed.weight() - weight).norm() > (plain.weight() - weight).norm()
    assert torch.equal(gptq.quantize(weight, H, group_size=64, feedback=False).codes, plain.codes)
    assert error["plain"] == pytest.approx(
        ((inputs @ (plain.weight() - weight).T).norm() / (inputs @ weight.T).norm()).item(),
        rel=1e-6,
    )


def test_inputs_that_are_never_active_lose_their_weights():
    weight, inputs = _layer(columns=128)
    inputs[:, [3, 77]] = 0
    kept = gptq.quantize(weight, gptq.hessian(inputs), group_size=64).weight()
    assert kept[:, [3, 77]].abs().max() == 0 and kept[:, 4].abs().max() > 0


def test_the_hessian_is_the_second_derivative_of_the_output_error():
    weight, inputs = _layer(rows=1, columns=8, tokens=20)
    change = torch.zeros(1, 8, dtype=torch.float64)
    loss = lambda step: (inputs.double() @ (step.reshape(1, 8)).T).square().mean()  # noqa: E731
    exact = torch.autograd.functional.hessian(loss, change.flatten())
    torch.testing.assert_close(gptq.hessian(inputs).double(), exact, rtol=1e-5, atol=1e-6)


def test_refuses():
    weight, inputs = _layer(columns=128)
    H = gptq.hessian(inputs)
    with pytest.raises(Qwen3labError, match="Unknown order 'random'"):
        gptq.quantize(weight, H, order="random")
    with pytest.raises(Qwen3labError, match="128 columns do not divide by the group size 48"):
        gptq.quantize(weight, H, group_size=48)
    with pytest.raises(Qwen3labError, match="The layer has 128 inputs, but the hessian is"):
        gptq.quantize(weight, H[:64, :64])
    with pytest.raises(Qwen3labError, match="not positive definite"):
        gptq.quantize(weight, -H)
