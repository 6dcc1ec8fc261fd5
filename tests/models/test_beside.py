"""What lies beside weights and cannot be used gets a sentence; what is lacking is the base's."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers import make_checkpoint
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from qwen3lab import models, quantization, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside
from qwen3lab.models.generation import end_tokens, generate_ids


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """An adapter with the base's tokenizer. Tests must not change it; copy it first."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model, tokenizer = models.load(base)
    training.add_lora(model, r=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def put(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def drop(*names):
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def edit(name, **fields):
    def change(folder):
        found = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps(found))

    return change


def reweigh(change):
    def apply(folder):
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return apply


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


FOREIGN = edit("tokenizer_config.json", eos_token="<|over|>")
REFUSED = {
    "no adapter": (drop("adapter_config.json"), "'a' holds no adapter (no adapter_config.json)."),
    "settings cut short": (put("adapter_config.json", "{"), "adapter_config.json of 'a' cannot be"),
    "settings that are a list": (
        put("adapter_config.json", "[]"),
        "adapter_config.json of 'a' can",
    ),
    "a pickle": (
        both(drop("adapter_model.safetensors"), put("adapter_model.bin", "x")),
        "The adapter 'a' has no adapter_model.safetensors, and pickled weights are never loaded.",
    ),
    "weights cut short": (
        put("adapter_model.safetensors", "\x08"),
        "The weights file adapter_model.safetensors of 'a' is damaged",
    ),
    "tokenizer cut short": (put("tokenizer.json", "{"), "The tokenizer of 'a' cannot be read"),
    "settings of another tokenizer": (
        both(drop("tokenizer.json"), FOREIGN),
        "The tokenizer settings of 'a' name the token '<|over|>', which the base's vocabulary has",
    ),
    "generation settings cut short": (
        put("generation_config.json", '{"eos_token_id": '),
        "generation_config.json of 'a' cannot be read",
    ),
    "another width": (
        reweigh(lambda weights: {name: w[:, :1].contiguous() for name, w in weights.items()}),
        "The adapter 'a' does not fit the model",
    ),
    "a layer more": (
        reweigh(
            lambda w: w | {n.replace("layers.1.", "layers.7."): t.clone() for n, t in w.items()}
        ),
        "The adapter 'a' does not fit the model",
    ),
    "a layer less": (
        reweigh(lambda w: {n: t for n, t in w.items() if "layers.1." not in n}),
        "The adapter 'a' does not fit the model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_gets_a_sentence(name, base, adapter, tmp_path):
    change, sentence = REFUSED[name]
    folder = shutil.copytree(adapter, tmp_path / "a")
    change(folder)
    for call in (
        lambda: training.load_adapter(folder, base),
        lambda: quantization.merge(base, folder, tmp_path / "merged"),
    ):
        with pytest.raises(Qwen3labError) as error:
            call()
        assert str(error.value).startswith(sentence) and str(error.value).endswith(".")
    assert not (tmp_path / "merged").exists()


def test_tokens_without_embeddings(base, adapter, tmp_path):
    """A tokenizer with 265 tokens, over a base and an adapter with 264 embeddings."""
    folder = shutil.copytree(adapter, tmp_path / "a")
    tokenizer = models.load_tokenizer(base)
    tokenizer.add_tokens([AddedToken(f"<t{n}>", special=True) for n in range(264 - 259 + 1)])
    tokenizer.save_pretrained(folder)
    told = (
        "The tokenizer of 'a' has 1 tokens more than there are embeddings: '<t5>' is number 264,"
        " and base and adapter have 264."
    )
    with pytest.raises(Qwen3labError) as error:
        training.load_adapter(folder, base)
    assert str(error.value).startswith(told)
    whole = shutil.copytree(base, tmp_path / "whole")
    tokenizer.save_pretrained(whole)
    with pytest.raises(Qwen3labError, match="1 tokens more than the model has embeddings .264."):
        quantization.to_gguf(whole, tmp_path / "m.gguf")


def test_the_base_is_the_one_that_the_adapter_names(base, adapter, tmp_path, monkeypatch):
    model, _ = training.load_adapter(adapter)
    assert model.config.name_or_path == str(base)
    moved = shutil.copytree(adapter, tmp_path / "a")
    edit("adapter_config.json", base_model_name_or_path="/old/place/base")(moved)
    with pytest.raises(Qwen3labError) as error:
        training.load_adapter(moved)
    assert str(error.value) == (
        "The adapter 'a' was trained on '/old/place/base', which is not there any more. Name the"
        " place of that model beside it, or put the model back."
    )
    assert training.load_adapter(moved, base)[0].config.name_or_path == str(base)
    monkeypatch.setenv("QWEN3LAB_MODELS", str(base.parent))  # where the model is now
    assert training.load_adapter(moved)[0].config.name_or_path == str(base)
    edit("adapter_config.json", base_model_name_or_path=None)(moved)
    with pytest.raises(Qwen3labError, match="does not say on which model it was trained"):
        training.load_adapter(moved)


def test_an_adapter_on_an_adapter(base, adapter, tmp_path):
    model, _ = training.load_adapter(adapter, base)
    with pytest.raises(Qwen3labError, match="carries an adapter already"):
        training.load_adapter(adapter, model)
    second = shutil.copytree(adapter, tmp_path / "second")
    edit("adapter_config.json", base_model_name_or_path=str(adapter))(second)
    with pytest.raises(Qwen3labError, match="or merge it first"):
        training.load_adapter(second)


def test_a_run_with_checkpoints_alone(adapter, tmp_path):
    for step in (9, 12):
        shutil.copytree(adapter, tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(Qwen3labError, match="Give the folder .* for example 'checkpoint-12'"):
        training.load_adapter(tmp_path / "run")


def test_a_model_without_a_tokenizer(base, tmp_path):
    """The library would make one of a single token out of the config."""
    bare = shutil.copytree(base, tmp_path / "bare")
    drop("tokenizer.json")(bare)
    with pytest.raises(Qwen3labError, match="'bare' holds no tokenizer"):
        models.load(bare)
    assert len(models.load_tokenizer(bare, base)) == 259


def test_templates_in_every_place(base, adapter, tmp_path):
    """The template beside the adapter counts, wherever it is; one that is nowhere is the base's."""
    own = shutil.copytree(base, tmp_path / "base")
    put("chat_template.jinja", "the base's")(own)
    names = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
    for number, (change, template) in enumerate(
        [
            (drop(names[0]), "the base's"),
            (put(names[0], "J"), "J"),
            (both(put(names[0], "J"), edit(names[1], chat_template="C")), "J"),
            (both(drop(names[0]), edit(names[1], chat_template="C")), "C"),
            (both(drop(names[0]), put(names[2], '{"chat_template": "O"}')), "O"),
            (both(drop(*names, "tokenizer.json"), put(names[0], "J")), "J"),
            (both(drop(names[0], "tokenizer.json"), edit(names[1], chat_template="C")), "C"),
        ]
    ):
        folder = shutil.copytree(adapter, tmp_path / f"a{number}")
        change(folder)
        assert models.load_tokenizer(folder, own).chat_template == template, number
        assert training.load_adapter(folder, own)[1].chat_template == template, number
    (folder / "additional_chat_templates").mkdir()
    drop(names[0], names[1])(folder)
    shutil.copy(base / "tokenizer.json", folder)
    put("additional_chat_templates/tool_use.jinja", "T")(folder)
    found = models.load_tokenizer(folder, own).chat_template
    assert sorted(found) == ["default", "tool_use"] and found["tool_use"] == "T"


def test_settings_without_a_vocabulary(base, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "a")
    drop("tokenizer.json")(folder)
    edit("tokenizer_config.json", eos_token="<|endoftext|>", padding_side="left")(folder)
    tokenizer = models.load_tokenizer(folder, base)
    assert (tokenizer.eos_token, tokenizer.padding_side) == ("<|endoftext|>", "left")


def test_ends_that_the_settings_state(base, adapter, tmp_path):
    """An end beside an adapter or a checkpoint ends its answers, as a number or a list."""
    model, tokenizer = training.load_adapter(adapter, base)
    prompt = tokenizer("Where?").input_ids
    (answer,) = generate_ids(model, tokenizer, [prompt], max_new_tokens=20)
    stop = answer[6]
    for stated in (stop, [258, stop]):
        folder = shutil.copytree(adapter, tmp_path / f"a-{stated}")
        put("generation_config.json", json.dumps({"eos_token_id": stated}))(folder)
        model, tokenizer = training.load_adapter(folder, base)
        assert end_tokens(tokenizer, model) == sorted({256, 258, stop})
        cut = generate_ids(model, tokenizer, [prompt], max_new_tokens=20)
        assert cut == [answer[: answer.index(stop)]]
    whole = shutil.copytree(base, tmp_path / "whole")
    put("generation_config.json", json.dumps({"eos_token_id": stop}))(whole)
    model, tokenizer = models.load(whole)
    assert stop in end_tokens(tokenizer, model)
    assert beside.generation(base) is not None and beside.generation(adapter) is None


def test_a_chat_adapter_on_a_base_model_ends_turns(base, adapter, tmp_path):
    """The merged model's settings state the ends of the tokenizer that goes along."""
    text = shutil.copytree(base, tmp_path / "text")
    put("generation_config.json", json.dumps({"eos_token_id": 256}))(text)
    quantization.merge(text, adapter, tmp_path / "merged")
    stated = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert stated["eos_token_id"] == [256, 258]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_in_parts_and_formats(tied, dtype, adapter, tmp_path):
    """A base in several files, in either format, tied or not, and a larger table."""
    whole = make_checkpoint(tmp_path / "whole", tie_word_embeddings=tied)
    model, tokenizer = models.load(whole, dtype=dtype)
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    model, _ = models.load(tmp_path / "parts", dtype="float32")
    model.resize_token_embeddings(270)
    torch.manual_seed(0)
    adapted = training.add_lora(model, r=2).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(tmp_path / "a")
    ids = torch.tensor([tokenizer("abc").input_ids])
    with torch.inference_mode():
        wanted = adapted(input_ids=ids).logits
    found = quantization.merge(tmp_path / "parts", tmp_path / "a", tmp_path / "merged", probe="abc")
    merged, _ = models.load(found.path, dtype="float32")
    assert json.loads((found.path / "config.json").read_text())["dtype"] == dtype
    with torch.inference_mode():
        distance = (merged(input_ids=ids).logits - wanted).abs().max().item()
    assert merged.get_input_embeddings().weight.shape == (270, 32)
    assert distance == pytest.approx(found.rounding, abs=1e-5 * found.scale)


def test_a_bundled_adapter_is_put_on_without_a_word(recwarn):
    from qwen3lab import paths, training

    training.load_adapter(paths.DATA / "adapters" / "tone", "qwen3-tiny")
    assert [str(one.message) for one in recwarn if "qwen3-tiny" in str(one.message)] == []
