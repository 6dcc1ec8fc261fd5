"""Configure LoRA adapters with PEFT, load them, and report which weights an adapter covers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside, loading
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# Group of a weight -> pattern of its name; the first match counts.
GROUPS = {
    "attention {}": r"self_attn\.([qkvo]_proj)\.",
    "experts {}": r"mlp\.experts\.(?:\d+\.)?(\w+_proj)",
    "router": r"mlp\.gate\.weight",
    "FFN {}": r"mlp\.(\w+_proj)\.",
    "embedding": r"embed_tokens",
    "output head": r"lm_head",
    "norms": r"norm",
}


def group(name: str) -> str:
    """Classify a parameter of a Qwen3 model by its name, for example "attention q_proj".

    "other" if no group matches.
    """
    for label, pattern in GROUPS.items():
        found = re.search(pattern, name)
        if found:
            return label.format(*found.groups())
    return "other"


def coverage(model: nn.Module) -> pd.DataFrame:
    """Tabulate which weights an adapter covers, by group; every parameter is in one group.

    Returns:
        One line per group: weights (number of parameters), tensors, adapted (tensors with a trained
        adapter), adapter (the adapter's parameters), rank (the highest), trained (parameters of the
        weights themselves that are trained).
    """
    from peft.tuners.lora import LoraLayer

    lines: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():  # a tied weight comes once
        if re.search(r"\.lora_\w+\.", name):
            continue
        line = lines.setdefault(
            group(name.replace(".base_layer", "")),
            {"weights": 0, "tensors": 0, "adapted": 0, "adapter": 0, "rank": 0, "trained": 0},
        )
        line["weights"] += _numbers(parameter)
        line["tensors"] += 1
        line["trained"] += _numbers(parameter) if parameter.requires_grad else 0
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        target = group(
            f"{name}.{getattr(module, 'parameter_name', 'weight')}".replace(".base_layer", "")
        )
        parts = [part.weight for kind in (module.lora_A, module.lora_B) for part in kind.values()]
        trained = sum(weight.numel() for weight in parts if weight.requires_grad)
        lines[target]["adapter"] += trained
        lines[target]["adapted"] += bool(trained)
        lines[target]["rank"] = max(lines[target]["rank"], *module.r.values())
    order = [label.split(" {}")[0] for label in GROUPS]
    return pd.DataFrame.from_dict(lines, orient="index").sort_index(
        key=lambda names: [
            order.index(next((o for o in order if name.startswith(o)), order[-1])) for name in names
        ],
        kind="stable",
    )


def _numbers(parameter: nn.Parameter) -> int:
    """Count a tensor's parameters; bitsandbytes' 4-bit weights pack two into a byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def require(model: nn.Module, wanted: Sequence[str]) -> pd.DataFrame:
    """Check that every tensor of the wanted groups has an adapter; returns the `coverage`.

    Args:
        wanted: groups or their beginnings, for example "attention" or "experts".
    Raises:
        Qwen3labError: a wanted group is not in the model, or some of its tensors have no adapter.
    """
    table = coverage(model)
    for want in wanted:
        chosen = table[[name.startswith(want) for name in table.index]]
        if chosen.empty:
            raise Qwen3labError(
                f"The model has no weights of the group {want!r}. Choose from:"
                f" {', '.join(table.index)}."
            )
        missed = chosen[chosen.adapted < chosen.tensors]
        if len(missed):
            found = "; ".join(
                f"{name}: {line.adapted} of {line.tensors} tensors"
                for name, line in missed.iterrows()
            )
            where = (
                "target_parameters (mlp.experts.gate_up_proj, mlp.experts.down_proj)"
                if want == "experts"
                else "target_modules"
            )
            raise Qwen3labError(
                f"Some weights that should get an adapter have none ({found}). Name them in"
                f" {where}."
            )
    return table


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def lora_config(model: torch.nn.Module, **changes: Any):
    """Build a `peft.LoraConfig` from the course's defaults and changes, see `lora_settings`."""
    from peft import LoraConfig

    return LoraConfig(**lora_settings(model, **changes))


def lora_settings(model: torch.nn.Module, **changes: Any) -> dict[str, Any]:
    """Build the settings that `lora_config` passes to PEFT, by PEFT's names.

    Dropout is 0 because PEFT refuses any other value on fused experts. The experts get no adapter
    by default, because adapters on all of them would have more parameters than the weights that
    most tokens pass through.
    """
    config = getattr(model, "config", None)
    is_moe = bool(getattr(config, "num_experts", 0) or getattr(config, "num_local_experts", 0))
    defaults = {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "target_modules": ATTENTION if is_moe else "all-linear",
    }
    return defaults | changes


def add_lora(model: torch.nn.Module, **changes: Any):
    """Wrap a model (or any module with linear layers) with PEFT's LoRA adapters.

    `changes` as in `lora_config`.
    """
    from peft import get_peft_model

    quiet()
    return get_peft_model(model, lora_config(model, **changes))


def load_adapter(
    folder: str | Path, model: str | Path | PreTrainedModel | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a saved LoRA adapter onto a model; returns it in eval mode with its tokenizer.

    Tokenizer, chat template and generation settings are those in the adapter's folder, or else the
    base's (`qwen3lab.models.beside`); the model gets as many embeddings as the adapter was trained
    with.

    Args:
        model: the base, as in `models.load`, or a loaded one, which is changed in place; default:
            the one that the adapter names.
    Raises:
        Qwen3labError: the folder holds no adapter, its base is not there, adapter, tokenizer and
            model do not fit each other, the model carries an adapter already, and as `models.load`.
    """
    folder = Path(folder)
    beside.adapter_config(folder)
    if model is None:
        model = beside.base(folder)
    if isinstance(model, (str, Path)):
        name = model
        model, _ = loading.load(model)
    else:
        name = model.config.name_or_path or None
        if hasattr(model, "peft_config"):
            raise Qwen3labError(
                "This model carries an adapter already. Load the base anew, or merge the first"
                " adapter into it (merge_and_unload) before the second is loaded."
            )
    tokenizer = loading.load_tokenizer(folder, name)
    beside.fit(model, tokenizer, folder)
    settings = beside.generation(folder)
    if settings is not None:
        model.generation_config = settings
    return beside.put_on(model, folder), tokenizer
