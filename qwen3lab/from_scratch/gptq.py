"""GPTQ from scratch for one layer: round column by column, pass each error on to later columns.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", algorithm 1. Damping, grid and order of the columns are the defaults of gptqmodel 7.6
(`gptqmodel/quantization/gptq.py`, `quantizer.py`, `gar.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch


DAMP = 0.05  # share of the mean diagonal that is added to the diagonal
BLOCK = 128  # columns per block: errors update later columns only after the whole block
ORDERS = ("natural", "activation", "group")


@dataclass(frozen=True)
class Rounded:
    """Quantised weight of a layer as integer codes with scales and zero points.

    weight[:, i] = scales[:, groups[i]] * (codes[:, i] - zeros[:, groups[i]]).
    """

    codes: torch.Tensor  # [rows, columns], whole numbers from 0 to 2**bits - 1
    scales: torch.Tensor  # [rows, number of groups]
    zeros: torch.Tensor  # [rows, number of groups], whole numbers
    groups: torch.Tensor  # [columns], the group of each column

    def weight(self) -> torch.Tensor:
        """Dequantise the weight, [rows, columns], float32."""
        return self.scales[:, self.groups] * (self.codes - self.zeros[:, self.groups])


def hessian(inputs: torch.Tensor) -> torch.Tensor:
    """Compute GPTQ's Hessian 2 / n * X^T X of inputs [n, columns], as [columns, columns], float32.

    It tells which inputs of a layer are active together: the second derivative of the squared
    output error by any row of the weight, the same for all rows.
    """
    inputs = inputs.reshape(-1, inputs.shape[-1]).float()
    return inputs.T @ inputs * (2.0 / len(inputs))


def grid(
    weights: torch.Tensor, bits: int = 4, symmetric: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scale and zero point [rows, 1] of a group of weights [rows, size] from its range.

    Symmetric: the zero point is the middle code, and the range reaches as far below zero as above.
    A row without negative weights gets half of that range, as in the library: its larger weights
    are clipped to half of the maximum. This is very rare in groups of 32 and more.
    """
    import torch

    most = 2**bits - 1
    low, high = (
        weights.amin(1, keepdim=True).clamp(max=0),
        weights.amax(1, keepdim=True).clamp(min=0),
    )
    if symmetric:
        high = torch.maximum(low.abs(), high)
        low = torch.where(low < 0, -high, low)
    empty = (low == 0) & (high == 0)
    low, high = low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)
    scale = (high - low) / most
    return scale, torch.full_like(scale, (most + 1) / 2) if symmetric else (-low / scale).round()


def codes(
    weights: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int = 4
) -> torch.Tensor:
    """Round weights [rows, size] to integer codes from 0 to 2**bits - 1."""
    return ((weights / scale).round() + zero).clamp(0, 2**bits - 1)


def nearest(
    weight: torch.Tensor, *, bits: int = 4, group_size: int = 128, symmetric: bool = True
) -> Rounded:
    """Round to nearest without looking at inputs: the baseline for GPTQ.

    Arguments as in `quantize`.
    """
    import torch

    weight, size = weight.detach().float(), _group(weight, group_size)
    parts = [(part, *grid(part, bits, symmetric)) for part in weight.split(size, 1)]
    return Rounded(
        torch.cat([codes(*part, bits) for part in parts], 1),
        torch.cat([scale for _, scale, _ in parts], 1),
        torch.cat([zero for *_, zero in parts], 1),
        torch.arange(weight.shape[1]) // size,
    )


def order_columns(diagonal: torch.Tensor, group_size: int, order: str) -> torch.Tensor:
    """Order the columns for rounding: the most active first, as later ones can absorb the error.

    Args:
        diagonal: of the Hessian, [columns].
        order: "natural"; "activation" (act-order: over all columns, after which the groups mix
            columns from everywhere); "group" (columns within their group, and groups by their most
            active column: each group stays together in memory; Gafni et al. 2025, "Dual Precision
            Quantization", the library's default).
    """
    import torch

    if order == "natural":
        return torch.arange(len(diagonal))
    if order == "activation":
        return torch.argsort(diagonal, descending=True)
    size = len(diagonal) if group_size < 1 else group_size
    values, places = diagonal.reshape(-1, size).sort(dim=1, descending=True)
    first = torch.argsort(values[:, 0], descending=True, stable=True)
    return (places + torch.arange(len(places))[:, None] * size)[first].flatten()


def inverse_factor(hessian: torch.Tensor, damp: float = DAMP) -> torch.Tensor:
    """Compute the upper Cholesky factor U of the damped Hessian's inverse (inverse = U^T U).

    Row i of U [columns, columns] holds, up to a factor, the change that the error of column i
    should make in the later columns (the paper's step 3).
    """
    import torch

    damped = hessian + torch.diag(torch.full((len(hessian),), damp)) * hessian.diagonal().mean()
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def quantize(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    order: str = "group",
    damp: float = DAMP,
    feedback: bool = True,
) -> Rounded:
    """Quantise a linear layer's weight by GPTQ.

    Args:
        weight: [rows, columns] as in `nn.Linear`; it is not changed.
        hessian: [columns, columns], see `hessian`. The weights of an input that is never active
            become 0.
        group_size: neighbouring columns that share a row's scale; -1: all columns.
        symmetric: whether the zero point is the middle code.
        order: see `order_columns`.
        damp: see `inverse_factor`.
        feedback: False passes no errors on, which leaves plain rounding to nearest.
    Returns:
        Codes, scales, zero points and groups in the weight's original column order.
    Raises:
        Qwen3labError: unknown order, shapes that do not fit, columns that do not divide by the
            group size, a Hessian that is not positive definite after damping.
    """
    import torch

    if order not in ORDERS:
        raise Qwen3labError(f"Unknown order {order!r}. Use one of: {', '.join(ORDERS)}.")
    rows, columns = weight.shape
    size = _group(weight, group_size)
    if hessian.shape != (columns, columns):
        raise Qwen3labError(
            f"The layer has {columns} inputs, but the hessian is {tuple(hessian.shape)}. Compute it"
            " from the inputs of this layer."
        )
    rest, known = weight.detach().float().clone(), hessian.float().clone()
    dead = known.diagonal() == 0
    known[dead, dead] = 1
    rest[:, dead] = 0
    places = order_columns(known.diagonal(), group_size, order)
    rest, known = rest[:, places], known[places][:, places]
    try:
        factor = inverse_factor(known, damp)
    except torch.linalg.LinAlgError as error:
        raise Qwen3labError(
            "The hessian is not positive definite. Give more calibration texts, or a larger damp."
        ) from error
    whole, scales, zeros = torch.zeros_like(rest), [], []
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, errors = rest[:, start:end].clone(), torch.zeros(rows, end - start)
        for i in range(end - start):
            # A scale sees the errors that earlier blocks passed on, not yet those of this block.
            if (start + i) % size == 0:
                scale, zero = grid(rest[:, start + i : start + i + size], bits, symmetric)
                scales.append(scale)
                zeros.append(zero)
            whole[:, start + i] = codes(block[:, i : i + 1], scale, zero, bits).flatten()
            kept = (scale * (whole[:, start + i : start + i + 1] - zero)).flatten()
            errors[:, i] = (block[:, i] - kept) / factor[start + i, start + i]
            if feedback:
                block[:, i:] -= errors[:, i, None] * factor[start + i, start + i : end]
        if feedback:
            rest[:, end:] -= errors @ factor[start:end, end:]
    back = places.argsort()
    groups = (torch.arange(columns) // size)[back]
    scales, zeros = torch.cat(scales, 1), torch.cat(zeros, 1)
    if order == "group":  # number the groups by their position in memory again
        first = places[::size] // size
        numbers = first.argsort()
        scales, zeros, groups = scales[:, numbers], zeros[:, numbers], torch.arange(columns) // size
    return Rounded(whole[:, back], scales, zeros, groups)


def output_error(weight: torch.Tensor, kept: torch.Tensor, inputs: torch.Tensor) -> float:
    """Compute a layer's relative output error |X (kept - weight)^T| / |X weight^T|.

    `inputs` X are [n, columns].
    """
    inputs = inputs.reshape(-1, inputs.shape[-1]).float()
    return ((inputs @ (kept - weight).T).norm() / (inputs @ weight.T).norm()).item()


def _group(weight: torch.Tensor, group_size: int) -> int:
    columns = weight.shape[1]
    size = columns if group_size < 1 else group_size
    if columns % size:
        raise Qwen3labError(
            f"{columns} columns do not divide by the group size {group_size}. Choose a smaller"
            " group, such as 32."
        )
    return size
