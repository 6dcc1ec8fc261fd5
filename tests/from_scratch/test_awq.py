"""AWQ by hand against the search of gptqmodel on the same layers and inputs; folding changes
nothing; what it refuses.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from helpers import needs_gptqmodel

from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import awq, gptq
from qwen3lab.quantization import gptq_checkpoints


def _layers(rows=(64, 128), columns=256, tokens=400, seed=0):
    """Weights that share an input, of which a few channels are fifty times as active as
    the others."""
    noise = torch.Generator().manual_seed(seed)
    sizes = torch.rand(columns, generator=noise) * 0.2
    sizes[torch.randperm(columns, generator=noise)[:8]] = 10.0
    return [torch.randn(count, columns, generator=noise) * 0.05 for count in rows], torch.randn(
        tokens, columns, generator=noise
    ) * sizes


class _Both(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights
        )
        for layer, weight in zip(self.layers, weights):
            layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, x):
        return torch.cat([layer(x) for layer in self.layers], -1)


@pytest.fixture(scope="module")
def processor():
    """The library's search without the model around it."""
    needs_gptqmodel()
    with gptq_checkpoints.quiet_gptqmodel():
        from gptqmodel.looper.awq_processor import AWQProcessor

    def make(**settings):
        made = AWQProcessor.__new__(AWQProcessor)
        made.qcfg = SimpleNamespace(**{"group_size": 128, "bits": 4, "sym": True} | settings)
        made.max_chunk_memory, made.duo_scaling, made._quant_batch_size, made.model = (
            2**30,
            True,
            1,
            None,
        )
        (
            made._scale_context,
            made._module_forward_kwargs,
            made._rotary_source_id,
            made._rotary_cache,
        ) = (threading.local(), {}, None, {})
        made.gptq_model = SimpleNamespace(rotary_embedding=None, model=None)
        made._get_root_rotary = lambda: None
        return made

    return make


@pytest.mark.parametrize(
    "settings",
    [{}, {"sym": False}, {"group_size": 64}, {"bits": 3}, {"group_size": 32, "sym": False}],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_scales_are_those_of_the_library(processor, settings, seed):
    weights, inputs = _layers(seed=seed)
    ours = awq.search(
        weights,
        inputs,
        group_size=settings.get("group_size", 128),
        bits=settings.get("bits", 4),
        symmetric=settings.get("sym", True),
    )
    # In float64, because 7.6 keeps its copy of float32 weights as a view on a CPU: it then restores
    # nothing and always picks the first scales.
    both, inputs = _Both(weights).double(), inputs.double()
    *_, scales, error = processor(**settings)._search_best_scale(
        both, both.layers[0], list(both.layers), inputs[None], module2inspect=both
    )
    torch.testing.assert_close(ours.scales, scales.float(), rtol=1e-5, atol=0)
    assert min(ours.errors) == pytest.approx(error, rel=1e-3)
    assert 0 < ours.alpha < 1 and ours.errors[0] > 1.05 * min(ours.errors)


@pytest.mark.parametrize("settings", [{}, {"sym": False}, {"group_size": 64}], ids=str)
def test_clipping_is_that_of_the_library(processor, settings):
    (weight, _), inputs = _layers(seed=3)
    weight[::7, 5] *= 4  # outliers to cut off
    ours = awq.clip(
        weight,
        inputs,
        group_size=settings.get("group_size", 128),
        symmetric=settings.get("sym", True),
    )
    theirs = processor(**settings)._compute_best_clip(weight.clone(), inputs)
    assert ours.shape == theirs.shape
    # Two ranges with nearly the same error: sums in another order may pick the other one.
    assert ((ours - theirs).abs() > 1e-6).float().mean() < 0.01
    assert (
        ours < weight.reshape(*ours.shape[:2], -1).abs().amax(2, keepdim=True)
    ).float().mean() > 0.1


def test_rounding_is_that_of_the_library(processor):
    (weight, _), _ = _layers()
    for settings in ({}, {"sym": False}, {"group_size": 32}, {"bits": 8}):
        theirs, *_ = processor(**settings).pseudo_quantize_tensor(weight.clone())
        ours = awq.round_groups(
            weight,
            settings.get("group_size", 128),
            settings.get("bits", 4),
            settings.get("sym", True),
        )
        assert torch.equal(ours, theirs)


def test_scaling_beats_rounding_and_folding_changes_nothing():
    weights, inputs = _layers()
    found = awq.search(weights, inputs)
    plain = gptq.output_error(weights[0], awq.round_groups(weights[0]), inputs)
    scaled = awq.round_groups(weights[0] * found.scales) / found.scales
    assert gptq.output_error(weights[0], scaled, inputs) < 0.8 * plain
    norm = torch.rand(256) + 0.5
    folded, layers = awq.fold(norm, weights, found.scales)
    x = torch.randn(5, 256)
    torch.testing.assert_close(
        (x * folded) @ layers[1].T, (x * norm) @ weights[1].T, rtol=1e-4, atol=1e-5
    )
    before = torch.randn(256, 32)
    folded, layers = awq.fold(before, weights, found.scales)
    x = torch.randn(5, 32)
    torch.testing.assert_close(
        x @ folded.T @ layers[0].T, x @ before.T @ weights[0].T, rtol=1e-4, atol=1e-4
    )
    assert found.scales.min() * found.scales.max() == pytest.approx(1, rel=1e-4)


def test_own_outputs_are_compared():
    """A block of which only the first layer counts gets the scales of that layer's error."""
    weights, inputs = _layers(seed=5)
    only = awq.search(weights, inputs, outputs=lambda changed: inputs @ changed[0].T)
    exact = inputs @ weights[0].T
    kept = awq.round_groups(weights[0] * only.scales) / only.scales
    assert (inputs @ kept.T - exact).square().mean().item() == pytest.approx(
        min(only.errors), rel=1e-5
    )
    assert only.errors != awq.search(weights, inputs).errors


def test_refuses():
    weights, inputs = _layers()
    with pytest.raises(Qwen3labError, match="do not read inputs of 128 channels"):
        awq.search(weights, inputs[:, :128])
    with pytest.raises(Qwen3labError, match="do not divide by the group size 100"):
        awq.round_groups(weights[0], 100)
