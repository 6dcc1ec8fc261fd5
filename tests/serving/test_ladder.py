"""The ruler of the ladder: divergences by hand, bytes counted, models and llama.cpp read alike,
forms kept and loaded.
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import needs_gptqmodel

from qwen3lab import cache, measure, models, paths, quantization, serving
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.quantization import variants
from qwen3lab.results import records
from qwen3lab.serving import ladder

TINY = paths.MODELS / "qwen3-tiny"
ROWS = tasks.load("knowledge", "test")[:6]


@pytest.fixture(scope="module")
def model():
    return models.load(TINY, dtype="float32")


@pytest.fixture(scope="module")
def against(model):
    return ladder.ruler(*model, ROWS, max_new_tokens=4, timed=2)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(paths, "CACHE", tmp_path_factory.getbasetemp() / "cache")


def test_divergence():
    p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    whole = 0.5 * math.log(0.5 / 0.2) + 0.2 * math.log(0.2 / 0.5)
    assert ladder.divergence(p, None, q) == pytest.approx(whole, rel=1e-6)
    assert ladder.divergence(p, [2, 0], q[[2, 0]]) == pytest.approx(
        whole, rel=1e-6
    )  # the rest is one token anyway
    assert ladder.divergence(p, [2], q[[2]]) == pytest.approx(
        0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5), rel=1e-6
    )
    assert ladder.divergence(p, None, p) == 0
    impossible = torch.tensor([0.0, 1.0, 0.0]).log()
    assert ladder.divergence(impossible, None, p) == pytest.approx(-math.log(0.3), rel=1e-6)


def test_coarser_is_never_more():
    noise = torch.Generator().manual_seed(0)
    for _ in range(20):
        p, q = torch.randn(2, 50, generator=noise).mul(3).log_softmax(-1)
        steps = [
            ladder.divergence(p, top, q[top])
            for top in (q.topk(size).indices for size in (2, 8, 30, 50))
        ]
        assert steps == sorted(steps) and steps[-1] == pytest.approx(
            ladder.divergence(p, None, q), rel=1e-5
        )


def test_nothing_to_measure_is_refused(model, against, tmp_path):
    for options in ({"timed": 0}, {"max_new_tokens": 0}, {"timed": 2.0}, {"timed": True}):
        (name,) = options
        with pytest.raises(Qwen3labError, match=f"{name} is .*nothing would be measured"):
            ladder.ruler(*model, ROWS, **options)
    for disk in (tmp_path / "gone", [], [TINY, tmp_path / "gone"]):
        with pytest.raises(
            Qwen3labError, match="The bytes of 'f' cannot be counted: (gone|no file)"
        ):
            ladder.rung("f", model[0], against, disk=disk)
    with pytest.raises(Qwen3labError, match="'qwen3-tiny' is a folder. Load it with models.load"):
        ladder.rung("f", TINY, against, disk=TINY)


def test_read_is_the_model_itself(model, against):
    for example, lines in zip(against.examples, against.log_probabilities):
        with torch.no_grad():
            logits = (
                model[0](input_ids=torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1)
            )
        places = [place for place, label in enumerate(example["labels"]) if label != -100]
        torch.testing.assert_close(
            lines, logits[[place - 1 for place in places]], atol=1e-4, rtol=0
        )
        assert (
            len(places) == len(model[1](ROWS[0]["answer"]).input_ids) + 1
            or example is not against.examples[0]
        )


def test_the_same_model_is_at_no_distance(model, against):
    line = ladder.rung("same", model[0], against, disk=TINY)
    assert line.kl == line.kl_top == line.kl_high == 0 and line.agreement == 1 and line.whole
    assert (
        line.n == 6
        and line.tokens == sum(map(len, against.log_probabilities))
        and line.accuracy == line.right / 6
    )
    assert line.disk == (
        TINY / "model.safetensors"
    ).stat().st_size and line.memory == pytest.approx(2 * line.disk, rel=0.01)
    assert line.low < line.accuracy + 1e-9 <= line.high + 1e-9 and line.speed > 0


def test_a_disturbed_model_is_at_some(model, against):
    other, _ = models.load(TINY, dtype="float32")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(4)
    line = ladder.rung("other", other, against, disk=TINY)
    by_hand = [
        torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
        for p, q in zip(against.log_probabilities, ladder.read(other, against.examples))
    ]
    assert (
        line.kl == pytest.approx(sum(by_hand) / line.tokens, rel=1e-3)
        and line.kl_low < line.kl < line.kl_high
    )
    assert 0.5 * line.kl < line.kl_top <= line.kl and line.agreement < 1


def test_llama_cpp_reads_the_same(model, against):
    """In-process route and OpenAI's, float32 weights: nearly no divergence, and the probabilities
    of transformers.
    """
    path = variants.gguf(TINY, "f32")
    line = ladder.rung("f32", path, against, disk=path)
    served = ladder.rung("served", path, against, disk=path, served=True)
    # llama.cpp keeps keys and values in 16 bits
    assert (
        line.kl < 1e-4
        and served.kl < 1e-4
        and not line.whole
        and line.agreement == served.agreement == 1
    )
    assert (
        line.memory
        == served.memory
        == ladder.file_memory(path)
        == pytest.approx(model[0].num_parameters() * 4, rel=0.01)
    )
    assert line.right == served.right == ladder.rung("torch", model[0], against, disk=TINY).right
    with serving.LlamaServer(path, model[1]) as server:
        ids, values = ladder.read_llama(server, against.examples[:1], top=5)[0][0]
    torch.testing.assert_close(
        torch.tensor(values), against.log_probabilities[0][0][ids], atol=0.05, rtol=0
    )


def test_int8_and_nf4_are_kept_and_counted(model, against):
    lines = {}
    for method in ("int8", "nf4"):
        path = variants.bitsandbytes(TINY, method)
        assert variants.bitsandbytes(TINY, method) == path and cache.check(path)["method"] == method
        loaded = variants.open_bitsandbytes(path)
        lines[method] = ladder.rung(method, loaded, against, disk=path)
        layers = [
            layer
            for name, layer in model[0].named_modules()
            if isinstance(layer, torch.nn.Linear) and name != "lm_head"
        ]
        linear, rows = (
            sum(layer.weight.numel() for layer in layers),
            sum(layer.out_features for layer in layers),
        )
        others = (model[0].num_parameters() - linear) * 2
        wanted = others + (
            linear + 4 * rows if method == "int8" else linear * (0.5 + 1 / 64 + 4 / (64 * 256))
        )
        assert lines[method].memory == pytest.approx(wanted, rel=0.002)
        assert lines[method].disk == pytest.approx(wanted, rel=0.03)
    assert 0 < lines["int8"].kl < lines["nf4"].kl < 1
    with pytest.raises(Qwen3labError, match="Unknown method 'int2'"):
        variants.bitsandbytes(TINY, "int2")


def test_gptq_counts_its_packed_weights(checkpoint):
    """Groups of 32, and whole rows."""
    needs_gptqmodel()
    texts = ["The Basdru mug costs 8 euros.", "Add 160 and 609."] * 4
    path, rows = (
        variants.gptq(checkpoint, texts, group_size=32),
        variants.gptq(checkpoint, texts, group_size=-1),
    )
    assert path == variants.gptq(checkpoint, texts, group_size=32) != rows
    small, whole = (quantization.load_gptq(folder, dtype="bfloat16")[0] for folder in (path, rows))
    scales = {
        name: sum(module.scales.numel() for module in model.modules() if hasattr(module, "scales"))
        for name, model in (("32", small), ("rows", whole))
    }
    exact = models.load(checkpoint, dtype="bfloat16")[0]
    linear = [
        layer
        for name, layer in exact.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    ]
    assert scales == {
        "32": sum(layer.weight.numel() // 32 for layer in linear),
        "rows": sum(layer.out_features for layer in linear),
    }
    kept_whole = (exact.num_parameters() - sum(layer.weight.numel() for layer in linear)) * 2
    packed = sum(
        layer.weight.numel() // 2 + layer.in_features * 4 for layer in linear
    )  # codes, and the group of each column
    zeros = sum(
        module.qzeros.numel() * 4 for module in small.modules() if hasattr(module, "qzeros")
    )
    assert ladder.model_memory(small) == pytest.approx(
        kept_whole + packed + 2 * scales["32"] + zeros, rel=0.02
    )


def test_the_repository_s_4_bit_forms_are_measured(model, against):
    """Their memory is that of their files, GPTQ's with the embedding table that its file lacks;
    untrained on the answers, the bundled model is at some distance from both.
    """
    table = model[0].model.embed_tokens.weight.numel() * 2
    for method, lacks in (("gptq", table), ("awq", 0)):
        place = variants.company(method, TINY, variants.calibration(against.tokenizer))
        assert place == variants.COMPANY[method]
        small, _ = quantization.load_gptq(place, dtype="bfloat16")
        size = measure.folder_bytes(place, "*.safetensors") + lacks
        assert ladder.model_memory(small) == pytest.approx(size, rel=0.02)
        line = ladder.rung(method, small, against, disk=place)
        assert 0 < line.kl < math.inf and line.n == 6


def test_refuses(against, checkpoint):
    with pytest.raises(Qwen3labError, match="no questions"):
        ladder.ruler(None, against.tokenizer, [])
    small, _ = models.load(checkpoint, dtype="float32")
    fits = ladder.Ruler(
        against.tokenizer,
        ROWS[:1],
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}],
        against.log_probabilities[:1],
        2,
        1,
    )
    with pytest.raises(
        Qwen3labError, match="a vocabulary of 264 tokens, the first form one of 4096"
    ):
        ladder.rung("small", small, fits, disk=checkpoint)


def test_the_committed_record():
    record = records.read("ladder")
    table = ladder.table(record["ladder"])
    assert list(table.index) == [
        "adapter",
        "merged fp32",
        "merged bf16",
        "int8",
        "GPTQ 4-bit",
        "AWQ 4-bit",
        "NF4",
        "GGUF F16",
        "GGUF Q8_0",
        "GGUF Q4_K_M",
        "served Q4_K_M",
    ]
    assert (table.n == len(tasks.load("knowledge", "test"))).all() and table.kl[
        "merged fp32"
    ] < 1e-5
    assert table.kl["int8"] < table.kl[["GPTQ 4-bit", "AWQ 4-bit", "NF4"]].min()
