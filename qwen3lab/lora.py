"""LoRA from scratch, and a report of which weights of a model an adapter reaches.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; the numbers are those of `peft.tuners.lora`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from qwen3lab.errors import Qwen3labError


class LoRALinear(nn.Module):
    """A frozen linear layer with a trained detour beside it: W x + (alpha / r) B A dropout(x).

    Args:
        layer: the linear layer; its weight and bias are frozen.
        r: rank, the width of the detour.
        alpha: the detour counts alpha / r times, so that another rank needs no other learning rate.
        dropout: share of the detour's inputs that are set to zero while training.
    """

    def __init__(self, layer: nn.Linear, r: int = 16, alpha: float = 32, dropout: float = 0.0):
        super().__init__()
        if r < 1:
            raise Qwen3labError(f"The rank is {r}. Give a whole number from 1 up.")
        self.layer, self.scale, self.dropout = layer.requires_grad_(False), alpha / r, nn.Dropout(dropout)
        self.A = nn.Parameter(torch.empty(r, layer.in_features))
        self.B = nn.Parameter(torch.zeros(layer.out_features, r))  # so that training starts from the model as it is
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # PEFT's: uniform within 1 / sqrt(in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return self.layer(x) + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)

    def delta(self) -> torch.Tensor:
        """What the detour adds to the weight, `[out_features, in_features]`."""
        return self.scale * self.B @ self.A

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain linear layer that computes the same (without dropout); this layer stays as it is."""
        merged = nn.Linear(self.layer.in_features, self.layer.out_features, bias=self.layer.bias is not None,
                           dtype=self.layer.weight.dtype, device=self.layer.weight.device)
        merged.weight.copy_(self.layer.weight + self.delta())
        if self.layer.bias is not None:
            merged.bias.copy_(self.layer.bias)
        return merged


# Group of a weight -> how its name looks; the first that fits counts.
GROUPS = {"attention {}": r"self_attn\.([qkvo]_proj)\.", "experts {}": r"mlp\.experts\.(?:\d+\.)?(\w+_proj)", "router": r"mlp\.gate\.weight",
          "FFN {}": r"mlp\.(\w+_proj)\.", "embedding": r"embed_tokens", "output head": r"lm_head", "norms": r"norm"}


def group(name: str) -> str:
    """The group of a parameter by its name in a Qwen3 model, for example "attention q_proj"; "other" if none fits."""
    for label, pattern in GROUPS.items():
        found = re.search(pattern, name)
        if found:
            return label.format(*found.groups())
    return "other"


def coverage(model: nn.Module) -> pd.DataFrame:
    """Which weights an adapter reaches, group by group; every parameter of the model is in one group.

    Returns:
        One line a group: weights (numbers), tensors, adapted (tensors with a trained adapter), adapter (its numbers),
        rank (the highest), trained (numbers of the weights themselves that are trained).
    """
    from peft.tuners.lora import LoraLayer

    lines: dict[str, dict[str, int]] = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():  # a tied weight comes once
        if re.search(r"\.lora_\w+\.", name):
            continue
        seen.add(id(parameter))
        line = lines.setdefault(group(name.replace(".base_layer", "")), {"weights": 0, "tensors": 0, "adapted": 0, "adapter": 0, "rank": 0, "trained": 0})
        line["weights"] += _numbers(parameter)
        line["tensors"] += 1
        line["trained"] += _numbers(parameter) if parameter.requires_grad else 0
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        target = group(f"{name}.{getattr(module, 'parameter_name', 'weight')}".replace(".base_layer", ""))
        parts = [part.weight for kind in (module.lora_A, module.lora_B) for part in kind.values()]
        trained = sum(weight.numel() for weight in parts if weight.requires_grad)
        lines[target]["adapter"] += trained
        lines[target]["adapted"] += bool(trained)
        lines[target]["rank"] = max(lines[target]["rank"], *module.r.values())
    order = [label.split(" {}")[0] for label in GROUPS]
    return pd.DataFrame.from_dict(lines, orient="index").sort_index(key=lambda names: [order.index(next((o for o in order if name.startswith(o)), order[-1])) for name in names], kind="stable")


def _numbers(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for; 4-bit weights of bitsandbytes hold two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def require(model: nn.Module, wanted: Sequence[str]) -> pd.DataFrame:
    """`coverage` of a model, refused unless every tensor of the wanted groups has an adapter.

    Args:
        wanted: groups or their beginnings, for example "attention" or "experts".
    Raises:
        Qwen3labError: a wanted group is not in the model, or some of its tensors have no adapter.
    """
    table = coverage(model)
    for want in wanted:
        chosen = table[[name.startswith(want) for name in table.index]]
        if chosen.empty:
            raise Qwen3labError(f"The model has no weights of the group {want!r}. Choose from: {', '.join(table.index)}.")
        missed = chosen[chosen.adapted < chosen.tensors]
        if len(missed):
            found = "; ".join(f"{name}: {line.adapted} of {line.tensors} tensors" for name, line in missed.iterrows())
            where = "target_parameters (mlp.experts.gate_up_proj, mlp.experts.down_proj)" if want == "experts" else "target_modules"
            raise Qwen3labError(f"Some weights that should get an adapter have none ({found}). Name them in {where}.")
    return table
