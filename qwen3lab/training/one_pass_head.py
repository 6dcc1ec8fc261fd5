"""Compute the loss of a frozen output head and its gradient in one pass over the logits.

TRL computes each tile of the logits twice, once for the loss and once more in the backward pass.
A frozen head needs no gradient of its own, and the gradient of a row's log-probability depends on
that row alone: (one-hot - softmax) W. It can be taken while the logits are there, which leaves two
matrix products where recomputing needs three. The loss's own factor is applied afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from qwen3lab.memory.activations import ONE_PASS_ROWS


def scores(
    logits: torch.Tensor, targets: torch.Tensor, sloped: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Compute what TRL reports for rows of logits [rows, vocabulary], and the slope.

    Returns:
        Log-probability of each target and entropy in float32, whether the target is the argmax,
        each [rows]; and, if `sloped`, the gradient of the log-probabilities with respect to the
        logits, in their format.
    """
    logp = logits.float().log_softmax(-1)
    chosen = logp.gather(1, targets[:, None]).squeeze(1)
    shares = logp.exp()
    entropy, top = -(shares * logp).sum(-1), logits.argmax(-1) == targets
    if not sloped:
        return chosen, entropy, top, None
    places = torch.arange(logits.shape[-1], device=logits.device)
    return chosen, entropy, top, ((places == targets[:, None]).float() - shares).to(logits.dtype)


class OnePassHead(torch.autograd.Function):
    """Log-probability, entropy and correctness of rows under a frozen head without bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        score: Callable = scores,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score rows: hidden [rows, width], weight [vocabulary, width], targets [rows]."""
        kind, sloped = hidden.device.type, ctx.needs_input_grad[0]
        cast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if cast else hidden.dtype
        weight = weight.to(dtype)
        chosen = torch.empty(len(hidden), device=hidden.device)
        entropy, top = torch.empty_like(chosen), torch.empty_like(chosen, dtype=torch.bool)
        gradient = torch.empty_like(hidden) if sloped else None
        for start in range(0, len(hidden), ONE_PASS_ROWS):
            rows = slice(start, start + ONE_PASS_ROWS)
            logits = hidden[rows].to(dtype) @ weight.T
            chosen[rows], entropy[rows], top[rows], slope = score(logits, targets[rows], sloped)
            if sloped:
                gradient[rows] = slope @ weight
            del logits, slope  # or the next rows' logits would lie beside them
        ctx.mark_non_differentiable(entropy, top)
        if sloped:
            ctx.save_for_backward(gradient)
        return chosen, entropy, top

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        """Scale each row's gradient by that of its log-probability, in place."""
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(above[:, None]), None, None, None
