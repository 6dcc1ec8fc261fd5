"""The choice of device and format, for what torch reports on machines that are not here."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import pretend
from hypothesis import given
from hypothesis import strategies as st

from qwen3lab import profiles
from qwen3lab.memory import devices, planner

# What torch reports: the arguments of `helpers.pretend`.
T4 = {"gpu": "Tesla T4", "capability": (7, 5)}
P100 = {"gpu": "Tesla P100-PCIE-16GB", "capability": (6, 0)}
L4 = {"gpu": "NVIDIA L4", "capability": (8, 9)}
M2 = {"apple": "Apple M2"}

EVERY = {
    "cpu": ({}, "cpu", "float32", "bfloat16"),
    "L4": (L4, "cuda", "bfloat16", "bfloat16"),
    "T4": (T4, "cuda", "float16", "float16"),
    "P100, this build": (P100, "cpu", "float32", "bfloat16"),
    "P100, older build": (P100 | {"archs": ["sm_60", "sm_70"]}, "cuda", "float16", "float16"),
    "M2": (M2, "mps", "float32", "bfloat16"),
    "M2, macOS 13": (M2 | {"macos": 13}, "mps", "float32", "float32"),
}


@pytest.mark.parametrize("name", EVERY)
def test_device_and_format(name, monkeypatch):
    reported, kind, small, large = EVERY[name]
    pretend(monkeypatch, **reported)
    for size, dtype in ((False, small), (True, large)):
        found = devices.find(large=size)
        assert (found.kind, found.dtype) == (kind, dtype)
        product = reported.get("gpu") or reported.get("apple") or ""
        assert found.name == (product if kind != "cpu" else "")
        device, why = found.reasons[:2]
        assert device.startswith("the CPU" if kind == "cpu" else "the GPU") and product in device
        assert why.startswith(f"{dtype}: ")
        assert not any("\n" in reason for reason in found.reasons)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("profile", ["small", "medium", "large"])
def test_profiles_follow_the_device_and_say_why(name, profile, monkeypatch):
    reported, kind, small, large = EVERY[name]
    pretend(monkeypatch, **reported)
    made = profiles.get(profile)
    assert (made.device, made.dtype) == (kind, small if profile == "small" else large)
    found = devices.find(large=profile != "small")
    assert made.reasons[: len(found.reasons)] == found.reasons
    assert all(f"because  {reason}" in made.describe() for reason in found.reasons)
    # The tiny profile is the same everywhere.
    assert (profiles.get("tiny").device, profiles.get("tiny").dtype) == ("cpu", "float32")


def test_what_is_said_of_a_t4(monkeypatch):
    pretend(monkeypatch, **T4)
    assert devices.find() == devices.Device(
        "cuda",
        "Tesla T4",
        "float16",
        (
            "the GPU: torch sees Tesla T4",
            "float16: the GPU has no bfloat16 of its own; the loss is scaled, and what is trained"
            " is float32",
            "float16 ends at 65,504 and Qwen3 was trained in bfloat16, which does not: a step that"
            " overflows is left out and counted",
        ),
    )
    assert torch.finfo(torch.float16).max == 65_504


def test_what_is_said_of_a_card_without_kernels(monkeypatch):
    pretend(monkeypatch, **P100)
    assert devices.find().reasons == (
        "the CPU: torch sees Tesla P100-PCIE-16GB, but this build of torch has no kernels for it"
        " (compute capability 6.0); use another GPU or another build",
        "float32: bfloat16 is emulated on most CPUs and slower there",
    )


def test_the_memory_of_each_device(monkeypatch):
    pretend(monkeypatch, **T4, memory=15_828_320_256)
    assert planner.machine_bytes("cuda") == 15_828_320_256
    pretend(monkeypatch, **M2, memory=11_453_251_584)
    assert planner.machine_bytes("mps") == 11_453_251_584
    needed = profiles.needs(profiles.get("small"))
    assert needed.total <= 11_453_251_584 and profiles.check_fits(profiles.get("small"))


@pytest.mark.parametrize(
    "capability, archs, runs",
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((6, 0), ["sm_75", "sm_80", "sm_120"], False),
        ((8, 9), ["sm_80"], True),  # binaries run on their own generation from their number on
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_80", "compute_120"], True),  # PTX runs on everything later
        ((10, 0), ["compute_120"], False),
        ((6, 0), [], True),  # a build that does not tell
        ((9, 4), ["gfx90a", "gfx942"], True),  # AMD
    ],
)
def test_kernels(capability, archs, runs):
    assert devices.has_kernels(capability, archs) is runs


@given(
    st.tuples(st.integers(5, 12), st.integers(0, 9)),
    st.lists(st.integers(50, 129).map("sm_{}".format), min_size=1),
    st.integers(50, 129).map("compute_{}".format),
)
def test_more_kernels_never_hurt(capability, archs, more):
    before = devices.has_kernels(capability, archs)
    assert devices.has_kernels(capability, [*archs, more]) >= before
    assert devices.has_kernels(capability, [*archs, "sm_{}{}".format(*capability)])


def test_autocast_by_device_and_format():
    assert {
        (kind, dtype): tuple(devices.autocast(kind, dtype).values())
        for kind in ("cuda", "mps", "cpu")
        for dtype in ("float32", "bfloat16", "float16")
    } == {
        ("cuda", "float32"): (False, False),
        ("cuda", "bfloat16"): (True, False),
        ("cuda", "float16"): (False, True),
        ("mps", "float32"): (False, False),
        ("mps", "bfloat16"): (True, False),
        ("mps", "float16"): (False, True),
        ("cpu", "float32"): (False, False),
        ("cpu", "bfloat16"): (False, False),
        ("cpu", "float16"): (False, False),
    }
    assert list(devices.autocast("cuda", "float16")) == ["bf16", "fp16"]


def test_the_sentence_about_training_is_that_of_autocast():
    for kind in ("cuda", "mps", "cpu"):
        for dtype in ("float32", "bfloat16", "float16"):
            said = devices.Device(kind, "", dtype, ()).training
            on = [name for name, is_on in devices.autocast(kind, dtype).items() if is_on]
            named = {"bf16": "bfloat16 autocast", "fp16": "float16 autocast, the loss scaled"}
            assert said.endswith(named[on[0]] if on else "no autocast"), said


def test_the_choice_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        devices.find().dtype = "float16"
