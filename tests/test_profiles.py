"""The dial."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import qwen3lab
from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import planner

GB = 10**9


def test_default_is_tiny(monkeypatch):
    monkeypatch.delenv("QWEN3LAB_PROFILE")
    assert profiles.get().name == "tiny"
    monkeypatch.setenv("QWEN3LAB_PROFILE", "")
    assert profiles.get().name == "tiny"


def test_environment_names_the_profile(monkeypatch):
    monkeypatch.setenv("QWEN3LAB_PROFILE", " Small ")
    assert profiles.get().name == "small"
    assert profiles.get("medium").name == "medium"


@pytest.mark.parametrize("name", ["huge", "tiny-", "../tiny"])
def test_unknown_profile(name, monkeypatch):
    expected = re.escape(
        f"There is no profile {name!r}. Set QWEN3LAB_PROFILE to one of: tiny, small, medium, large."
    )
    with pytest.raises(Qwen3labError, match=expected):
        qwen3lab.use(name)
    monkeypatch.setenv("QWEN3LAB_PROFILE", name)
    with pytest.raises(Qwen3labError, match=expected):
        qwen3lab.profile()


@pytest.mark.parametrize("name", profiles.NAMES)
def test_every_profile_is_complete(name):
    profile = profiles.get(name)
    assert all(getattr(profile, role) for role in ("chat", "base", "moe", "draft", "embedding"))
    assert profile.dtype in ("float32", "bfloat16") and profile.reasons
    assert profile.max_length > 0 and profile.batch_size > 0 and profile.steps > 0
    text = profile.describe()
    assert all(
        part in text
        for part in (name, profile.chat, profile.dtype, profile.device, *profile.reasons)
    )
    with pytest.raises(AttributeError):
        profile.name = "other"


def test_tiny_says_the_same_on_every_machine():
    assert not re.search(r"\d+(\.\d+)? ?GB|cuda", profiles.get("tiny").describe())


def test_use_turns_the_dial_for_this_process_and_its_children(monkeypatch):
    monkeypatch.setattr(planner, "machine_bytes", lambda device="cpu": 100 * GB)
    assert qwen3lab.use("small").name == "small" == os.environ["QWEN3LAB_PROFILE"]
    assert qwen3lab.profile().name == "small"
    seen = subprocess.run(
        [sys.executable, "-c", "from qwen3lab import profiles; print(profiles.get().name)"],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
        check=True,
    )
    assert seen.stdout.strip() == "small"


# The sentences are those of a machine without a GPU, so that they are the same on every one.
@pytest.fixture
def _no_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(
    "name, room, needed, nearest",
    [
        (
            "large",
            24 * GB,
            "62.1 GB for LoRA on Qwen/Qwen3-30B-A3B, but this machine has 24.0 GB",
            "Set QWEN3LAB_PROFILE=medium or call qwen3lab.use('medium'), which needs 19.50 GB.",
        ),
        (
            "large",
            8 * GB,
            "62.1 GB for LoRA on Qwen/Qwen3-30B-A3B, but this machine has 8.0 GB",
            "Set QWEN3LAB_PROFILE=small or call qwen3lab.use('small'), which needs 3.02 GB.",
        ),
        (
            "medium",
            8 * GB,
            "19.5 GB for LoRA on Qwen/Qwen3-8B, but this machine has 8.0 GB",
            "QWEN3LAB_PROFILE=small",
        ),
        (
            "small",
            2 * GB,
            "3.0 GB for LoRA on Qwen/Qwen3-0.6B, but this machine has 2.0 GB",
            "QWEN3LAB_PROFILE=tiny",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_figure_and_a_way_out(name, room, needed, nearest):
    with pytest.raises(Qwen3labError) as error:
        profiles.check_fits(profiles.get(name), available=room)
    assert str(error.value).startswith(f"Profile {name!r} needs {needed}. ") and nearest in str(
        error.value
    )


@pytest.mark.usefixtures("_no_gpu")
def test_use_and_profile_refuse_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(planner, "machine_bytes", lambda device="cpu": 16 * GB)
    with pytest.raises(Qwen3labError, match="Profile 'large' needs"):
        qwen3lab.use("large")
    assert os.environ["QWEN3LAB_PROFILE"] == "tiny"
    monkeypatch.setenv("QWEN3LAB_PROFILE", "large")
    with pytest.raises(Qwen3labError, match="Profile 'large' needs"):
        qwen3lab.profile()


@pytest.mark.usefixtures("_no_gpu")
def test_a_heavier_method_can_be_asked_for():
    profiles.check_fits(profiles.get("medium"), available=24 * GB)
    with pytest.raises(Qwen3labError, match="needs 133.5 GB for full fine-tuning on Qwen/Qwen3-8B"):
        profiles.check_fits(profiles.get("medium"), method="full", available=24 * GB)


def test_nothing_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    (tmp_path / "qwen3-tiny").mkdir()
    (tmp_path / "qwen3-tiny" / "config.json").write_text(
        '{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,'
        ' "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 4096}'
    )
    with pytest.raises(
        Qwen3labError, match="this machine has 0.0 GB. Use a machine with more memory."
    ):
        profiles.check_fits(profiles.get("tiny"), available=1000)
