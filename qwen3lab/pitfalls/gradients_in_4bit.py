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
    import bitsandbytes.functional as functional
    import bitsandbytes.nn.modules as modules
    import torch

    def kernel(
        x: torch.Tensor, packed: torch.Tensor, out: torch.Tensor | None = None, state: Any = None
    ) -> torch.Tensor:
        scales, now = (
            state.absmax.T.float().reshape(-1, 1),
            copy.copy(state),
        )  # the library's inverse writes into the state
        now.original_nested = False
        codes = unpack(
            functional._convert_weight_packed_for_cpu_inverse(packed, now)[0], state.blocksize
        )
        with torch.no_grad():
            return torch.nn.functional.linear(x, dequantize(codes, scales, state.shape).to(x.dtype))

    places = (
        (functional, "gemv_4bit", kernel),
        (modules, "has_avx512bf16", lambda: True),
        *([] if guarded else [(four_bit, "guard", lambda model: 0)]),
    )
    originals = [getattr(module, name) for module, name, _ in places]
    for module, name, stand_in in places:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for (module, name, _), original in zip(places, originals):
            setattr(module, name, original)
