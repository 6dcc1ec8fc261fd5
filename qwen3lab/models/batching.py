"""Batch rows of token ids: sort by length, pad, mask, and read them with a model in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qwen3lab.models import loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ORDERS = ("as given", "shortest first", "longest first")


def pad(
    rows: Sequence[Sequence[int]], fill: int = 0, side: str = "right", device: object = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of token ids to the longest: (ids, mask), both int64 `[rows, length]`.

    Args:
        fill: what stands where a row has nothing.
        side: "right" for training and scoring; "left" for generation, so that every answer begins
            in the same column.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(list(row), dtype=torch.long) for row in rows]
    padded = pad_sequence(ids, batch_first=True, padding_value=fill, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True, padding_side=side)
    return padded.to(device), mask.to(device)


def double(values: torch.Tensor) -> torch.Tensor:
    """Convert to float64, on the device if it has that format; Apple's MPS has not: on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Count positions from the first real token, so that padding on the left moves none of them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def batches(
    rows: Sequence[Sequence[int]],
    size: int,
    *,
    order: str = "shortest first",
    fill: int = 0,
    side: str = "right",
    device: object = None,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield batches of rows of similar length: (places in `rows`, ids, mask) as `pad` gives them.

    Args:
        size: rows per batch.
        order: one of `ORDERS`. "longest first" finds out at once whether memory is enough.
    """
    places = list(range(len(rows)))
    if order != "as given":
        places.sort(key=lambda place: len(rows[place]), reverse=order == "longest first")
    for start in range(0, len(places), size):
        batch = places[start : start + size]
        yield (batch, *pad([rows[place] for place in batch], fill, side, device))


@contextmanager
def reading(model: PreTrainedModel, most_threads: int = 2) -> Iterator[None]:
    """Put a model into eval mode without gradients while it reads, and back into its mode after."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), loading.more_threads(model.device, most=most_threads):
            yield
    finally:
        model.train(was_training)
