"""NF4, double quantisation and int8 from scratch against bitsandbytes bit for bit; 4-bit loading;
layers that lose their gradient on some CPUs.
"""

from __future__ import annotations

import pytest
import torch

from qwen3lab import family, measure, memory, models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import nf4
from qwen3lab.models import four_bit
from qwen3lab.pitfalls import gradients_in_4bit

functional = pytest.importorskip("bitsandbytes").functional


def _weight(rows=96, columns=256, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.03


def test_code_books_are_those_of_bitsandbytes_to_the_last_bit():
    book = nf4.code_book()
    assert torch.equal(book, functional.get_4bit_type("nf4", "cpu"))
    assert len(book) == 16 and book[7] == 0 and book.min() == -1 and book.max() == 1
    assert torch.equal(nf4.dynamic_code_book(), functional.create_dynamic_map())


# Blocks in all: even, odd, fewer than 256, one more than 256, more than a thousand.
@pytest.mark.parametrize(
    "shape", [(96, 256), (7, 192), (33, 64), (1, 64 * 257), (65, 4096), (3, 64, 64)], ids=str
)
@pytest.mark.parametrize("block", [32, 64, 128, 4096])
def test_codes_bytes_scales_and_values_are_those_of_bitsandbytes(shape, block):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(block)) * 0.03
    if weight.numel() % block:
        with pytest.raises(
            Qwen3labError,
            match=f"{weight.numel()} weights cannot be cut into blocks of {block}. Choose a block",
        ):
            nf4.quantize(weight, block)
        return
    codes, scales = nf4.quantize(weight, block)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=block)
    assert torch.equal(nf4.pack(codes), packed.flatten()) and torch.equal(
        nf4.unpack(packed, block), codes
    )
    assert torch.equal(scales.flatten(), state.absmax)
    # As one row: where a block goes over the end of a row, the kernel for AVX-512 takes the scale
    # of another one (bitsandbytes 0.50.2).
    state.shape = torch.Size((1, weight.numel()))
    assert torch.equal(
        nf4.dequantize(codes, scales, shape),
        functional.dequantize_4bit(packed, state).reshape(shape),
    )

    packed, state = functional.quantize_4bit(
        weight, quant_type="nf4", blocksize=block, compress_statistics=True
    )
    twice = nf4.double_quantize(scales)
    assert (
        torch.equal(twice.codes, state.absmax)
        and torch.equal(twice.scales, state.state2.absmax)
        and torch.equal(twice.offset, state.offset)
    )
    kept = nf4.double_dequantize(twice)
    assert torch.equal(
        kept, functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    )
    state.shape = torch.Size((1, weight.numel()))
    assert torch.equal(
        nf4.dequantize(codes, kept[:, None], shape),
        functional.dequantize_4bit(packed, state).reshape(shape),
    )


def test_values_that_lie_between_two_levels_go_where_bitsandbytes_puts_them():
    book = nf4.code_book()
    middles = (book[1:] + book[:-1]) / 2
    around = torch.cat(
        [
            middles,
            middles.nextafter(torch.tensor(2.0)),
            middles.nextafter(torch.tensor(-2.0)),
            torch.ones(19),
        ]
    ).reshape(1, 64)
    for scale in (1.0, 0.03, 7e-5):
        weight = around * scale
        assert torch.equal(
            nf4.pack(nf4.quantize(weight)[0]),
            functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)[0].flatten(),
        )


def test_many_second_level_codes_are_those_of_bitsandbytes_and_nearly_all_the_nearest():
    scales = torch.rand(100_003, generator=torch.Generator().manual_seed(1)) ** 2 + 0.01
    codes, largest, offset = nf4.double_quantize(scales)
    theirs, state = functional.quantize_blockwise(scales - scales.mean(), blocksize=256)
    assert torch.equal(codes, theirs) and torch.equal(largest, state.absmax)
    scaled = (scales - offset) / largest.repeat_interleave(256)[: len(scales)]
    nearest = (scaled[:, None] - nf4.dynamic_code_book()).abs().argmin(1)
    differ = (nearest != codes).float().mean().item()
    assert 0 < differ < 0.002 and (nearest - codes.long()).abs().max() == 1


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_blocks_that_are_all_alike(value):
    weight = torch.full((3, 64), value)
    codes, scales = nf4.quantize(weight)
    packed, state = functional.quantize_4bit(
        weight, quant_type="nf4", blocksize=64, compress_statistics=True
    )
    twice = nf4.double_quantize(scales)
    assert torch.equal(nf4.pack(codes), packed.flatten()) and torch.equal(twice.codes, state.absmax)
    assert torch.equal(
        nf4.dequantize(codes, nf4.double_dequantize(twice)[:, None], weight.shape), weight
    )


def test_no_weight_is_further_off_than_half_the_widest_gap():
    weight = _weight()
    for levels in (nf4.code_book(), torch.linspace(-1, 1, 16)):
        codes, scales = nf4.quantize(weight, levels=levels)
        error = (
            (weight - nf4.dequantize(codes, scales, weight.shape, levels))
            .abs()
            .reshape(scales.shape[0], -1)
        )
        assert (error <= scales * levels.diff().max() / 2 + 1e-7).all()
        assert error.max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_int8_rows_are_those_of_bitsandbytes(dtype):
    weight = _weight(33, 100).to(dtype)
    codes, scales = nf4.int8_rows(weight)
    theirs, stats, _ = functional.int8_vectorwise_quant(weight)
    assert torch.equal(codes, theirs) and torch.equal(scales, stats) and codes.dtype == torch.int8
    assert codes.abs().amax(1).eq(127).all()
    torch.testing.assert_close(
        codes * scales[:, None] / 127, weight.float(), rtol=0, atol=float(scales.max()) / 250
    )


def test_smaller_blocks_err_less_and_nf4_less_than_even_levels():
    weight = _weight(64, 4096)
    errors = {}
    for block in (32, 64, 256, 4096):
        for name, levels in (("nf4", nf4.code_book()), ("even", torch.linspace(-1, 1, 16))):
            errors[name, block] = nf4.relative_error(
                nf4.dequantize(*nf4.quantize(weight, block, levels), weight.shape, levels), weight
            )
        assert errors["nf4", block] < errors["even", block]
    assert errors["nf4", 32] < errors["nf4", 64] < errors["nf4", 256] < errors["nf4", 4096]
    assert nf4.relative_error(weight * 1.1, weight) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("block", [64, 128])
def test_bytes_a_weight_are_those_that_bitsandbytes_keeps(block):
    weight = _weight(64, block * 256)
    for twice in (False, True):
        packed, state = functional.quantize_4bit(
            weight, quant_type="nf4", blocksize=block, compress_statistics=twice
        )
        kept = packed.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if twice else 0)
        assert nf4.bytes_a_weight(block, 256 if twice else None) * weight.numel() == kept
    assert nf4.bytes_a_weight() == memory.NF4_BYTES and nf4.bytes_a_weight(64, None) == 0.5625
    assert nf4.bytes_a_weight(256, None, bits=8) == 1 + 4 / 256


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint whose layers fit 4-bit blocks (64) and the CPU's packed rows (32)."""
    from helpers import make_checkpoint

    return make_checkpoint(
        tmp_path_factory.mktemp("wide") / "wide",
        hidden_size=128,
        num_attention_heads=4,
        head_dim=32,
        intermediate_size=256,
    )


def test_every_layer_of_the_bundled_model_holds_our_bytes():
    full, _ = models.load("chat")
    model, _ = models.load_4bit("chat")
    layers = {
        name: module
        for name, module in model.named_modules()
        if module in set(four_bit.layers_4bit(model))
    }
    assert len(layers) == 28
    for name, layer in layers.items():
        codes, scales = nf4.quantize(full.get_submodule(name).weight.detach())
        assert torch.equal(nf4.pack(codes), layer.weight.flatten()), name
        assert torch.equal(nf4.double_quantize(scales).codes, layer.weight.quant_state.absmax), name


def test_loaded_layers_hold_the_quantised_weights_and_the_planned_bytes(wide):
    full, _ = models.load(wide)
    model, _ = models.load_4bit(wide, double_quant=False)
    layer, original = model.model.layers[0].mlp.up_proj, full.model.layers[0].mlp.up_proj.weight
    kept = nf4.dequantize(*nf4.quantize(original), original.shape)
    assert torch.equal(
        functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state), kept
    )
    quantised, every = models.share_4bit(model)
    assert (
        quantised == family.shape(full.config).linear_parameters and every == full.num_parameters()
    )
    assert not model.lm_head.weight.dtype == torch.uint8
    # one half byte a weight and four bytes for each block of 64; the others in float32
    assert measure.model_bytes(model) == quantised // 2 + quantised // 64 * 4 + 4 * (
        every - quantised
    )


def test_double_quantisation_keeps_what_the_planner_says(wide):
    model, _ = models.load_4bit(wide)
    quantised, every = models.share_4bit(model)
    measured = measure.model_bytes(model) - 4 * (every - quantised)
    assert measured == pytest.approx(memory.NF4_BYTES * quantised, rel=0.01)


def test_experts_stay_unquantised(moe_checkpoint):
    model, _ = models.load_4bit(moe_checkpoint)
    assert model.model.layers[0].mlp.experts.gate_up_proj.dtype == torch.float32
    quantised, every = models.share_4bit(model)
    assert quantised == family.shape(model.config).linear_parameters
    assert quantised + family.shape(model.config).expert_parameters <= every


def _input_gradient(layer, x):
    x = x.clone().requires_grad_()
    layer.train()
    layer(x).sum().backward()
    return x.grad


def test_guarded_layers_keep_their_gradient_after_an_answer(wide):
    model, _ = models.load_4bit(wide)
    layer = model.model.layers[0].self_attn.o_proj
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
    before = _input_gradient(layer, x)
    exact = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).sum(0)
    torch.testing.assert_close(before, exact.expand_as(before), rtol=1e-5, atol=1e-6)

    # As on a CPU with avx512_bf16: without the guard the first answer repacks the weight for a
    # kernel without backward.
    layer.support_avx512bf16_for_cpu = True
    assert four_bit.guard(model) == len(list(four_bit.layers_4bit(model))) == 14
    layer.eval()
    with torch.no_grad():
        layer(x)
    assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
    assert torch.equal(_input_gradient(layer, x), before)


def test_the_trap_is_still_there_without_the_guard(wide):
    """When this fails, bitsandbytes has changed: see whether `four_bit.guard` is still needed."""
    model, _ = models.load_4bit(wide)
    layer = model.model.layers[0].self_attn.o_proj
    layer.support_avx512bf16_for_cpu = True
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(3, 128))
    assert layer.weight.quant_state.packing_format_for_cpu


def _moved(wide, guarded: bool) -> tuple[training.Run, set[str]]:
    """One step of QLoRA after an evaluation, as on a CPU with avx512_bf16; the projections whose
    adapters moved, of both layers.
    """
    rows = [
        {
            "input_ids": [5 * i + j for j in range(12)],
            "labels": [-100] * 8 + [5 * i + j for j in range(8, 12)],
        }
        for i in range(16)
    ]
    with gradients_in_4bit.like_avx512(guarded):
        run = training.fine_tune(
            wide,
            rows,
            method="qlora",
            validation=rows[:4],
            steps=1,
            batch_size=16,
            learning_rate=1e-2,
            warmup_steps=0,
            eval_on_start=True,
        )
    moved = {
        name.split(".")[-4]
        for name, parameter in run.model.named_parameters()
        if "lora_B" in name and parameter.abs().max() > 0
    }
    return run, moved


def test_training_after_an_evaluation_reaches_every_layer_only_with_the_guard(wide):
    """The processor here may lack avx512_bf16, so the block does what bitsandbytes does there:
    right answers, no gradient through them.

    The training goes by `fine_tune`, which evaluates before its one step, and loads the model by
    `load_4bit`. Take the call of `guard` out of `load_4bit`, and the first half of this test fails
    as the second half shows.
    """
    run, moved = _moved(wide, guarded=True)
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    trapped, reached = _moved(wide, guarded=False)
    # What adds to the residual stream is reached along it; what comes before these two layers gets
    # exactly no gradient.
    assert reached == {"o_proj", "down_proj"}
    losses, norms = (
        [each.history[column].dropna().iloc[0] for each in (run, trapped)]
        for column in ("loss", "grad_norm")
    )
    assert (
        losses[1] == pytest.approx(losses[0], rel=0.01) and norms[1] < 0.95 * norms[0]
    )  # the loss tells nothing


def test_the_demonstration_leaves_nothing_behind(wide):
    import bitsandbytes.nn.modules as modules

    before = functional.gemv_4bit, modules.has_avx512bf16, four_bit.guard
    with pytest.raises(ZeroDivisionError), gradients_in_4bit.like_avx512(guarded=False):
        model, _ = models.load_4bit(wide)
        layer = model.model.layers[0].self_attn.o_proj
        assert layer.support_avx512bf16_for_cpu
        x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
        exact = x @ functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).T
        with torch.no_grad():
            answer = layer(x)
        assert layer.weight.quant_state.packing_format_for_cpu
        torch.testing.assert_close(answer, exact, rtol=0.01, atol=0.002)  # its scales are bfloat16
        assert not layer.train()(x.requires_grad_()).requires_grad
        1 / 0
    assert (functional.gemv_4bit, modules.has_avx512bf16, four_bit.guard) == before


def test_an_exported_run_asks_trl_for_the_same_four_bits(wide, tmp_path):
    from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser, get_quantization_config

    from qwen3lab.training import export

    rows = [
        {
            "input_ids": [5 * i + j for j in range(12)],
            "labels": [-100] * 8 + [5 * i + j for j in range(8, 12)],
        }
        for i in range(16)
    ]
    run = training.fine_tune(wide, rows, method="qlora", steps=1, batch_size=16)
    file = export.export(run, tmp_path)
    _, settings, model = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config(
        ["--config", str(file)]
    )
    asked, ours = (
        get_quantization_config(model),
        models.load_4bit(wide)[0].config.quantization_config,
    )
    for name in ("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
        assert getattr(asked, name) == getattr(ours, name), name
    assert (ours.load_in_4bit, ours.bnb_4bit_quant_type, ours.bnb_4bit_use_double_quant) == (
        True,
        "nf4",
        True,
    )
    assert (
        settings.eval_strategy == "no"
    )  # outside of the course nobody calls the guard before an evaluation
