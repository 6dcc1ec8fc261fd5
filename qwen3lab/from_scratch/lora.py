"""LoRA from scratch: a frozen linear layer with a low-rank update beside it.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; the numbers are those of
`peft.tuners.lora`.
"""

from __future__ import annotations

import math

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
        self.layer, self.scale, self.dropout = (
            layer.requires_grad_(False),
            alpha / r,
            nn.Dropout(dropout),
        )
        self.A = nn.Parameter(torch.empty(r, layer.in_features))
        self.B = nn.Parameter(
            torch.zeros(layer.out_features, r)
        )  # so that training starts from the model as it is
        nn.init.kaiming_uniform_(
            self.A, a=math.sqrt(5)
        )  # PEFT's: uniform within 1 / sqrt(in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return self.layer(x) + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)

    def delta(self) -> torch.Tensor:
        """What the detour adds to the weight, `[out_features, in_features]`."""
        return self.scale * self.B @ self.A

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain linear layer that computes the same (without dropout); this layer
        stays as it is."""
        merged = nn.Linear(
            self.layer.in_features,
            self.layer.out_features,
            bias=self.layer.bias is not None,
            dtype=self.layer.weight.dtype,
            device=self.layer.weight.device,
        )
        merged.weight.copy_(self.layer.weight + self.delta())
        if self.layer.bias is not None:
            merged.bias.copy_(self.layer.bias)
        return merged
