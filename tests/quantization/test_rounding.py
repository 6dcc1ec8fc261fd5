"""Fewer bits are further away, GPTQ is nearer than rounding to nearest, and the bytes add up."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import make_checkpoint

from qwen3lab import models
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import gptq
from qwen3lab.quantization import rounding


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = make_checkpoint(
        tmp_path_factory.mktemp("rounding") / "model", hidden_size=64, intermediate_size=128
    )
    torch.manual_seed(0)
    return models.load(folder, dtype="float32")[0]


def _texts(count: int, seed: int) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 60, (length,), generator=drawn).tolist() for length in range(9, 9 + count)
    ]


def _logits(model, texts):
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in texts])


def test_every_linear_layer_but_the_head_is_rounded(small):
    model = rounding.round_linears(copy.deepcopy(small), bits=3, group_size=32)
    names = rounding.linears(small)
    assert len(names) == 7 * small.config.num_hidden_layers and "lm_head" not in names
    for name, weight in small.named_parameters():
        rounded = model.get_parameter(name)
        if name.removesuffix(".weight") in names:
            wanted = gptq.nearest(weight, bits=3, group_size=32).weight()
            torch.testing.assert_close(rounded, wanted)
            assert len(rounded[0, :32].unique()) <= 8
        else:
            assert torch.equal(rounded, weight)


def test_fewer_bits_are_further_away(small):
    held_out = _texts(6, 1)
    wanted, found = _logits(small, held_out), []
    for bits in (8, 4, 3, 2):
        model = rounding.round_linears(copy.deepcopy(small), bits=bits, group_size=32)
        found.append((_logits(model, held_out) - wanted).norm().item())
    assert found == sorted(found) and found[0] < found[-1] / 20


def test_gptq_is_calibrated_on_the_inputs_without_padding(small):
    """The first layer's codes are those of GPTQ on its own inputs, read text by text."""
    texts, name = _texts(20, 0), "model.layers.0.self_attn.q_proj"
    caught = []
    hook = small.get_submodule(name).register_forward_pre_hook(
        lambda module, inputs: caught.append(inputs[0][0])
    )
    _logits(small, texts)
    hook.remove()
    seen = gptq.hessian(torch.cat(caught))
    wanted = gptq.quantize(small.get_submodule(name).weight, seen, bits=3, group_size=32).weight()
    model = rounding.round_linears(copy.deepcopy(small), bits=3, group_size=32, texts=texts)
    torch.testing.assert_close(model.get_submodule(name).weight.detach(), wanted.detach())


def test_bytes(small):
    whole = sum(parameter.numel() for parameter in small.parameters())
    inside = sum(small.get_submodule(name).weight.numel() for name in rounding.linears(small))
    assert rounding.stored_bytes(small, 4, 32) == inside // 2 + inside // 32 * 2 + 2 * (
        whole - inside
    )
    rows = sum(len(small.get_submodule(name).weight) for name in rounding.linears(small))
    assert rounding.stored_bytes(small, 2, -1) == inside // 4 + 2 * rows + 2 * (whole - inside)


def test_one_bit_is_refused(small):
    with pytest.raises(Qwen3labError, match="from 2 to 8"):
        rounding.round_linears(copy.deepcopy(small), bits=1)
