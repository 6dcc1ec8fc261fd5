"""NF4 from scratch, double quantisation and int8 beside it, and models loaded in 4 bits so that they can also be trained.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs". Codes, bytes and values are those of bitsandbytes 0.50, bit for bit.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen3lab import models, profiles
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_4bit(model_id: str | Path = "chat", *, double_quant: bool = True, device: str | None = None,
              **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model with NF4 weights and its tokenizer, in eval mode.

    Every `nn.Linear` but the output head becomes 4-bit. The experts of a mixture stay as they are, because transformers
    keeps them as one fused tensor and not as `nn.Linear`; `share_4bit` counts it, `experts4bit.quantize_experts` mends it.

    Args:
        model_id: as in `models.load`.
        double_quant: quantise the blocks' scales too (0.516 instead of 0.5625 bytes a weight).
        device: default: the current profile's.
        options: go to `AutoModelForCausalLM.from_pretrained`.
    Raises:
        Qwen3labError: as `models.load`.
    """
    import torch
    from transformers import BitsAndBytesConfig

    profile = profiles.get()
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant,
                                bnb_4bit_compute_dtype=getattr(torch, profile.dtype))
    model, tokenizer = models.load(model_id, device=device, quantization_config=config, **options)
    guard(model)
    return model, tokenizer


def guard(model: torch.nn.Module) -> int:
    """Keep 4-bit layers trainable on a CPU with the instruction set avx512_bf16; returns the number of 4-bit layers.

    On such a CPU bitsandbytes 0.50 repacks a layer's weight at the first forward without gradient, for good, and the
    kernel for that format has no backward: what comes before the layer gets no gradient from then on, with a warning
    at most (`bitsandbytes/nn/modules.py`, `Linear4bit.forward`). So it has to be switched off before the first answer.
    """
    layers = list(layers_4bit(model))
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


@contextmanager
def like_avx512(guarded: bool = True) -> Iterator[None]:
    """Let bitsandbytes do in this block what it does on a CPU with avx512_bf16, for a demonstration on any CPU.

    Layers that are loaded in the block carry its flag and are repacked at their first forward without gradient. The kernel
    that serves them computes what the real one does and, like it, has no backward.

    Args:
        guarded: whether `guard` does its work in the block.
    """
    import bitsandbytes.functional as functional
    import bitsandbytes.nn.modules as modules
    import torch

    def kernel(x: torch.Tensor, packed: torch.Tensor, out: torch.Tensor | None = None, state: Any = None) -> torch.Tensor:
        scales, now = state.absmax.T.float().reshape(-1, 1), copy.copy(state)  # the library's way back writes into the state
        now.original_nested = False
        codes = unpack(functional._convert_weight_packed_for_cpu_inverse(packed, now)[0], state.blocksize)
        with torch.no_grad():
            return torch.nn.functional.linear(x, dequantize(codes, scales, state.shape).to(x.dtype))

    places = ((functional, "gemv_4bit", kernel), (modules, "has_avx512bf16", lambda: True), *([] if guarded else [(_this(), "guard", lambda model: 0)]))
    originals = [getattr(module, name) for module, name, _ in places]
    for module, name, stand_in in places:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for (module, name, _), original in zip(places, originals):
            setattr(module, name, original)


def _this() -> Any:
    return sys.modules[__name__]


def layers_4bit(model: torch.nn.Module):
    """The 4-bit linear layers of a model (`bitsandbytes.nn.Linear4bit`)."""
    import bitsandbytes

    return (module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit))


def share_4bit(model: torch.nn.Module) -> tuple[int, int]:
    """Return (weights that are stored in 4 bits, all weights) of a model, as counts of numbers, tied ones once."""
    quantised = every = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = math.prod(state.shape) if state is not None else parameter.numel()
        every += count
        quantised += count if state is not None else 0
    return quantised, every


def code_book() -> torch.Tensor:
    """The 16 values of NF4 in [-1, 1]: equally likely intervals of a normal distribution, with an exact zero.

    Eight quantiles on the positive side and seven on the negative one, scaled to 1
    (`bitsandbytes.functional.create_normal_map`; QLoRA paper, equation 4).
    """
    import torch

    edge = 0.9677083  # mean of 1 - 1/(2*15) and 1 - 1/(2*16): the outermost quantile of either side, as finite
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
    normal = torch.distributions.Normal(zero, one)  # bitsandbytes, too, takes quantiles in float64 and scales them in float32
    positive = normal.icdf(torch.linspace(edge, 0.5, 9)[:-1].double())
    negative = -normal.icdf(torch.linspace(edge, 0.5, 8)[:-1].double())
    values = torch.cat([negative, zero[None], positive]).sort().values.float()
    return values / values.abs().max()


def even_levels() -> torch.Tensor:
    """Sixteen evenly spaced values from -1 to 1, what a 4-bit integer can name."""
    import torch

    return torch.linspace(-1, 1, 16)


def quantize(weight: torch.Tensor, block: int = 64, levels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight by blocks: each `block` numbers are divided by their largest magnitude and rounded to the nearest level.

    Args:
        weight: any shape; cut into blocks row by row.
        levels: ascending, in [-1, 1]; default: NF4's.
    Returns:
        codes [n / block, block], whole numbers from 0 to 15, and scales [n / block, 1] (float32), as `bitsandbytes.functional.quantize_4bit`.
    Raises:
        Qwen3labError: the number of weights does not divide by `block`.
    """
    import torch

    if block < 1 or weight.numel() % block:
        raise Qwen3labError(f"{weight.numel()} weights cannot be cut into blocks of {block}. Choose a block that divides their number.")
    levels = code_book() if levels is None else levels
    blocks = weight.float().reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)
    # The nearest level is told by the midpoints between neighbours. A factor 1 / scale instead of a division: its rounding decides ties.
    scaled = (blocks * (1.0 / scales.clamp(min=1e-38))).clamp(-1, 1)
    return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2), scales


def dequantize(codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...], levels: torch.Tensor | None = None) -> torch.Tensor:
    """The weight that 4 bits keep of the original: the code's level (default: NF4's) times the block's scale, float32."""
    return ((code_book() if levels is None else levels)[codes] * scales).reshape(shape)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes in a byte, the first one in the high half: codes of an even number to uint8 `[n / 2]`."""
    import torch

    pairs = codes.flatten().to(torch.uint8).reshape(-1, 2)
    return (pairs[:, 0] << 4) | pairs[:, 1]


def unpack(packed: torch.Tensor, block: int = 64) -> torch.Tensor:
    """The codes `[n / block, block]` of packed bytes (any shape, n / 2 bytes)."""
    import torch

    return torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).reshape(-1, block).long()


class DoubleQuantized(NamedTuple):
    """Scales of blocks in 8 bits: codes `[blocks]` (uint8), a scale (float32) for each 256 of them, and the mean that was taken off."""

    codes: torch.Tensor
    scales: torch.Tensor
    offset: torch.Tensor


def dynamic_code_book() -> torch.Tensor:
    """The 256 values of bitsandbytes' 8-bit format in (-1, 1], ascending: fine near zero, coarse outside.

    A sign, then zeros that choose a power of ten from 1e-6 to 1, and evenly spaced values with the bits that are left
    (Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning"; `bitsandbytes.functional.create_dynamic_map`).
    """
    import torch

    values = [torch.tensor([0.0, 1.0])]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        middles = 10 ** (power - 6) * ((edges[1:] + edges[:-1]) / 2)
        values += [middles, -middles]
    return torch.cat(values).sort().values


CPU_STEPS = 65_535  # bitsandbytes' CPU kernel looks the 8-bit code up in a table of so many steps from -1 to 1


def double_quantize(scales: torch.Tensor, block: int = 256) -> DoubleQuantized:
    """Quantise the scales of blocks: their mean is taken off, and what is left rounded to 8 bits, with one scale for each `block`.

    The codes are those of bitsandbytes on a CPU, which rounds to a grid of `CPU_STEPS` first: about one code in a thousand,
    where two values are nearly equally near, is then not the nearest but its neighbour.
    """
    import torch

    scales = scales.flatten()
    offset = scales.mean()
    rest = torch.nn.functional.pad(scales - offset, (0, -len(scales) % block)).reshape(-1, block)
    largest = rest.abs().amax(1, keepdim=True)
    book = dynamic_code_book()
    grid = (torch.arange(CPU_STEPS + 1, dtype=torch.float64) / CPU_STEPS * 2 - 1).float()
    table = torch.bucketize(grid, (book[1:] + book[:-1]) / 2).to(torch.uint8)
    # A block whose scales are all equal has nothing left; bitsandbytes gives it code 0.
    place = ((rest / largest.clamp(min=1e-38) + 1) * (CPU_STEPS / 2) + 0.5).floor().long() * (largest > 0)
    return DoubleQuantized(table[place].flatten()[:len(scales)], largest.flatten(), offset)


def double_dequantize(quantised: DoubleQuantized, block: int = 256) -> torch.Tensor:
    """The scales `[blocks]` that their 8 bits keep, float32."""
    values = dynamic_code_book()[quantised.codes.long()]
    return values * quantised.scales.repeat_interleave(block)[:len(values)] + quantised.offset


def bytes_a_weight(block: int = 64, second: int | None = 256, bits: int = 4) -> float:
    """Bytes that a weight takes: its code, its share of the block's scale (float32), or of that in 8 bits and of the second level's.

    Args:
        second: blocks to a scale of the second level; None: no double quantisation.
    """
    return bits / 8 + (4 / block if second is None else 1 / block + 4 / (block * second))


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a matrix row by row to whole numbers from -127 to 127: codes `[rows, columns]` (int8) and scales `[rows]`, the largest magnitudes.

    LLM.int8() without its outliers (Dettmers et al. 2022; `bitsandbytes.functional.int8_vectorwise_quant`). The weight is
    codes * scales / 127.
    """
    import torch

    largest = weight.abs().amax(1).float()
    return (weight * (127.0 / largest[:, None])).round().to(torch.int8), largest


def relative_error(kept: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, in units of the root mean square of the exact numbers."""
    return ((kept - exact).square().mean() / exact.square().mean()).sqrt().item()
