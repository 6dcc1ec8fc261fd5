"""Choose the device of a machine and its number format, each with a reason in one line.

- CUDA with bfloat16 of its own: bfloat16 weights, bfloat16 autocast.
- CUDA without (a T4, a P100): float16 weights, float16 autocast with a scaled loss, and all that is
  trained in float32.
- Apple's MPS: float32; bfloat16 and its autocast for models that would not fit otherwise.
- Neither: float32; bfloat16 for models that would not fit otherwise; no autocast.

Full fine-tuning loads its weights in float32 on all of them. Only the CPU was tried; the choices
for the others are tested against what torch reports there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What autocast and loss scaling do in each format, for people.
IN_TRAINING = {
    "float32": "everything in float32, no autocast",
    "float16": (
        "LoRA and QLoRA train float32 adapters on float16 weights, full fine-tuning float32"
        " weights; float16 autocast, the loss scaled"
    ),
    "bfloat16": (
        "LoRA trains float32 adapters, QLoRA bfloat16 ones (as TRL has them), full fine-tuning"
        " float32 weights; bfloat16 autocast"
    ),
}
NO_AUTOCAST = "LoRA and QLoRA train float32 adapters, full fine-tuning float32 weights; no autocast"


@dataclass(frozen=True)
class Device:
    """Device of a machine with the format that its models' weights get."""

    kind: str  # as torch names it: "cuda", "mps" or "cpu"
    name: str  # of the product, as torch reports it; "" for a CPU
    dtype: str  # of the weights, by its torch name
    reasons: tuple[str, ...]  # for the device, for the format, and what to know about it

    @property
    def training(self) -> str:
        """Say in which formats a training on this device computes and keeps what it trains."""
        half = self.dtype != "float32"
        return NO_AUTOCAST if half and self.kind == "cpu" else IN_TRAINING[self.dtype]


def find(large: bool = False) -> Device:
    """Find the device that torch offers, and choose the format of the weights.

    `large`: float32 would take too much memory, as for models of several billion parameters, so
    that a 16-bit format is taken wherever torch has one.
    """
    import torch

    if not torch.cuda.is_available():
        return _apple(large) if torch.backends.mps.is_available() else _cpu(large)
    name = torch.cuda.get_device_name(0)
    archs, capability = torch.cuda.get_arch_list(), torch.cuda.get_device_capability(0)
    if not has_kernels(capability, archs):
        return _cpu(
            large,
            f"the CPU: torch sees {name}, but this build of torch has no kernels for it (compute"
            f" capability {capability[0]}.{capability[1]}); use another GPU or another build",
        )
    seen = f"the GPU: torch sees {name}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        why = "bfloat16: the GPU computes in it and Qwen3 is published in it"
        return Device("cuda", name, "bfloat16", (seen, why))
    return Device(
        "cuda",
        name,
        "float16",
        (
            seen,
            "float16: the GPU has no bfloat16 of its own; the loss is scaled, and what is trained"
            " is float32",
            "float16 ends at 65,504 and Qwen3 was trained in bfloat16, which does not: a step that"
            " overflows is left out and counted",
        ),
    )


def _apple(large: bool) -> Device:
    import torch

    # Not in every version that the course allows.
    name = getattr(torch.backends.mps, "get_name", lambda: "an Apple GPU")()
    seen = f"the GPU: torch sees {name} through MPS"
    if large and torch.backends.mps.is_macos_or_newer(14, 0):
        why = "bfloat16: float32 would take twice the memory; M1 and M2 only emulate it, slowly"
        return Device("mps", name, "bfloat16", (seen, why))
    why = (
        "float32: M1 and M2 only emulate bfloat16, and torch had no loss scaling for float16 on"
        " MPS before 2.8"
        if not large
        else "float32: bfloat16 on MPS needs macOS 14 or newer"
    )
    return Device("mps", name, "float32", (seen, why))


def _cpu(large: bool, seen: str = "the CPU: torch sees no GPU") -> Device:
    if large:
        why = "bfloat16: float32 would take twice the memory; most CPUs emulate it"
        return Device("cpu", "", "bfloat16", (f"{seen}; expect hours", why))
    why = "float32: bfloat16 is emulated on most CPUs and slower there"
    return Device("cpu", "", "float32", (seen, why))


def has_kernels(capability: tuple[int, int], archs: list[str]) -> bool:
    """Tell whether a build of torch for `archs` ("sm_75", "compute_90") runs on a GPU.

    `torch.cuda.is_available` says yes for a card whose first computation then fails, as on the P100
    under builds for CUDA 12.8 and later. Binaries ("sm") run on their own generation from their
    number on, PTX ("compute") on all later ones. An empty list, and AMD's names, say nothing.
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch) for arch in archs]
    if not archs or not all(known):
        return True
    found = [(kind, (int(major), int(minor))) for kind, major, minor in (k.groups() for k in known)]
    return any(
        version <= capability and (kind == "compute" or version[0] == capability[0])
        for kind, version in found
    )


def autocast(kind: str, dtype: str) -> dict[str, bool]:
    """Return a trainer's settings for mixed precision, "bf16" and "fp16".

    With "fp16" the trainer scales the loss too. A CPU gets neither: autocast is slower there, and
    transformers takes `fp16` on a CPU without a word and does nothing.
    """
    return {
        "bf16": kind != "cpu" and dtype == "bfloat16",
        "fp16": kind != "cpu" and dtype == "float16",
    }
