"""Upcycling of a dense model to a mixture of experts: its feed-forward layers become experts.

The MoE starts where the dense model stopped.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def upcycle(dense, moe, noise: float = 0.02, seed: int = 0) -> None:
    """Upcycle `dense` into `moe` in place: each feed-forward layer is cut into experts.

    Attention, norms and embedding are copied unchanged. The dense layer's
    `groups = intermediate / moe_intermediate` slices are each copied to `experts / groups` experts.
    The router starts with equal rows for the slices of one copy, so that the k = `groups` chosen
    experts are one whole copy of the dense layer; since their weights sum to 1, `down_proj` is
    multiplied by k. At the start both models compute the same function up to `noise` (as in
    "virtual group" initialisation, He et al. 2024).
    """
    generator = torch.Generator().manual_seed(seed)
    config = moe.config
    size, experts, k = config.moe_intermediate_size, config.num_experts, config.num_experts_per_tok
    groups = dense.config.intermediate_size // size
    if groups != k or experts % groups:
        raise ValueError(
            f"The dense layer has {groups} slices, but the router picks {k} of {experts}. Choose"
            " sizes that match."
        )
    source = dict(dense.named_parameters())
    for name, p in moe.named_parameters():
        if name in source:
            p.copy_(source[name])
    for old, new in zip(dense.model.layers, moe.model.layers):
        gate, up, down = old.mlp.gate_proj.weight, old.mlp.up_proj.weight, old.mlp.down_proj.weight
        copies = torch.randn(experts // groups, config.hidden_size, generator=generator) * 0.02
        for e in range(experts):
            rows = slice(size * (e % groups), size * (e % groups + 1))
            new.mlp.experts.gate_up_proj[e].copy_(torch.cat([gate[rows], up[rows]]))
            new.mlp.experts.down_proj[e].copy_(down[:, rows] * k)
            new.mlp.gate.weight[e].copy_(copies[e // groups])
        for weight in (new.mlp.experts.gate_up_proj, new.mlp.experts.down_proj):
            weight.mul_(1 + noise * torch.randn(weight.shape, generator=generator))
