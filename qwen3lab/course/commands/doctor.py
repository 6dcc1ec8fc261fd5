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
from qwen3lab.memory import planner

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
    "sentence-transformers",
    "faiss-cpu",
    "xllamacpp",
)


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
    print(
        f"Python   {platform.python_version()} on {platform.system()} {platform.machine()},"
        f" {os.cpu_count()} CPUs, {planner.machine_bytes() / 1e9:.1f} GB of memory"
    )
    for name in LIBRARIES:
        try:
            print(f"         {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            faults.append(
                f"The library {name} is missing. Run `make course`, or `pip install -c"
                " constraints.txt -e .` in your environment."
            )
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/model.safetensors"))
    print(f"models   {', '.join(bundled) or 'none bundled'}")
    if "qwen3-tiny" not in bundled:
        faults.append("The bundled model qwen3-tiny is missing. Run `git checkout -- data/models`.")
    if not faults:
        import torch

        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none seen by torch"
        print(f"GPU      {gpu}")
        for name in profiles.NAMES:
            print(f"profile  {name:<7} {_verdict(profiles.get(name))}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _verdict(profile: profiles.Profile) -> str:
    wanted = profiles.needs(profile)
    try:
        profiles.check_fits(profile)
    except Qwen3labError as error:
        return "does not: " + str(error).split(". ")[0]
    return "runs here" + (f": needs {wanted.total / 1e9:.2f} GB" if wanted else "")
