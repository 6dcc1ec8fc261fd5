"""A Modelfile samples as the settings beside the model say, and no command asks for what fails."""

from __future__ import annotations

import pytest
from helpers import make_checkpoint
from transformers import GenerationConfig

from qwen3lab import models, training
from qwen3lab.tuning import deploy

RECORD = {"model": "Qwen/Qwen3-0.6B", "method": "lora", "adapter": {"r": 4}}


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (None, ["temperature 0"]),
        ({"do_sample": False, "temperature": 0.6}, ["temperature 0"]),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
            ["temperature 0.6", "top_k 20", "top_p 0.95", "min_p 0", "repeat_penalty 1"],
        ),
        (
            {"do_sample": True, "min_p": 0.05, "repetition_penalty": 1.1},
            ["temperature 1", "top_k 50", "top_p 1", "min_p 0.05", "repeat_penalty 1.1"],
        ),
    ],
)
def test_sampling(settings, lines):
    found = settings and GenerationConfig.from_dict(settings)
    assert deploy.sampling(found) == "\n".join(f"PARAMETER {line}" for line in lines)


def test_a_modelfile_ends_with_its_parameters():
    tokenizer = models.load_tokenizer("qwen3-tiny")
    plain = deploy.modelfile(tokenizer, "m.gguf")
    assert plain.endswith('PARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\n')
    warm = GenerationConfig(do_sample=True, temperature=0.7)
    text = deploy.modelfile(tokenizer, "m.gguf", settings=warm)
    assert text == plain.replace("temperature 0\n", deploy.sampling(warm)[10:] + "\n")


@pytest.mark.parametrize(
    "changes", [{}, {"trainable_token_indices": [5]}, {"modules_to_save": ["lm_head"]}]
)
def test_vllm_serves_an_adapter_with_its_own_tokenizer(changes, tmp_path):
    """With embeddings of its own it would be refused, and is not offered."""
    model, _ = models.load(make_checkpoint(tmp_path / "base"))
    training.add_lora(model, r=4, **changes).save_pretrained(tmp_path / "run")
    text = deploy.commands(tmp_path / "run", RECORD)
    line = (
        "vllm serve Qwen/Qwen3-0.6B --tokenizer FOLDER --enable-lora --max-lora-rank 8"
        " --lora-modules tuned=FOLDER\n"
    )
    assert text.count(line) == (not changes) and text.count("vllm") == (not changes)
