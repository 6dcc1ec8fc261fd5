"""Run profiles: one name chooses the models, the device and the sizes, with reasons."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qwen3lab import family, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import devices, planner

DEFAULT = "tiny"
# A smoke run: every cell as it is, but few steps and short answers. It shows in minutes whether all
# of it runs on this machine; what it measures says nothing about a model.
SMOKE = "QWEN3LAB_SMOKE"
SMOKE_STEPS = 3  # optimiser steps of a training, at most
SMOKE_TOKENS = 4  # new tokens of an answer, at most
SMOKE_WHAT = (
    f"trainings end after {SMOKE_STEPS} steps and answers after {SMOKE_TOKENS} tokens: it shows"
    " that all runs, not what a model can do"
)
ROLES = ("chat", "dense", "base", "moe", "draft", "embedding")


@dataclass(frozen=True)
class Profile:
    """Run profile of a notebook: models by role, device, dtype and sizes."""

    name: str
    hardware: str
    chat: str
    dense: str  # to look inside: no mixture, and small enough for float32
    base: str
    moe: str
    draft: str
    embedding: str
    dtype: str  # of the weights, by its torch name
    device: str  # as torch names it
    max_length: int  # tokens
    batch_size: int  # rows
    steps: int  # optimiser steps of a training that the notebook does not set itself
    method: str = "lora"  # the heaviest training that the profile is made for
    reasons: tuple[str, ...] = ()

    @property
    def models(self) -> frozenset[str]:
        """The names of the models of all roles."""
        return frozenset(getattr(self, role) for role in ROLES)

    def describe(self) -> str:
        """Describe the profile in a few lines: the choices, and why each automatic one was made."""
        roles = ", ".join(
            f"{role} {getattr(self, role)}"
            for role in ROLES
            if role != "dense" or self.dense != self.chat
        )
        return "\n".join(
            [
                f"profile  {self.name}: {self.hardware}",
                f"models   {roles}",
                (
                    f"sizes    {self.dtype} on {self.device}, batches of {self.batch_size} rows of"
                    f" at most {self.max_length} tokens, {self.steps} steps"
                ),
                *(f"because  {reason}" for reason in self.reasons),
                *([f"smoke    {SMOKE_WHAT}"] if smoke() else []),
            ]
        )


def _tiny() -> Profile:
    return Profile(
        "tiny",
        "any CPU, offline, seconds",
        chat="qwen3-tiny",
        dense="qwen3-tiny",
        base="qwen3-tiny-base",
        moe="qwen3-tiny-moe",
        draft="qwen3-tiny-draft",
        embedding="qwen3-tiny-embedding",
        dtype="float32",
        device="cpu",
        max_length=512,
        batch_size=16,
        steps=200,
        method="full",
        reasons=(
            (
                "the CPU and one thread: models this small spend their time on the calls, which a"
                " GPU or a second thread makes longer"
            ),
            "float32: bfloat16 is emulated on most CPUs and slower there",
        ),
    )


def _small() -> Profile:
    device = devices.find()
    return Profile(
        "small",
        "laptop or free GPU",
        chat="Qwen/Qwen3-0.6B",
        dense="Qwen/Qwen3-0.6B",
        base="Qwen/Qwen3-0.6B-Base",
        moe="qwen3-tiny-moe",
        draft="Qwen/Qwen3-0.6B",
        embedding="Qwen/Qwen3-Embedding-0.6B",
        dtype=device.dtype,
        device=device.kind,
        max_length=1024,
        batch_size=8,
        steps=200,
        reasons=(
            *device.reasons,
            (
                "the bundled mixture of experts: the smallest released one, 30B-A3B, needs 61 GB"
                " for its weights"
            ),
            (
                "0.6B as its own draft: no smaller Qwen3 exists, so speculative decoding shows its"
                " counts here, not a gain"
            ),
        ),
    )


def _medium() -> Profile:
    chat = "Qwen/Qwen3-8B"
    device = devices.find(large=is_large(chat))
    return Profile(
        "medium",
        "one 24 GB GPU",
        chat=chat,
        dense="Qwen/Qwen3-0.6B",
        base="Qwen/Qwen3-8B-Base",
        moe="qwen3-tiny-moe",
        draft="Qwen/Qwen3-0.6B",
        embedding="Qwen/Qwen3-Embedding-0.6B",
        dtype=device.dtype,
        device=device.kind,
        max_length=2048,
        batch_size=4,
        steps=200,
        reasons=(
            *device.reasons,
            (
                "the bundled mixture of experts: the smallest released one, 30B-A3B, needs 61 GB"
                " for its weights"
            ),
        ),
    )


def _large() -> Profile:
    chat = "Qwen/Qwen3-30B-A3B"
    device = devices.find(large=is_large(chat))
    return Profile(
        "large",
        "one 80 GB GPU",
        chat=chat,
        dense="Qwen/Qwen3-0.6B",
        base="Qwen/Qwen3-30B-A3B-Base",
        moe="Qwen/Qwen3-30B-A3B",
        draft="Qwen/Qwen3-0.6B",
        embedding="Qwen/Qwen3-Embedding-0.6B",
        dtype=device.dtype,
        device=device.kind,
        max_length=2048,
        batch_size=2,
        steps=200,
        reasons=(
            *device.reasons,
            "LoRA on the attention only: adapters on all experts would be 995 million parameters",
        ),
    )


_MAKERS = {"tiny": _tiny, "small": _small, "medium": _medium, "large": _large}
NAMES = tuple(_MAKERS)


def is_large(model: str) -> bool:
    """Tell whether float32 would take too much memory: a model of several billion parameters.

    A folder of that name counts as what it is.
    """
    return family.shape(model).parameters > 2e9


def get(name: str | None = None) -> Profile:
    """Return a profile: `name`, else the environment's `QWEN3LAB_PROFILE`, else "tiny".

    Raises:
        Qwen3labError: there is no profile of that name.
    """
    wanted = (name or os.environ.get("QWEN3LAB_PROFILE") or DEFAULT).strip().lower()
    if wanted not in _MAKERS:
        raise Qwen3labError(
            f"There is no profile {wanted!r}. Set QWEN3LAB_PROFILE to one of: {', '.join(NAMES)}."
        )
    return _MAKERS[wanted]()


def needs(profile: Profile, method: str | None = None) -> planner.Plan | None:
    """Plan the memory of the profile's chat model with one full batch.

    `method`: default: the profile's own. Returns None for a bundled model that is missing; loading
    it raises its own error.
    """
    if "/" not in profile.chat and paths.find_model(profile.chat) is None:
        return None
    return planner.plan(
        profile.chat,
        method or profile.method,
        tokens=profile.batch_size * profile.max_length,
        **planner.format_of(profile.dtype),
    )


def check_fits(
    profile: Profile | None = None, method: str | None = None, available: int | None = None
) -> Profile:
    """Check that a profile fits this machine's memory, and return it.

    Args:
        profile: default: the current one.
        method: "inference", "lora", "qlora" or "full"; default: the heaviest one that the profile
            is made for.
        available: bytes to assume instead of this machine's memory.
    Raises:
        Qwen3labError: it does not fit; the message has the planner's figure and the nearest profile
            that fits.
    """
    profile = profile or get()

    def fits(candidate: Profile) -> bool:
        wanted = needs(candidate, method)
        return wanted is None or wanted.total <= (
            planner.machine_bytes(candidate.device) if available is None else available
        )

    if fits(profile):
        return profile
    wanted = needs(profile, method)
    room = planner.machine_bytes(profile.device) if available is None else available
    lighter = [get(name) for name in reversed(NAMES[: NAMES.index(profile.name)])]
    nearest = next((candidate for candidate in lighter if fits(candidate)), None)
    advice = "Use a machine with more memory"
    if nearest is not None:
        lighter_plan = needs(nearest, method)
        size = f", which needs {lighter_plan.total / 1e9:.2f} GB" if lighter_plan else ""
        advice = f"Set QWEN3LAB_PROFILE={nearest.name} or call qwen3lab.use({nearest.name!r}){size}"
    raise Qwen3labError(
        f"Profile {profile.name!r} needs {wanted.total / 1e9:.1f} GB for"
        f" {planner.LABELS[wanted.method]} on {profile.chat}, but"
        f" {'this GPU' if profile.device != 'cpu' else 'this machine'} has {room / 1e9:.1f} GB."
        f" {advice}."
    )


def smoke() -> bool:
    """Tell whether the environment asks for a smoke run."""
    return os.environ.get(SMOKE, "").strip().lower() not in ("", "0", "no", "false")


def smoke_steps(wanted: int) -> int:
    """Return how many of the wanted optimiser steps to train: all, or few in a smoke run."""
    return min(wanted, SMOKE_STEPS) if smoke() else wanted


def smoke_tokens(wanted: int) -> int:
    """Return how many of the wanted new tokens to write: all, or few in a smoke run."""
    return min(wanted, SMOKE_TOKENS) if smoke() else wanted


def smoke_suffix() -> str:
    """Return what marks the folder of a smoke run's training, so that no real run finds it."""
    return "-smoke" if smoke() else ""
