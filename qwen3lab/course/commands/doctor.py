"""Implement `qwen3lab doctor`: report what this machine has and which profiles it can run."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from typing import Any

from qwen3lab import paths, profiles
from qwen3lab.course import commands
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import devices, planner

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets")
# Not needed where models are only trained and examined (requirements-training.txt).
OTHERS = {
    "sentence-transformers": "the search of notebook 08",
    "faiss-cpu": "the search of notebook 08",
    "xllamacpp": "the serving of notebook 07",
}


def add(into: Any) -> None:
    """Add the command."""
    commands.parser(
        into,
        call,
        "doctor",
        "what this machine has and what it can run",
        "Look at Python, memory, libraries, bundled models and GPU, and say which profiles run"
        " here.",
        "qwen3lab doctor",
    )


def call(_args: argparse.Namespace) -> int:
    """Print what this machine has and which profiles it can run, each with the reason.

    Returns 1 if something essential is missing.
    """
    faults = []
    commands.say(
        f"Python   {platform.python_version()} on {platform.system()} {platform.machine()},"
        f" {os.cpu_count()} CPUs, {planner.machine_bytes() / 1e9:.1f} GB of memory"
    )
    for name in (*LIBRARIES, *OTHERS):
        try:
            commands.say(f"         {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name in OTHERS:
                commands.say(f"         {name} is not installed: {OTHERS[name]} needs it")
                continue
            faults.append(
                f"The library {name} is missing. Run `make course`, or `pip install -c"
                " constraints.txt -e .` in your environment."
            )
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/model.safetensors"))
    commands.say(f"models   {', '.join(bundled) or 'none bundled'}")
    if "qwen3-tiny" not in bundled:
        faults.append("The bundled model qwen3-tiny is missing. Run `git checkout -- data/models`.")
    if not faults:
        for line in _device(devices.find()):
            commands.say(line)
        for name in profiles.NAMES:
            commands.say(f"profile  {name:<7} {_verdict(profiles.get(name))}")
    for fault in faults:
        commands.say(fault, file=sys.stderr)
    return 1 if faults else 0


def _device(found: devices.Device) -> list[str]:
    """Describe the device, its memory, and the formats of weights and training with the reasons."""
    size = planner.machine_bytes(found.kind) / 1e9
    name = f"{found.kind}, {found.name}" if found.name else found.kind
    lines = [f"device   {name}: {size:.1f} GB for models and training"]
    lines += [f"         {reason}" for reason in found.reasons]
    if found.kind == "cuda":
        import torch

        if (count := torch.cuda.device_count()) > 1:
            lines.append(
                f"         one of {count}: set CUDA_VISIBLE_DEVICES=0 to train on one; for more"
                " export the run and use `accelerate launch` (notebook 05)"
            )
    return [*lines, f"training {found.training}"]


def _verdict(profile: profiles.Profile) -> str:
    wanted = profiles.needs(profile)
    try:
        profiles.check_fits(profile)
    except Qwen3labError as error:
        return "does not: " + error.what
    return "runs here" + (f": needs {wanted.total / 1e9:.2f} GB" if wanted else "")
