"""Check the optimiser of a run before anything is loaded.

The rule: a name that `trl.SFTConfig` knows trains, and where checkpoints are asked for it is saved
and resumed with the weights of an uninterrupted run; or it is refused by its name before the first
step. States are kept as safetensors and JSON (`checkpointing`), never as a pickle.
"""

from __future__ import annotations

import difflib
import importlib.util
from typing import Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading

# Beginning of a name -> (module that it needs, what installs it).
PACKAGES = {
    "adamw_torch_xla": ("torch_xla", "torch_xla, which drives Google's TPUs"),
    "adamw_torch_npu": ("torch_npu", "torch_npu, which drives Ascend NPUs"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_anyprecision": ("torchdistx", "torchdistx from its source"),
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
} | {
    name: ("bitsandbytes", "bitsandbytes")
    for name in ("adamw_bnb", "adamw_8bit", "ademamix", "lion", "paged", "rmsprop_bnb")
}
# Beginning of a name -> why its state cannot be kept in a checkpoint.
UNSAVED = {
    "galore": "its state holds objects for the projections, which only a pickle could hold",
    "apollo": "its state holds objects for the projections, which only a pickle could hold",
    "lomo": "it updates weights within the backward pass and shows no state",
    "adalomo": "it updates weights within the backward pass and shows no state",
    "grokadamw": "its state points at the weights themselves, which only a pickle could hold",
    "adamw_torch_4bit": "its state is of torchao's tensor types, which only a pickle could hold",
    "adamw_torch_8bit": "its state is of torchao's tensor types, which only a pickle could hold",
}
CUDA = ("galore_adamw_8bit", "galore_adamw_8bit_layerwise")  # they compute nowhere else


def names() -> list[str]:
    """List the names that `trl.SFTConfig` knows, sorted."""
    from transformers.training_args import OptimizerNames

    return sorted(name.value for name in OptimizerNames)


def check(options: dict[str, Any], saved: bool) -> None:
    """Check `optim` of a run's options.

    Args:
        options: for `trl.SFTConfig`.
        saved: whether checkpoints hold the optimiser's state.
    Raises:
        Qwen3labError: no such optimiser, one whose package is missing, that needs another option,
            or that cannot be saved although it should.
    """
    import torch

    if "optim" not in options:
        return
    given = options["optim"]
    name, known = getattr(given, "value", given), names()
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(str(name).strip().lower(), known, 1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise Qwen3labError(
            f"There is no optimiser {name!r}. {meant}The names are: {', '.join(known)}."
        )
    for start, (module, package) in PACKAGES.items():
        if name.startswith(start) and importlib.util.find_spec(module) is None:
            raise Qwen3labError(
                f"The optimiser {name!r} needs the package {module}, which is not installed."
                f" Install {package}, or take 'adamw_torch'."
            )
    if name.startswith(("galore", "apollo")) and not options.get("optim_target_modules"):
        raise Qwen3labError(
            f"The optimiser {name!r} has to know for which layers it is. Give"
            " optim_target_modules='all-linear', or a list of names."
        )
    if name in CUDA and not torch.cuda.is_available():
        raise Qwen3labError(
            f"The optimiser {name!r} needs a CUDA GPU, and there is none. Take 'galore_adamw'."
        )
    why = unsaved(name)
    if saved and why:
        raise Qwen3labError(
            f"The optimiser {name!r} cannot be saved in a checkpoint: {why}. Leave save_every and"
            " resume out, or take another, such as 'adamw_8bit'."
        )


def unsaved(name: str) -> str | None:
    """Tell why an optimiser's state cannot be kept in a checkpoint; None if it can."""
    return next((why for start, why in UNSAVED.items() if name.startswith(start)), None)


def create(trainer: Any) -> None:
    """Create a trainer's optimiser now, so that what it refuses is told before the first step.

    Raises Qwen3labError with the library's reason.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return  # created later, over the parts of the weights that a process holds
    try:
        trainer.create_optimizer()
    except (ImportError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as e:
        why = loading.first_line(e)
        name = getattr(trainer.args.optim, "value", trainer.args.optim)
        raise Qwen3labError(
            f"The optimiser {name!r} cannot be made ({why}). Mend optim_args and its other"
            " settings, or take 'adamw_torch'."
        ) from e
