"""Merging changes no answer, GPTQ and GGUF files hold the weights that they should, and bad input
gets one sentence.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers import needs_gptqmodel

from qwen3lab import measure, models, quantization, training
from qwen3lab.errors import Qwen3labError

TEXTS = [
    "The Basdru mug costs 8 euros.",
    "Add 160 and 609.",
    "Where is the office of Tomor Lasfel?",
] * 4


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory):
    """An adapter with random matrices on every linear layer: a trained one's B is not
    zero either."""
    import torch

    torch.manual_seed(0)
    model, _ = models.load(checkpoint, dtype="float32")
    adapted = training.add_lora(model, r=4, lora_alpha=8)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return folder


def test_merged_equals_adapter(checkpoint, adapter, tmp_path):
    import torch

    merged = quantization.merge(checkpoint, adapter, tmp_path / "merged", dtype="float32")
    assert merged.difference < 1e-4 * merged.scale and merged.rounding == merged.difference
    base, tokenizer = models.load(checkpoint, dtype="float32")
    after, _ = models.load(merged.path, dtype="float32")
    ids = torch.tensor([tokenizer("another text, not the probe").input_ids])
    with torch.no_grad():
        plain = base(input_ids=ids).logits.clone()
        wanted = training.load_adapter(adapter, base)[0](input_ids=ids).logits
        got = after(input_ids=ids).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    assert (got - plain).abs().max() > 0.01  # the adapter does something


def test_merge_rounds_to_the_stored_format(checkpoint, adapter, tmp_path):
    import torch

    merged = quantization.merge(checkpoint, adapter, tmp_path / "merged", dtype="bfloat16")
    assert merged.rounding > merged.difference
    assert models.load(merged.path, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert json.loads((merged.path / "config.json").read_text())["dtype"] == "bfloat16"


def test_merge_refuses(checkpoint, adapter, tmp_path):
    with pytest.raises(Qwen3labError, match="holds no adapter"):
        quantization.merge(checkpoint, checkpoint, tmp_path / "x")
    from helpers import make_checkpoint

    wider = make_checkpoint(tmp_path / "wide", hidden_size=64)
    with pytest.raises(Qwen3labError, match="does not fit"):
        quantization.merge(wider, adapter, tmp_path / "x")


def test_gptq_is_near_the_model_and_nearer_than_rounding(checkpoint, tmp_path):
    """4 bits in groups of 32 move the logits by some percent; the file unpacks to what the library
    computes.
    """
    import torch

    needs_gptqmodel()
    path = quantization.gptq(checkpoint, tmp_path / "gptq", TEXTS, group_size=32)
    model, tokenizer = models.load(checkpoint, dtype="bfloat16")
    model.float()  # the library stores what it does not quantise in bfloat16
    small, _ = quantization.load_gptq(path)
    layers = {
        name: module
        for name, module in small.named_modules()
        if type(module).__name__ == "GptqLinear"
    }
    assert len(layers) == 2 * 7 and small.lm_head.weight.dtype == torch.float32
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        exact, packed = model(input_ids=ids).logits, small(input_ids=ids).logits
        for (
            name,
            layer,
        ) in layers.items():  # the same model, with plain matrices unpacked from the file
            model.get_submodule(name).weight.copy_(layer.dequantize_weight().T.float())
        unpacked = model(input_ids=ids).logits
    torch.testing.assert_close(packed, unpacked, rtol=0, atol=1e-5)
    error = ((packed - exact).norm() / exact.norm()).item()
    assert 0 < error < 0.3
    levels = layers["model.layers.0.mlp.up_proj"].dequantize_weight().T[0, :32].float().unique()
    assert len(levels) <= 16  # four bits


def test_gptq_refuses(checkpoint, tmp_path):
    with pytest.raises(Qwen3labError, match="needs texts"):
        quantization.gptq(checkpoint, tmp_path / "x", [])
    with pytest.raises(Qwen3labError, match="does not divide by the group size 128"):
        quantization.gptq(checkpoint, tmp_path / "x", TEXTS)


@pytest.mark.parametrize("name", ["checkpoint", "moe_checkpoint"])
def test_gguf_holds_the_weights(name, request, tmp_path):
    import gguf
    from safetensors.torch import load_file

    folder = request.getfixturevalue(name)
    reader = gguf.GGUFReader(quantization.to_gguf(folder, tmp_path / "m.gguf", "f32"))
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    weights = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["token_embd.weight"], weights["model.embed_tokens.weight"].numpy()
    )
    np.testing.assert_array_equal(
        tensors["blk.1.attn_q.weight"], weights["model.layers.1.self_attn.q_proj.weight"].numpy()
    )
    if name == "moe_checkpoint":
        for expert in range(4):
            np.testing.assert_array_equal(
                tensors["blk.0.ffn_down_exps.weight"][expert],
                weights[f"model.layers.0.mlp.experts.{expert}.down_proj.weight"].numpy(),
            )
    assert reader.get_field("tokenizer.ggml.pre").contents() == "qwen2"
    assert "enable_thinking" in reader.get_field("tokenizer.chat_template").contents()


def test_gguf_types_get_smaller_and_stay_near(tmp_path):
    """Every type unpacks to nearly the weights; matrices, not norms, are packed; short rows fall
    back to another type.
    """
    import gguf
    from helpers import make_checkpoint

    folder = make_checkpoint(tmp_path / "model", hidden_size=256, intermediate_size=96)
    sizes, errors = {}, {}
    whole = None
    for kind in quantization.GGUF_TYPES:
        path = quantization.to_gguf(folder, tmp_path / f"{kind}.gguf", kind)
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        assert tensors["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
        values = {
            name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for name, tensor in tensors.items()
        }
        whole = whole or values
        flat, wanted = (
            np.concatenate([part[name].ravel() for name in sorted(whole)])
            for part in (values, whole)
        )
        sizes[kind], errors[kind] = (
            path.stat().st_size,
            float(np.linalg.norm(flat - wanted) / np.linalg.norm(wanted)),
        )
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q4_k_m"]
    assert (
        errors["f32"] == 0
        and errors["f16"] < 1e-3
        and errors["bf16"] < 4e-3
        and errors["q8_0"] < 0.01
    )
    assert 0.01 < errors["q4_k_m"] < errors["q4_0"] < 0.1
    assert sizes["q4_k_m"] > sizes["q3_k_m"] > sizes["q2_k"]
    assert 1.3 * errors["q4_k_m"] < errors["q3_k_m"] < errors["q2_k"] < 0.4
    kinds = {
        tensor.name: tensor.tensor_type.name
        for tensor in gguf.GGUFReader(tmp_path / "q4_k_m.gguf").tensors
    }
    assert kinds["token_embd.weight"] == "Q6_K" and kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"  # rows of 96
    low = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q2_k.gguf").tensors}
    found = {name: low[f"blk.1.attn_{name}.weight"].tensor_type.name for name in ("q", "v")}
    assert found == {"q": "Q2_K", "v": "Q3_K"}  # a bit more for the values


def test_gguf_refuses(checkpoint, tmp_path):
    with pytest.raises(Qwen3labError, match="Unknown GGUF type"):
        quantization.to_gguf(checkpoint, tmp_path / "m.gguf", "q3")
    with pytest.raises(Qwen3labError, match="does not end in .gguf"):
        quantization.to_gguf(checkpoint, tmp_path / "m.bin")
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(Qwen3labError, match="damaged"):
        quantization.to_gguf(broken, tmp_path / "m.gguf")
    config = json.loads((checkpoint / "config.json").read_text())
    for change, message in (
        ({"quantization_config": {"bits": 4}}, "quantised already"),
        ({"architectures": ["LlamaForCausalLM"]}, "not a Qwen3 model"),
    ):
        odd = shutil.copytree(checkpoint, tmp_path / message[:4])
        (odd / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(Qwen3labError, match=message):
            quantization.to_gguf(odd, tmp_path / "m.gguf")


def test_folder_bytes(checkpoint):
    assert (
        measure.folder_bytes(checkpoint, "*.safetensors")
        == (checkpoint / "model.safetensors").stat().st_size
    )
    assert (
        measure.folder_bytes(checkpoint / "config.json")
        == (checkpoint / "config.json").stat().st_size
    )
