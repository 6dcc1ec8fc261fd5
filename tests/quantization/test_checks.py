"""What a quantisation does not take is refused with a sentence, before its library is asked for."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers import make_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3lab import models, quantization, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.quantization import checks, gptq_checkpoints, variants

TEXTS = ["The Basdru mug costs 8 euros.", "手册里怎么写？"]


@pytest.fixture()
def library(monkeypatch):
    """Stands for gptqmodel, which is not in this environment: what reaches it has been checked."""

    class Reached(Exception):
        pass

    def reached():
        raise Reached

    monkeypatch.setattr(gptq_checkpoints, "quiet_gptqmodel", reached)
    return Reached


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bits": 5}, "GPTQ has no 5 bits. Use one of: 2, 3, 4, 8."),
        ({"bits": "4"}, "GPTQ has no '4' bits. Use one of: 2, 3, 4, 8."),
        ({"bits": True}, "GPTQ has no True bits. Use one of: 2, 3, 4, 8."),
        ({"group_size": 0}, "0 is no group size."),
        ({"group_size": -2}, "-2 is no group size."),
        ({"group_size": 32.0}, "32.0 is no group size."),
        ({"group_size": 48}, "The hidden_size of 'dense-checkpoint' is 32, which does not divide"),
        ({"batch_size": 0}, "0 texts cannot be a batch."),
        ({"bits": 3}, "3-bit codes are packed 32 at a time."),  # keys and values are 16 wide
    ],
)
def test_numbers(options, sentence, checkpoint, tmp_path, library):
    with pytest.raises(Qwen3labError) as error:
        quantization.gptq(checkpoint, tmp_path / "new", TEXTS, **({"group_size": 32} | options))
    assert sentence in str(error.value) and not (tmp_path / "new").exists()


def test_every_width_of_a_layer_counts(tmp_path, library):
    for changes, field in (
        ({"intermediate_size": 80}, "intermediate_size"),
        ({"num_attention_heads": 6}, "num_attention_heads * head_dim"),
    ):
        odd = make_checkpoint(tmp_path / field[:5], **changes)
        with pytest.raises(Qwen3labError) as error:
            quantization.gptq(odd, tmp_path / "new", TEXTS, group_size=32)
        assert str(error.value).startswith(f"The {field} of ")


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([], "GPTQ needs texts to measure the layers' errors on."),
        ("one text", "GPTQ was given one text where it takes a list of them."),
        (b"bytes", "GPTQ was given one text"),
        (None, "GPTQ takes a list of texts to measure the layers' errors on, not NoneType."),
        ({"text": 1}, "not dict."),
        (7, "not int."),
        ([""], "Calibration text 1 of 1 is empty, so it measures nothing."),
        (["good", " \n"], "Calibration text 2 of 2 is empty"),
        (["good", 7], "Calibration text 2 of 2 is no text but int."),
        ([["good"]], "Calibration text 1 of 1 is no text but list."),
        ([{"input_ids": [1]}], "Calibration text 1 of 1 is no text but dict."),
        (["<|im_start|><|im_end|>\n"], "Calibration text 1 of 1 consists of control tokens alone"),
        (["half \ud800"], "Calibration text 1 of 1 holds half of a character"),
        (["x" * 70], "Calibration text 1 of 1 has 70 tokens, and the model's context is 64."),
        ((text for text in ()), "GPTQ needs texts"),
    ],
)
def test_texts(texts, sentence, tmp_path, library, short):
    with pytest.raises(Qwen3labError) as error:
        quantization.gptq(short, tmp_path / "new", texts, group_size=32)
    assert sentence in str(error.value) and str(error.value).endswith(".")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A model with a context of 64 tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("short") / "s", max_position_embeddings=64)


@pytest.mark.parametrize(
    "texts",
    [["手册里怎么写？"], (text for text in TEXTS), {"a text", "another"}, ["x" * 64], ["<b>"]],
)
def test_texts_that_work(texts, tmp_path, library, short):
    with pytest.raises(library):
        quantization.gptq(short, tmp_path / "new", texts, group_size=32)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ODD)
def test_anything_as_texts_gets_a_sentence_or_is_texts(given):
    tokenizer = models.load_tokenizer("qwen3-tiny")
    try:
        found = checks.texts(given, tokenizer, "GPTQ", 100)
    except Qwen3labError as error:
        assert str(error).count(". ") >= 1 and str(error).endswith(".")
        return
    assert found == list(given) and all(isinstance(t, str) and t.strip() for t in found)


@settings(max_examples=200, deadline=None)
@given(ODD, ODD)
def test_any_numbers_get_a_sentence_or_divide(bits, group_size):
    config = {"hidden_size": 96, "intermediate_size": 192}
    try:
        checks.groups(config, "m", "GPTQ", bits, group_size)
    except Qwen3labError as error:
        assert str(error).endswith(".")
        return
    assert bits in (2, 3, 4, 8) and (group_size == -1 or 96 % group_size == 0)


def test_awq_has_four_bits():
    checks.groups({"hidden_size": 128}, "m", "AWQ", 4, 128)
    with pytest.raises(Qwen3labError, match="AWQ has no 8 bits. Use one of: 4."):
        checks.groups({"hidden_size": 128}, "m", "AWQ", 8, 128)


def test_nothing_that_lies_there_is_deleted(checkpoint, tmp_path, library):
    """A folder with other things, the model's own, one around it, and a file are refused."""
    model = shutil.copytree(checkpoint, tmp_path / "models" / "m")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.md").write_text("my work")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for place, sentence in (
        ("thesis", "'thesis' is a folder that is not empty"),
        ("file", "'file' is a file"),
        ("models/m", "'m' is to be written, and the model is read from there"),
        ("models", "'models' is to be written, and the model is read from there"),
    ):
        with pytest.raises(Qwen3labError) as error:
            quantization.gptq(model, tmp_path / place, TEXTS, group_size=32)
        assert str(error.value).startswith(sentence)
    assert (tmp_path / "thesis" / "text.md").read_text() == "my work" and (
        tmp_path / "file"
    ).exists()
    with pytest.raises(library):
        quantization.gptq(model, tmp_path / "empty", TEXTS, group_size=32)


def test_sources_that_cannot_be_quantised(checkpoint, tmp_path, library):
    adapter = tmp_path / "adapter"
    training.add_lora(models.load(checkpoint)[0], r=2).save_pretrained(adapter)
    packed = shutil.copytree(checkpoint, tmp_path / "packed")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    old = shutil.copytree(checkpoint, tmp_path / "old")
    (old / "quantize_config.json").write_text("{}")
    makers = {
        "gptq": lambda source: quantization.gptq(source, tmp_path / "new", TEXTS, group_size=32),
        "gguf": lambda source: quantization.to_gguf(source, tmp_path / "new.gguf"),
        "kept gptq": lambda source: variants.gptq(source, TEXTS, group_size=32),
        "nf4": lambda source: variants.bitsandbytes(source, "nf4"),
    }
    for make in makers.values():
        for source, sentence in (
            (adapter, "'adapter' is a LoRA adapter, not a whole model. Merge it first"),
            (packed, "'packed' is quantised already."),
            (old, "'old' is quantised already."),
        ):
            with pytest.raises(Qwen3labError) as error:
                make(source)
            assert str(error.value).startswith(sentence)
    with pytest.raises(Qwen3labError, match="'packed' is quantised already"):
        models.load_4bit(packed)
    assert not list(tmp_path.glob("new*")) and not list(tmp_path.glob(".draft*"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"double_quant": "yes"}, "double_quant is True or False, not 'yes'."),
        ({"quantization_config": {}}, "load_4bit stores NF4 and takes no 'quantization_config'."),
        ({"bnb_4bit_quant_type": "fp4"}, "load_4bit stores NF4 and takes no 'bnb_4bit_quant_type'"),
        ({"load_in_8bit": True}, "load_4bit stores NF4 and takes no 'load_in_8bit'."),
        ({"dtype": "float8"}, "There is no dtype 'float8'"),
        ({"dtype": "int8"}, "There is no dtype 'int8'"),
    ],
)
def test_settings_of_nf4(options, sentence, checkpoint):
    with pytest.raises(Qwen3labError) as error:
        models.load_4bit(checkpoint, **options)
    assert str(error.value).startswith(sentence)


def test_places_of_a_gguf_file(checkpoint, tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "file").write_text("mine")
    for place in ("folder.gguf", "file/m.gguf"):
        with pytest.raises(Qwen3labError, match="cannot be written"):
            quantization.to_gguf(checkpoint, tmp_path / place)
    for kind in ("Q4_K_M", "q4", None, ["f16"], 16):
        with pytest.raises(Qwen3labError, match="Unknown GGUF type .* Use one of: f32, f16, bf16"):
            quantization.to_gguf(checkpoint, tmp_path / "m.gguf", kind)
    assert not list(tmp_path.glob("*/*")) and (tmp_path / "file").read_text() == "mine"


def test_rows_of_unfit_length_are_told(tmp_path, capsys):
    """Of 15 matrices (7 in each of two layers, and the table) all have rows of 256 but two."""
    folder = make_checkpoint(tmp_path / "m", hidden_size=256, intermediate_size=96, head_dim=64)
    capsys.readouterr()
    quantization.to_gguf(folder, tmp_path / "m.gguf", "q4_k_m")
    said = "q4_k_m: rows of unfit length, so of 15 matrices are stored 2 as q8_0\n"
    assert capsys.readouterr().out == said
    quantization.to_gguf(folder, tmp_path / "m.gguf", "q4_0")
    assert capsys.readouterr().out == ""


def test_a_file_that_could_not_be_made_leaves_the_old_one(checkpoint, tmp_path, monkeypatch):
    file = quantization.to_gguf(checkpoint, tmp_path / "m.gguf", "f32")
    before = file.read_bytes()
    monkeypatch.setattr(quantization.gguf, "_convert", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quantization.to_gguf(checkpoint, file, "f32")
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["m.gguf"]


def test_merging_into_what_it_reads_is_refused(checkpoint, tmp_path):
    adapter = tmp_path / "adapter"
    training.add_lora(models.load(checkpoint)[0], r=2).save_pretrained(adapter)
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    for place in (adapter, checkpoint):
        with pytest.raises(Qwen3labError, match="is to be written and to be read at once"):
            quantization.merge(checkpoint, adapter, place)
    with pytest.raises(Qwen3labError, match="There is no dtype 'int8' to compute in"):
        quantization.merge(checkpoint, adapter, tmp_path / "new", dtype="int8")
    with pytest.raises(Qwen3labError, match="is a LoRA adapter, not a whole model"):
        quantization.merge(adapter, adapter, tmp_path / "new")
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    assert loading.resolve(checkpoint) == checkpoint
