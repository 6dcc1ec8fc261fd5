"""AWQ from scratch for layers that share an input: scale up columns with large activations, round.

Lin et al. 2024, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
section 3.2. Grid of exponents, means, rounding and clipping are those of gptqmodel
(`gptqmodel/looper/awq_processor.py`, versions 7.6 and 7.7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch


STEPS = 20  # number of exponents tried: 0, 1/20, ... 19/20
CLIPS = 10  # number of ranges tried: 1, 0.95, ... 0.55 of the largest weight
TOKENS = 512  # approximate number of inputs that judge a clipped range


@dataclass(frozen=True)
class Scaling:
    """Result of the AWQ search: one factor per input channel, and the error of every exponent."""

    alpha: float  # the exponent with the smallest error
    scales: torch.Tensor  # [columns]; weights are multiplied by them, inputs divided
    errors: list[float]  # mean squared output error at the exponents k / STEPS


def round_groups(
    weight: torch.Tensor, group_size: int = 128, bits: int = 4, symmetric: bool = True
) -> torch.Tensor:
    """Round a weight [rows, columns] to nearest in groups and dequantise it, same shape.

    Symmetric: steps of largest magnitude / (2**(bits-1) - 1). Otherwise steps of range / (2**bits -
    1) from a zero point. A group size of -1 means one group per row.

    Raises:
        Qwen3labError: the group size does not divide the number of columns.
    """
    rows, columns = weight.shape
    size = columns if group_size < 1 else group_size
    if columns % size:
        raise Qwen3labError(
            f"{columns} columns do not divide by the group size {group_size}. Choose a smaller"
            " group, such as 32."
        )
    groups = weight.reshape(-1, size)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        step = groups.abs().amax(1, keepdim=True).clamp(min=1e-5) / most
        return ((groups / step).round().clamp(-most - 1, most) * step).reshape(rows, columns)
    most = 2**bits - 1
    low = groups.amin(1, keepdim=True)
    step = (groups.amax(1, keepdim=True) - low).clamp(min=1e-5) / most
    zero = (-(low / step).round()).clamp(0, most)
    return ((((groups / step).round() + zero).clamp(0, most) - zero) * step).reshape(rows, columns)


def weight_size(weights: Sequence[torch.Tensor], group_size: int = 128) -> torch.Tensor:
    """Compute the mean relative weight size per column: |w| / largest |w| of its group, [columns].

    The mean is over all rows of all weights.
    """
    import torch

    every = torch.cat([weight.float() for weight in weights]).abs()
    size = every.shape[1] if group_size < 1 else group_size
    groups = every.reshape(len(every), -1, size)
    return (groups / (groups.amax(2, keepdim=True) + 1e-6)).reshape(every.shape).mean(0)


def candidate(alpha: float, active: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Compute the channel factors [columns] at one exponent.

    They are active**alpha / sizes**(1 - alpha), scaled so that smallest * largest = 1.

    Args:
        active: mean |input| of each channel. Active channels get finer steps.
        sizes: see `weight_size`. Columns of small weights get finer steps, too (AutoAWQ calls
            this duo scaling).
    """
    scales = (active.pow(alpha) / (sizes.pow(1 - alpha) + 1e-4)).clamp(min=1e-4)
    return scales / (scales.max() * scales.min()).sqrt()


def search(
    weights: Sequence[torch.Tensor],
    inputs: torch.Tensor,
    *,
    group_size: int = 128,
    bits: int = 4,
    symmetric: bool = True,
    outputs: Callable[[list[torch.Tensor]], torch.Tensor] | None = None,
) -> Scaling:
    """Search the AWQ exponent whose rounded weights change the outputs least (mean squared error).

    Args:
        weights: the layers [rows, columns] that read the same input, such as gate and up
            projection.
        inputs: [n, columns], their shared input.
        outputs: maps a list of changed weights to the outputs that are compared; default: the
            layers' own outputs side by side. The library runs the whole attention or MLP block.
    Raises:
        Qwen3labError: no weights, or columns that do not match.
    """
    import torch

    inputs = inputs.reshape(-1, inputs.shape[-1]).float()
    if not weights or any(weight.shape[1] != inputs.shape[1] for weight in weights):
        raise Qwen3labError(
            f"The layers do not read inputs of {inputs.shape[1]} channels. Give the layers that"
            " share this input."
        )
    weights = [weight.detach().float() for weight in weights]
    outputs = outputs or (lambda changed: torch.cat([inputs @ weight.T for weight in changed], 1))
    exact, active, sizes = outputs(weights), inputs.abs().mean(0), weight_size(weights, group_size)
    tried, errors = [], []
    for step in range(STEPS):
        scales = candidate(step / STEPS, active, sizes)
        kept = [
            round_groups(weight * scales, group_size, bits, symmetric) / scales
            for weight in weights
        ]
        tried.append(scales)
        errors.append((outputs(kept) - exact).square().mean().item())
    best = min(range(STEPS), key=errors.__getitem__)
    return Scaling(best / STEPS, tried[best], errors)


def fold(
    before: torch.Tensor, weights: Sequence[torch.Tensor], scales: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Fold the factors into the preceding weight and the layers.

    What comes before is divided, the layers are multiplied, so the outputs do not change yet.

    Args:
        before: a norm's weight [columns], or the weight [columns, any] of the linear layer that
            makes the inputs.
    Returns:
        The new `before`, and the new weights, ready to be rounded.
    """
    return before / (scales if before.ndim == 1 else scales[:, None]), [
        weight * scales for weight in weights
    ]


def clip(
    weight: torch.Tensor,
    inputs: torch.Tensor,
    *,
    group_size: int = 128,
    bits: int = 4,
    symmetric: bool = True,
) -> torch.Tensor:
    """Search each group's clipping limit: clip the largest weights where finer steps pay off.

    Args:
        weight: [rows, columns]; inputs: [n, columns], both after scaling.
    Returns:
        The largest magnitude that each group may keep, [rows, groups, 1].
    """
    import torch

    rows, columns = weight.shape
    size = columns if group_size < 1 else group_size
    inputs = inputs.reshape(-1, columns).float()
    inputs = inputs[:: max(1, len(inputs) // TOKENS)].reshape(-1, columns // size, size)
    groups = weight.detach().float().reshape(rows, -1, size)

    # [rows, n, groups]: what each group adds to the outputs
    def partial(part: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ngs,rgs->rng", inputs, part)

    exact, largest = partial(groups), groups.abs().amax(2, keepdim=True)
    best, least = largest.clone(), torch.full(largest.shape, torch.inf)
    for step in range(CLIPS):
        limit = largest * (1 - step / (2 * CLIPS))
        kept = round_groups(
            groups.clamp(-limit, limit).reshape(rows, columns), size, bits, symmetric
        ).reshape(groups.shape)
        error = (partial(kept) - exact).square().mean(1)[..., None]
        better = error < least
        best, least = torch.where(better, limit, best), torch.where(better, error, least)
    return best
