"""Choose how the steps of a training are computed, each choice with its reason in one line.

- Compiled layers: each decoder layer is compiled once and reused (accelerate's regional
  compilation). The model that comes back is the plain one; only the trainer steps through a copy
  whose layers are compiled and whose weights are the same tensors.
- The output head: TRL's, in tiles; or a frozen one in one pass (`one_pass_head`).
- Padding: rows of a step side by side with padding, or one after the other with position ids
  (TRL's `padding_free`); or many rows in one of fixed length (TRL's `packing`).

None of them changes the loss or the weights by more than rounding; packing alone changes which rows
make a step.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.training import trl_patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qwen3lab.training.sft import Arguments

BACKEND = "inductor"
HEADS = ("trl", "one-pass")
# Compiling takes as long as tens of plain steps; a shorter training would not win it back.
LEAST_STEPS = 100


@dataclass(frozen=True)
class Speed:
    """How the steps of a training are computed, and why."""

    backend: str | None = None  # torch's, that compiles the layers
    head: str = "trl"
    reasons: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()  # those of what differs from the plain way


def check(compile: bool | str | None, head: str | None, method: str) -> None:
    """Refuse a backend that accelerate does not know, an unknown head, and a trained one.

    Raises:
        Qwen3labError: each says what to give instead.
    """
    if isinstance(compile, str):
        from accelerate.utils import DynamoBackend

        known = [kind.value.lower() for kind in DynamoBackend if kind is not DynamoBackend.NO]
        if compile not in known:
            raise Qwen3labError(
                f"There is no backend {compile!r} to compile with. Give compile=True, or one of:"
                f" {', '.join(known)}."
            )
    if head not in (None, *HEADS):
        raise Qwen3labError(f"Unknown output head {head!r}. Use one of: {', '.join(HEADS)}.")
    if head == "one-pass" and method == "full":
        raise Qwen3labError(
            "A head in one pass takes no gradient of its own weights, and method 'full' trains"
            " them. Leave `head` out, or train with 'lora' or 'qlora'."
        )


def choose(asked: Arguments, model: PreTrainedModel, steps: int) -> Speed:
    """Choose for a model and a number of steps what was not asked for."""
    wanted = asked.compile
    if wanted is None:
        why = _against(asked.method, model, steps)
        backend = None if why else BACKEND
        reason = why or (
            "LoRA with them and the head in one pass trained 1.6 (8B) to 2.4 times (0.6B) the"
            " tokens a second of a plain loop on an H200; the first steps compile"
        )
    else:
        backend = (BACKEND if wanted is True else wanted) or None
        reason = "as asked"
    layers = f"compiled layers ({backend}): {reason}" if backend else f"plain layers: {reason}"
    fits = backend is not None and asked.method != "full"
    head = asked.head or ("one-pass" if fits else "trl")
    why = (
        "as asked"
        if asked.head
        else "it is frozen, and compiled its logits need no copy in float32"
        if fits
        else "its weights are trained"
        if asked.method == "full"
        else "outside a compiled step, one pass would copy its logits in float32"
    )
    heads = f"{'plain' if head == 'trl' else head} head: {why}"
    padded = not (asked.options.get("packing") or asked.options.get("padding_free"))
    plain = {layers: backend is None, heads: head == "trl", _padding(asked.options): padded}
    chosen = tuple(reason for reason, usual in plain.items() if not usual)
    return Speed(backend, head, tuple(plain), chosen)


def _against(method: str, model: PreTrainedModel, steps: int) -> str | None:
    """Tell why a training's layers are better not compiled; None if they are."""
    if model.device.type != "cuda":
        return "compiled ones were measured on CUDA alone"
    if steps < LEAST_STEPS:
        return f"{steps} steps are too few to win back the time that compiling takes"
    if method == "qlora":
        return "compiled ones were not measured with layers in 4 bits"
    if getattr(model.config, "num_experts", 0):
        return "a mixture of experts takes other rows in every step, and would compile again"
    if importlib.util.find_spec("triton") is None:
        return "torch needs Triton to compile for a GPU, and it is not installed"
    if not any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
        return "Triton needs a C compiler, and there is none"
    return None


def _padding(options: dict[str, Any]) -> str:
    """Say how the rows of a step lie, and why."""
    if options.get("packing"):
        return "packed rows: as asked"
    if options.get("padding_free"):
        return "rows without padding: as asked"
    return (
        "plain padding: without it, attention without FlashAttention computes every pair of a"
        " step's tokens, and rows of like length need little of it"
    )


@contextmanager
def applied(speed: Speed, trainer: Any) -> Iterator[None]:
    """Train in this block as chosen; afterwards the libraries are set as they were.

    Raises:
        Qwen3labError: the compiler's own error, with the way out.
    """
    import torch
    from accelerate.utils import TorchDynamoPlugin

    with ExitStack() as undo:
        score = None
        if speed.head == "one-pass":
            from qwen3lab.training.one_pass_head import scores as score
        if speed.backend:
            # What was compiled for the model before counts towards a limit, after which torch
            # compiles nothing more.
            torch.compiler.reset()
            state = trainer.accelerator.state
            undo.callback(setattr, state, "dynamo_plugin", state.dynamo_plugin)
            state.dynamo_plugin = TorchDynamoPlugin(
                backend=speed.backend, use_regional_compilation=True
            )
            score = score and torch.compile(score, backend=speed.backend)
        if score:
            undo.enter_context(trl_patches.head_in_one_pass(score))
        try:
            yield
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            told = " ".join(str(error).split())[:200]
            raise Qwen3labError(
                f"The layers could not be compiled ({told}). Give compile=False."
            ) from error
