"""Reproduce, on any CPU, the lost gradients of a 4-bit model on a CPU with avx512_bf16."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qwen3lab.from_scratch.nf4 import dequantize, unpack
from qwen3lab.models import four_bit

if TYPE_CHECKING:
    import torch


@contextmanager
def like_avx512(guarded: bool = True) -> Iterator[None]:
    """Make bitsandbytes behave, in this block, as it does on a CPU with avx512_bf16.

    Layers that are loaded in the block carry its flag and are repacked at their first forward pass
    without gradients. The kernel that then serves them computes what the real one does and, like
    it, has no backward pass.

    Args:
        guarded: whether `guard` does its work in the block.
    """
    places = _places(guarded)
    originals = [(module, name, getattr(module, name)) for module, name, _ in places]
    _put(places)
    try:
        yield
    finally:
        _put(originals)


def _places(guarded: bool) -> list[tuple[Any, str, Any]]:
    """List what is replaced: module, name and the stand-in."""
    import bitsandbytes.functional as functional
    import bitsandbytes.nn.modules as modules

    places = [
        (functional, "gemv_4bit", _kernel),  # serves repacked layers
        (modules, "has_avx512bf16", lambda: True),  # asked once for each layer that is loaded
    ]
    if not guarded:
        places.append((four_bit, "guard", lambda model: 0))
    return places


def _put(places: list[tuple[Any, str, Any]]) -> None:
    for module, name, value in places:
        setattr(module, name, value)


def _kernel(
    x: torch.Tensor, packed: torch.Tensor, out: torch.Tensor | None = None, state: Any = None
) -> torch.Tensor:
    """Multiply by a repacked 4-bit matrix, with the arguments of `gemv_4bit`, without gradients."""
    import bitsandbytes.functional as functional
    import torch

    # 1. Undo the repacking. The library's inverse writes into the state, so it gets a copy.
    scales, now = state.absmax.T.float().reshape(-1, 1), copy.copy(state)
    now.original_nested = False
    plain = functional._convert_weight_packed_for_cpu_inverse(packed, now)[0]
    # 2. Multiply by the weights of the codes.
    codes = unpack(plain, state.blocksize)
    with torch.no_grad():  # the real kernel has no backward pass either
        return torch.nn.functional.linear(x, dequantize(codes, scales, state.shape).to(x.dtype))
