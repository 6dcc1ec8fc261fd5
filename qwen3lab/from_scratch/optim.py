"""Optimisation from scratch: AdamW, schedules, clipping, gradient accumulation, loss scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from qwen3lab.errors import Qwen3labError

Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def adamw_step(
    w: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.01,
) -> Step:
    """Compute one step of AdamW: weight decay shrinks the weight itself, not the moments.

    Args:
        w, g: weight and gradient.
        m, v: running averages of g and of g * g, zeros before the first step; all of one shape.
        t: number of the step, counted from 1.
        lr, decay: the weight loses the share lr * decay of itself.
        eps: keeps the denominator above zero.
    Returns:
        New weight, m and v, of the same shape; nothing is changed in place.
    Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2; equals
    `torch.optim.AdamW`.
    """
    return _adam(w * (1 - lr * decay), g, m, v, t, lr, beta1, beta2, eps)


def adam_l2_step(
    w: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.01,
) -> Step:
    """Compute one step of Adam with L2 regularisation: the decay inside the gradient, unlike AdamW.

    The pull towards zero is divided by sqrt(v) like the rest of the gradient, so weights with large
    gradients hardly decay.
    Arguments and result as `adamw_step`. Source: the same paper, algorithm 2; equals
    `torch.optim.Adam(weight_decay=...)`.
    """
    return _adam(w, g + decay * w, m, v, t, lr, beta1, beta2, eps)


def _adam(w, g, m, v, t, lr, beta1, beta2, eps) -> Step:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    return w - lr * step, m, v


def linear_rate(step: int, steps: int, warmup: int, rate: float) -> float:
    """Compute the learning rate of a linear schedule with warm-up, for step 0 to steps - 1.

    It rises from 0 to `rate` in `warmup` steps, then falls to 0 on a straight line. Equals
    `transformers.get_linear_schedule_with_warmup`.
    """
    if step < warmup:
        return rate * step / warmup
    return rate * max(0.0, (steps - step) / max(1, steps - warmup))


def cosine_rate(step: int, steps: int, warmup: int, rate: float) -> float:
    """Compute the learning rate of a cosine schedule with warm-up, for step 0 to steps - 1.

    As `linear_rate`, but it falls along half a cosine wave (Loshchilov & Hutter 2017, "SGDR").
    Equals `transformers.get_cosine_schedule_with_warmup`.
    """
    if step < warmup:
        return rate * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return rate * max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


def clip(gradients: Sequence[torch.Tensor], max_norm: float) -> tuple[list[torch.Tensor], float]:
    """Clip gradients by global norm: scale all by one factor, so that it is at most `max_norm`.

    Returns:
        The gradients, of the same shapes, and the norm before clipping.
    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"; equals
    `torch.nn.utils.clip_grad_norm_`, including the 1e-6 in the denominator.
    """
    norm = torch.stack([g.norm() for g in gradients]).norm()
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return [g * factor for g in gradients], float(norm)


def token_mean(
    losses: Sequence[torch.Tensor], masks: Sequence[torch.Tensor], per_batch: bool = False
) -> torch.Tensor:
    """Compute the loss of an optimiser step from several micro-batches (gradient accumulation).

    Args:
        losses: the loss of each token in nats, one tensor [rows, tokens] per micro-batch.
        masks: of the same shapes, 1 or True where the token is trained.
        per_batch: False divides the sum by all trained tokens, as one large batch would
            (`num_items_in_batch` of transformers' Trainer). True is the trap: the mean of the batch
            means, in which a token of a batch with few trained tokens counts more than the others.
    Raises:
        Qwen3labError: a batch without trained tokens, whose mean does not exist.
    """
    if not all(mask.any() for mask in masks):
        raise Qwen3labError(
            "A batch has no trained token, so it has no loss. Leave out rows in which every label"
            " is masked."
        )
    sums = [(loss * mask).sum() for loss, mask in zip(losses, masks, strict=True)]
    counts = [mask.sum() for mask in masks]
    if per_batch:
        return torch.stack([total / count for total, count in zip(sums, counts)]).mean()
    return torch.stack(sums).sum() / torch.stack(counts).sum()


def changed(weights: torch.Tensor, steps: torch.Tensor | float, dtype: torch.dtype) -> float:
    """Compute the share of weights, in [0, 1], that an update changes when stored in `dtype`.

    bfloat16 keeps 8 binary digits, so a step below about 1/512 of the weight rounds back to the old
    value (1.0 - 0.001 is 1.0 again).
    """
    stored = weights.to(dtype)
    return float(((stored.float() - steps).to(dtype) != stored).float().mean())


class LossScaler:
    """Dynamic loss scaling for float16, whose smallest number is 6e-8 and whose largest is 65,504.

    The loss is multiplied before the backward pass, so that small gradients do not become 0; the
    gradients are divided before the step. If a gradient overflowed, the step is skipped and the
    scale halved. After `patience` good steps in a row the scale is doubled.

    Source: Micikevicius et al. 2018, "Mixed Precision Training"; equals `torch.amp.GradScaler`.
    """

    def __init__(self, scale: float = 2.0**16, patience: int = 2000):
        self.scale, self.patience, self.good, self.skipped = scale, patience, 0, 0

    def unscale(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """Unscale gradients of the scaled loss to float32, or return None to skip this step.

        Call it once per step: it also sets the scale of the next one.
        """
        if not all(torch.isfinite(g).all() for g in gradients):
            self.scale, self.good, self.skipped = self.scale / 2, 0, self.skipped + 1
            return None
        found = [g.float() / self.scale for g in gradients]
        self.good += 1
        if self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0
        return found
