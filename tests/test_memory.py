"""The planner's static parts against figures worked out by hand and against published measurements."""

from __future__ import annotations

import pytest

from qwen3lab import memory
from qwen3lab.errors import Qwen3labError
from qwen3lab.family import FAMILY, shape

# GB: bf16 weights, full fine-tuning, LoRA r16 (dense: all linear; mixture of experts: attention)
STATIC = {
    "0.6B": (1.2, 9.5, 1.4), "1.7B": (3.4, 27.5, 3.7), "4B": (8.0, 64.4, 8.6), "8B": (16.4, 131.1, 17.1),
    "14B": (29.5, 236.3, 30.6), "32B": (65.5, 524.2, 67.7), "30B-A3B": (61.1, 488.5, 61.3), "235B-A22B": (470.2, 3761.5, 471.0),
}
# GB of the base model in NF4: if everything were quantised, and as transformers 5 and bitsandbytes 0.50 do it
NF4 = {"0.6B": (0.5, 0.5), "1.7B": (1.3, 1.3), "4B": (2.7, 2.7), "8B": (6.1, 6.1), "14B": (9.9, 9.9), "32B": (19.2, 19.2),
       "30B-A3B": (16.7, 59.7), "235B-A22B": (123.2, 460.2)}
KIB_PER_TOKEN = {"0.6B": 112, "1.7B": 112, "4B": 144, "8B": 144, "14B": 160, "32B": 256, "30B-A3B": 96, "235B-A22B": 188}


@pytest.mark.parametrize("name", FAMILY)
def test_static_sizes(name):
    sizes = tuple(memory.plan(name, method).total / 1e9 for method in ("inference", "full", "lora"))
    assert sizes == pytest.approx(STATIC[name], abs=0.051)


@pytest.mark.parametrize("name", FAMILY)
def test_nf4(name):
    for experts_in_4bit, expected in zip((True, False), NF4[name], strict=True):
        parts = memory.plan(name, "qlora", experts_in_4bit=experts_in_4bit).parts
        assert (parts["4-bit weights"] + parts["other weights"]) / 1e9 == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("name", FAMILY)
def test_key_value_cache(name):
    assert shape(name).kv_bytes() == KIB_PER_TOKEN[name] * 1024
    plan = memory.plan(name, "inference", tokens=32_768)
    assert plan.parts["key-value cache"] == 32_768 * KIB_PER_TOKEN[name] * 1024


@pytest.mark.parametrize("name, measured", [("0.6B", 114_726), ("8B", 147_461), ("30B-A3B", 98_307)])
def test_key_value_cache_against_qwens_measurement(name, measured):
    """Growth a token between 1 and 30,720 input tokens in the speed benchmark of Qwen's documentation (H20, bfloat16)."""
    assert shape(name).kv_bytes() == pytest.approx(measured, rel=1e-3)


def test_lora_keeps_four_copies_of_the_adapter_and_qlora_half_of_that():
    adapter = shape("8B").lora_parameters(16)
    assert memory.plan("8B", "lora").parts["adapter"] == 16 * adapter
    assert memory.plan("8B", "qlora").parts["adapter"] == 8 * adapter


def test_activations_grow_with_the_tokens():
    parts = memory.plan("0.6B", "lora", tokens=1_000).parts
    assert parts["activations"] == 2 * 1_000 * 1024 * 28


def test_float32_weights_take_twice_as_much():
    assert memory.plan("0.6B", "inference", bytes_per_weight=4).total == 2 * memory.plan("0.6B", "inference").total


def test_table_adds_up():
    plan = memory.plan("8B", "qlora", tokens=4096)
    lines = plan.table().splitlines()
    assert lines[0] == "8B, QLoRA" and len(lines) == len(plan.parts) + 2
    sizes = [float(line.split()[-2]) for line in lines[1:]]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], abs=0.002)


def test_unknown_method():
    with pytest.raises(Qwen3labError, match="Unknown method 'dora'. Use one of: inference, lora, qlora, full."):
        memory.plan("8B", "dora")


def test_planned_weights_are_the_bytes_that_a_model_takes(checkpoint, moe_checkpoint):
    import torch
    from transformers import AutoModelForCausalLM

    for folder in (checkpoint, moe_checkpoint):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        assert memory.plan(model.config, "inference").total == sum(p.nbytes for p in model.parameters())


def test_machine_memory_is_plausible():
    assert 2**28 < memory.machine_bytes() < 2**48
