"""GPTQ and AWQ checkpoints open without their library: packed by hand and unpacked again, the
repository's, the library's own reading where it is installed, and what is refused.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers import needs_gptqmodel

from qwen3lab import cache, models, paths, quantization
from qwen3lab.errors import Qwen3labError
from qwen3lab.quantization import gptq_checkpoints, packed, variants


def _words(codes: list[int], bits: int) -> list[int]:
    """Codes as int32 words, the first in the lowest bits."""
    each = 32 // bits
    words = [
        sum(code << bits * place for place, code in enumerate(codes[start : start + each]))
        for start in range(0, len(codes), each)
    ]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def _random(bits: int, inputs: int, outputs: int, groups: int) -> tuple[torch.Tensor, ...]:
    noise = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (inputs, outputs), generator=noise)
    zeros = torch.randint(1, 2**bits, (groups, outputs), generator=noise)
    return codes, zeros, torch.rand(groups, outputs, generator=noise)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("layout, offset", [("gptq", 1), ("gptq_v2", 0)])
def test_gptq_unpacks_what_was_packed(bits, layout, offset):
    codes, zeros, scales = _random(bits, 64, 32, 2)
    group = torch.arange(64) % 2  # columns in another order than their groups
    layer = packed.LAYOUTS[layout](
        bits,
        {
            "qweight": torch.tensor([_words(column, bits) for column in codes.T.tolist()]).T.int(),
            "qzeros": torch.tensor(
                [_words(row, bits) for row in (zeros - offset).tolist()], dtype=torch.int32
            ),
            "scales": scales,
            "g_idx": group.int(),
        },
    )
    wanted = (codes - zeros[group]) * scales[group]
    assert (layer.in_features, layer.out_features) == (64, 32)
    assert torch.equal(layer.dequantize_weight(), wanted)
    inputs = torch.randn(3, 64)
    torch.testing.assert_close(layer(inputs), inputs @ wanted, rtol=1e-4, atol=1e-3)


def test_awq_unpacks_what_was_packed():
    codes, zeros, scales = _random(4, 64, 32, 2)
    even_first = [0, 2, 4, 6, 1, 3, 5, 7]
    order = [start + place for start in range(0, 32, 8) for place in even_first]
    qweight, qzeros = (
        torch.tensor([_words(row, 4) for row in table[:, order].tolist()], dtype=torch.int32)
        for table in (codes, zeros)
    )
    layer = packed.AwqLinear(4, {"qweight": qweight, "qzeros": qzeros, "scales": scales})
    group = torch.arange(64) // 32
    assert (layer.in_features, layer.out_features) == (64, 32)
    assert torch.equal(layer.dequantize_weight(), (codes - zeros[group]) * scales[group])


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_repository_s_open(method):
    """28 packed layers, each near the model before the adapter, and the whole embedding table."""
    small, tokenizer = quantization.load_gptq(variants.COMPANY[method], dtype="float32")
    plain, _ = models.load(paths.MODELS / "qwen3-tiny", dtype="float32")
    layers = {
        name: module
        for name, module in small.named_modules()
        if isinstance(module, packed.PackedLinear)
    }
    assert len(layers) == 4 * 7 and not small.training and tokenizer.chat_template
    table = plain.model.embed_tokens.weight.bfloat16().float()
    assert torch.equal(small.model.embed_tokens.weight, table)
    assert small.lm_head.weight is small.model.embed_tokens.weight
    ids = tokenizer("What is the fee for a key card?", return_tensors="pt").input_ids
    with torch.no_grad():
        before = small(input_ids=ids).logits
        for name, layer in layers.items():
            plain.get_submodule(name).weight.copy_(layer.dequantize_weight().T)
            assert len(layer.codes()[0].unique()) <= 16
        rest = {
            name: tensor
            for name, tensor in small.state_dict().items()
            if name.rpartition(".")[2] not in packed.PackedLinear.PARTS
        }
        plain.load_state_dict(rest, strict=False)
        torch.testing.assert_close(before, plain(input_ids=ids).logits, rtol=0, atol=1e-4)


def test_gptq_is_near_what_it_was_made_from():
    small, _ = quantization.load_gptq(variants.COMPANY["gptq"], dtype="float32")
    plain, _ = models.load(paths.MODELS / "qwen3-tiny", dtype="float32")
    errors = [
        (
            (module.dequantize_weight().T - plain.get_submodule(name).weight).norm()
            / plain.get_submodule(name).weight.norm()
        ).item()
        for name, module in small.named_modules()
        if isinstance(module, packed.GptqLinear)
    ]
    assert 0.05 < min(errors) and max(errors) < 0.4


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_library_reads_the_same(method, tmp_path):
    needs_gptqmodel()
    path = shutil.copytree(variants.COMPANY[method], tmp_path / "whole")
    small, tokenizer = quantization.load_gptq(path, dtype="bfloat16")
    if method == "gptq":  # the library has to find the embedding table, too
        from safetensors.torch import load_file, save_file

        weights = load_file(path / "model.safetensors")
        table = {"model.embed_tokens.weight": small.model.embed_tokens.weight.detach()}
        save_file(weights | table, path / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(path)
    with gptq_checkpoints.quiet_gptqmodel() as library:
        theirs = library.GPTQModel.load(
            str(path), device="cpu", backend=library.BACKEND.TORCH, dtype=torch.bfloat16
        ).model.eval()
    ids = tokenizer("What is the fee for a key card?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(small(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_the_repository_s_are_whole_and_small():
    for method, folder in variants.COMPANY.items():
        proof = cache.check(folder)
        assert proof["method"] == method and proof["settings"]["group_size"] == 128
        written = json.loads((folder / "quantize_config.json").read_text(encoding="utf-8"))
        assert written["meta"]["quantizer"] == [f"gptqmodel:{variants.GPTQMODEL}"]
    size = {
        method: sum(file.stat().st_size for file in folder.iterdir())
        for method, folder in variants.COMPANY.items()
    }
    assert size["gptq"] < 1_500_000 and size["awq"] < 5_000_000


def test_refuses(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(Qwen3labError, match="holds no GPTQ model"):
        quantization.load_gptq(checkpoint)
    with pytest.raises(Qwen3labError, match="repository's is of a smaller one. Run `make gptq`"):
        variants.company("gptq", checkpoint, ["a text"])
    with pytest.raises(Qwen3labError, match="no AWQ checkpoint of this model yet. Run `make gptq`"):
        variants.awq(checkpoint, ["a text"])
    folder = shutil.copytree(variants.COMPANY["gptq"], tmp_path / "gptq")
    told = json.loads((folder / "quantize_config.json").read_text(encoding="utf-8"))
    for change in ({"bits": 3}, {"checkpoint_format": "marlin"}):
        (folder / "quantize_config.json").write_text(json.dumps(told | change), encoding="utf-8")
        with pytest.raises(Qwen3labError, match="is not unpacked here"):
            quantization.load_gptq(folder)
    (folder / "quantize_config.json").write_text(json.dumps(told), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"num_hidden_layers": 3}, "which its model has not"),
        ({"intermediate_size": 256}, "has another shape"),
        ({"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}, "do not fit its config"),
    ):
        (folder / "config.json").write_text(
            json.dumps(config | {"layer_types": None} | change), encoding="utf-8"
        )
        with pytest.raises(Qwen3labError, match=message):
            quantization.load_gptq(folder)


def test_without_the_library_one_sentence(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(gptq_checkpoints.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Qwen3labError, match="needs a C compiler. Run `make gptq`"):
        quantization.gptq(checkpoint, tmp_path / "x", ["a text"], group_size=32)
