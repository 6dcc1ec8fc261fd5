"""LoRA from scratch: a frozen linear layer with a trained low-rank update.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; results equal those of
`peft.tuners.lora`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from qwen3lab.errors import Qwen3labError


class LoRALinear(nn.Module):
    """Linear layer with a LoRA adapter: W x + (alpha / r) B A dropout(x), W frozen.

    Args:
        layer: the linear layer; its weight and bias are frozen.
        r: rank of the update.
        alpha: the update is scaled by alpha / r, so that another rank needs no other learning rate.
        dropout: share of the adapter's inputs that are set to zero while training.
    Raises:
        Qwen3labError: a rank below 1.
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
        # B = 0, so that training starts from the model as it is.
        self.B = nn.Parameter(torch.zeros(layer.out_features, r))
        # PEFT's initialisation: uniform within 1 / sqrt(in_features).
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[..., in_features]` to `[..., out_features]`."""
        return self.layer(x) + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)

    def delta(self) -> torch.Tensor:
        """Compute the weight update (alpha / r) B A, `[out_features, in_features]`."""
        return self.scale * self.B @ self.A

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Merge the adapter into a new linear layer that computes the same (without dropout).

        This layer is not changed.
        """
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
