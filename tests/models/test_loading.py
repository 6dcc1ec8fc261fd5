"""Finding and loading models, and the one clear sentence for each way in which that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3lab import models, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading


@pytest.fixture
def home(tmp_path, monkeypatch, checkpoint) -> Path:
    """A data/models with one bundled checkpoint, "mine"."""
    bundled = tmp_path / "bundled"
    shutil.copytree(checkpoint, bundled / "mine")
    monkeypatch.setattr(paths, "MODELS", bundled)
    return bundled


def test_the_order_of_places(home, tmp_path, monkeypatch, checkpoint):
    assert models.resolve("mine") == home / "mine"
    assert models.resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("QWEN3LAB_MODELS", str(mirror))
    assert models.resolve("mine") == home / "mine"  # an empty mirror hides nothing
    shutil.copytree(checkpoint, mirror / "mine")
    shutil.copytree(checkpoint, mirror / "Qwen3-0.6B")
    assert models.resolve("mine") == mirror / "mine"  # the mirror comes before the bundled ones
    assert models.resolve("Qwen/Qwen3-0.6B") == mirror / "Qwen3-0.6B"
    shutil.copytree(checkpoint, mirror / "Qwen" / "Qwen3-0.6B")
    assert (
        models.resolve("Qwen/Qwen3-0.6B") == mirror / "Qwen" / "Qwen3-0.6B"
    )  # the full id comes before its last part
    assert models.resolve(checkpoint) == checkpoint  # a folder is itself
    assert models.resolve(str(checkpoint)) == checkpoint


def test_roles_follow_the_dial(tmp_path, monkeypatch):
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    assert models.resolve("chat") == "Qwen/Qwen3-0.6B"
    assert models.resolve("base") == "Qwen/Qwen3-0.6B-Base"
    assert models.resolve("embedding") == "Qwen/Qwen3-Embedding-0.6B"


def test_the_folder_of_a_hub_id_is_fetched(monkeypatch, checkpoint):
    import huggingface_hub

    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(loading, "_hub_answers", lambda: False)
    assert models.folder(checkpoint) == checkpoint and not asked
    assert models.folder("Qwen/Qwen3-0.6B") == checkpoint
    assert asked == [("Qwen/Qwen3-0.6B", {"local_files_only": True})]
    assert loading.config("Qwen/Qwen3-0.6B")["hidden_size"] == 32


@pytest.mark.parametrize("name", ["qwen3-tiny-mo", "", "no/such/thing", "./nowhere", "../mine"])
def test_missing_checkpoint(home, name):
    with pytest.raises(Qwen3labError) as error:
        models.load(name)
    assert str(error.value) == f"There is no checkpoint {name!r}. Bundled are: mine."


def test_missing_checkpoint_in_an_incomplete_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    with pytest.raises(Qwen3labError) as error:
        models.load("chat")
    assert (
        str(error.value)
        == "There is no checkpoint 'qwen3-tiny'. Run `git checkout -- data/models` or `make models`"
        " to restore the bundled ones."
    )


@pytest.mark.parametrize("load", [models.load, models.load_tokenizer, models.load_embedding])
def test_hub_id_without_a_network(load, tmp_path, monkeypatch):
    """The whole test run has HF_HUB_OFFLINE=1, so a hub id that is not in the cache cannot be
    fetched.
    """
    with pytest.raises(Qwen3labError) as error:
        load("Qwen/Qwen3-Nowhere-0.6B")
    text = str(error.value)
    assert text.startswith(
        "'Qwen/Qwen3-Nowhere-0.6B' is neither on this machine nor could it be fetched from the"
        " hub ("
    )
    assert (
        text.endswith("or go back to QWEN3LAB_PROFILE=tiny.")
        and "\n" not in text
        and "QWEN3LAB_MODELS" in text
    )


def test_loads_in_eval_mode_with_the_profiles_dtype(checkpoint, moe_checkpoint):
    import torch

    model, tokenizer = models.load(checkpoint)
    assert not model.training and model.dtype == torch.float32 and model.device.type == "cpu"
    assert type(model).__name__ == "Qwen3ForCausalLM" and tokenizer("hi").input_ids == [
        tokenizer.convert_tokens_to_ids(c) for c in "hi"
    ]
    moe, _ = models.load(moe_checkpoint, dtype="bfloat16")
    assert type(moe).__name__ == "Qwen3MoeForCausalLM" and moe.dtype == torch.bfloat16
    assert torch.get_num_threads() == 1


def test_loaded_weights_are_the_saved_ones(checkpoint):
    from safetensors.torch import load_file

    saved = load_file(checkpoint / "model.safetensors")
    loaded = models.load(checkpoint)[0].state_dict()
    assert saved and all(loaded[name].equal(tensor) for name, tensor in saved.items())


def test_a_tokenizer_without_a_template_gets_qwen3s(checkpoint):
    tokenizer = models.load_tokenizer(checkpoint)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def broken(checkpoint: Path, folder: Path, change) -> Path:
    copy = folder / "broken"
    shutil.copytree(checkpoint, copy)
    change(copy)
    return copy


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def scramble_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(
        b"\x20" + b"\0" * 7 + b"this is no header of a tensor fi" + file.read_bytes()[40:]
    )


@pytest.mark.parametrize(
    "change",
    [
        cut,
        scramble_header,
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").write_text(
            "version https://git-lfs\noid sha256:0\n"
        ),
    ],
)
def test_damaged_safetensors(checkpoint, tmp_path, change):
    with pytest.raises(Qwen3labError) as error:
        models.load(broken(checkpoint, tmp_path, change))
    text = str(error.value)
    assert (
        text.startswith("The weights file model.safetensors of 'broken' is damaged (")
        and "\n" not in text
    )
    assert text.endswith("for a bundled model run `git checkout -- data/models/broken`.")


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def drop_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            pickle_only,
            (
                "'broken' holds no safetensors weights, and pickled weights are never loaded. Save"
                " the model again with save_pretrained()."
            ),
        ),
        (
            adapter,
            (
                "'broken' is a LoRA adapter, not a whole model. Give the folder that holds"
                " config.json and model.safetensors, or merge it first"
                " (qwen3lab.quantization.merge)."
            ),
        ),
        (
            lambda folder: (folder / "config.json").unlink(),
            (
                "'broken' is no model folder (no config.json). Give the folder that holds"
                " config.json and model.safetensors."
            ),
        ),
        (
            drop_weight,
            (
                "The checkpoint 'broken' lacks 1 weights that its config asks for, for example"
                " model.layers.1.mlp.up_proj.weight. Save the model again, or restore it from its"
                " source."
            ),
        ),
    ],
)
def test_folders_that_hold_no_whole_model(checkpoint, tmp_path, change, sentence):
    with pytest.raises(Qwen3labError) as error:
        models.load(broken(checkpoint, tmp_path, change))
    assert str(error.value) == sentence


def test_damaged_config(checkpoint, tmp_path):
    with pytest.raises(
        Qwen3labError,
        match=(
            "'broken' could not be loaded .*config.json.* Save the model and its tokenizer again."
        ),
    ):
        models.load(
            broken(
                checkpoint,
                tmp_path,
                lambda folder: (folder / "config.json").write_text('{"model_type": "qwen3",'),
            )
        )


def test_a_plain_model_is_no_embedding_model(checkpoint):
    with pytest.raises(Qwen3labError, match="'dense-checkpoint' is no embedding model"):
        models.load_embedding(checkpoint)


def test_embedding_model(checkpoint, tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    body = Transformer(str(checkpoint))
    saved = SentenceTransformer(
        modules=[body, Pooling(32, pooling_mode="lasttoken"), Normalize()], device="cpu"
    )
    saved.save(str(tmp_path / "embedding"))
    model = models.load_embedding(tmp_path / "embedding")
    vectors = model.encode(["one", "two words"], convert_to_tensor=True)
    assert vectors.shape == (2, 32) and torch.allclose(
        vectors.norm(dim=1), torch.ones(2), atol=1e-6
    )
    assert torch.allclose(
        vectors, saved.encode(["one", "two words"], convert_to_tensor=True), atol=1e-6
    )


@pytest.mark.all_cpus
def test_threads_for_a_small_and_a_large_model():
    import torch

    before = torch.get_num_threads()
    try:
        assert models.set_threads(1_000_000) == 1
        assert models.set_threads(10**9) == models.cpus()
    finally:
        torch.set_num_threads(before)


def test_an_unreachable_hub_is_noticed_at_once(tmp_path):
    """Nothing listens on port 9, so this is a machine without a network: the sentence must not take
    a minute of retries.
    """
    code = (
        "import time, torch, transformers; from qwen3lab import models; start ="
        " time.perf_counter()\ntry: models.load('Qwen/Qwen3-0.6B')\nexcept RuntimeError as error:"
        " print(error)\nprint(time.perf_counter() - start)"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "NO_PROXY": "*",
    }
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    sentence, seconds = ran.stdout.strip().splitlines()
    assert (
        sentence.startswith("'Qwen/Qwen3-0.6B' is neither on this machine nor")
        and float(seconds) < 15
    )


@pytest.mark.all_cpus
def test_cpus_where_the_system_tells_only_how_many_there_are(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert loading.cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert loading.cpus() == 1
