"""NF4 from scratch against bitsandbytes, 4-bit loading, and the layers that lose their gradient on some CPUs."""

from __future__ import annotations

import pytest
import torch

from qwen3lab import memory, models, monitoring, nf4

functional = pytest.importorskip("bitsandbytes").functional


def _weight(rows=96, columns=256):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.03


def test_code_book_is_that_of_bitsandbytes():
    book = nf4.code_book()
    torch.testing.assert_close(book, functional.get_4bit_type("nf4", "cpu"), rtol=0, atol=2e-7)
    assert len(book) == 16 and book[7] == 0 and book.min() == -1 and book.max() == 1


def test_quantised_values_are_those_of_bitsandbytes():
    weight = _weight()
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    codes, scales = nf4.quantize(weight)
    theirs = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).reshape(codes.shape)
    assert torch.equal(codes, theirs.long())
    assert torch.equal(scales.flatten(), state.absmax)
    torch.testing.assert_close(nf4.dequantize(codes, scales, weight.shape), functional.dequantize_4bit(packed, state), rtol=0, atol=2e-8)


def test_no_weight_is_further_off_than_half_the_widest_gap():
    weight = _weight()
    codes, scales = nf4.quantize(weight)
    gap = nf4.code_book().diff().max()
    error = (weight - nf4.dequantize(codes, scales, weight.shape)).abs().reshape(scales.shape[0], -1)
    assert (error <= scales * gap / 2 + 1e-7).all()
    assert error.max() > 0


def test_a_block_of_zeros_stays_zero():
    codes, scales = nf4.quantize(torch.zeros(1, 64))
    assert not nf4.dequantize(codes, scales, (1, 64)).any()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint whose layers fit 4-bit blocks (64) and the CPU's packed rows (32)."""
    from conftest import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("wide") / "wide", hidden_size=128, num_attention_heads=4, head_dim=32, intermediate_size=256)


def test_loaded_layers_hold_the_quantised_weights_and_the_planned_bytes(wide):
    full, _ = models.load(wide)
    model, _ = nf4.load_4bit(wide, double_quant=False)
    layer, original = model.model.layers[0].mlp.up_proj, full.model.layers[0].mlp.up_proj.weight
    kept = nf4.dequantize(*nf4.quantize(original), original.shape)
    torch.testing.assert_close(functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state), kept, rtol=0, atol=1e-7)
    quantised, every = nf4.share_4bit(model)
    assert quantised == memory.shape(full.config).linear_parameters and every == full.num_parameters()
    assert not model.lm_head.weight.dtype == torch.uint8
    # one half byte a weight and four bytes for each block of 64; the others in float32
    assert monitoring.model_bytes(model) == quantised // 2 + quantised // 64 * 4 + 4 * (every - quantised)


def test_double_quantisation_keeps_what_the_planner_says(wide):
    model, _ = nf4.load_4bit(wide)
    quantised, every = nf4.share_4bit(model)
    measured = monitoring.model_bytes(model) - 4 * (every - quantised)
    assert measured == pytest.approx(memory.NF4_BYTES * quantised, rel=0.01)


def test_experts_stay_unquantised(moe_checkpoint):
    model, _ = nf4.load_4bit(moe_checkpoint)
    assert model.model.layers[0].mlp.experts.gate_up_proj.dtype == torch.float32
    quantised, every = nf4.share_4bit(model)
    assert quantised == memory.shape(model.config).linear_parameters
    assert quantised + memory.shape(model.config).expert_parameters <= every


def _input_gradient(layer, x):
    x = x.clone().requires_grad_()
    layer.train()
    layer(x).sum().backward()
    return x.grad


def test_guarded_layers_keep_their_gradient_after_an_answer(wide):
    model, _ = nf4.load_4bit(wide)
    layer = model.model.layers[0].self_attn.o_proj
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
    before = _input_gradient(layer, x)
    exact = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).sum(0)
    torch.testing.assert_close(before, exact.expand_as(before), rtol=1e-5, atol=1e-6)

    # As on a CPU with avx512_bf16: without the guard the first answer repacks the weight for a kernel without backward.
    layer.support_avx512bf16_for_cpu = True
    assert nf4.guard(model) == len(list(nf4.layers_4bit(model))) == 14
    layer.eval()
    with torch.no_grad():
        layer(x)
    assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
    assert torch.equal(_input_gradient(layer, x), before)


def test_the_trap_is_still_there_without_the_guard(wide):
    """When this fails, bitsandbytes has changed: see whether `nf4.guard` is still needed."""
    model, _ = nf4.load_4bit(wide)
    layer = model.model.layers[0].self_attn.o_proj
    layer.support_avx512bf16_for_cpu = True
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(3, 128))
    assert layer.weight.quant_state.packing_format_for_cpu
