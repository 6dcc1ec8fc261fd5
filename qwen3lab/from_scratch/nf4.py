"""NF4 quantisation from scratch, with double quantisation of the scales and row-wise int8.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs". Codes, bytes and values are
those of bitsandbytes 0.50, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch


def code_book() -> torch.Tensor:
    """Compute the 16 values of NF4 in [-1, 1]: normal quantiles with an exact zero.

    Eight quantiles on the positive side and seven on the negative one, scaled to 1
    (`bitsandbytes.functional.create_normal_map`; QLoRA paper, equation 4).
    """
    import torch

    # mean of 1 - 1/(2*15) and 1 - 1/(2*16): keeps the outermost quantile on either side finite
    edge = 0.9677083
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # bitsandbytes, too, takes quantiles in float64 and scales them in float32.
    normal = torch.distributions.Normal(zero, one)
    positive = normal.icdf(torch.linspace(edge, 0.5, 9)[:-1].double())
    negative = -normal.icdf(torch.linspace(edge, 0.5, 8)[:-1].double())
    values = torch.cat([negative, zero[None], positive]).sort().values.float()
    return values / values.abs().max()


def quantize(
    weight: torch.Tensor, block: int = 64, levels: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight block by block: divide by the block's largest magnitude, round to a level.

    Args:
        weight: any shape; cut into blocks row by row.
        block: weights per block.
        levels: ascending, in [-1, 1]; default: NF4's.
    Returns:
        codes [n / block, block], integers from 0 to 15, and scales [n / block, 1] (float32), as
        `bitsandbytes.functional.quantize_4bit`.
    Raises:
        Qwen3labError: `block` does not divide the number of weights.
    """
    import torch

    if block < 1 or weight.numel() % block:
        raise Qwen3labError(
            f"{weight.numel()} weights cannot be cut into blocks of {block}. Choose a block that"
            " divides their number."
        )
    levels = code_book() if levels is None else levels
    blocks = weight.float().reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)
    # The midpoints between neighbours decide the nearest level. Multiply by 1 / scale instead of
    # dividing: its rounding decides ties.
    scaled = (blocks * (1.0 / scales.clamp(min=1e-38))).clamp(-1, 1)
    return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2), scales


def dequantize(
    codes: torch.Tensor,
    scales: torch.Tensor,
    shape: tuple[int, ...],
    levels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Dequantise codes: the code's level (default: NF4's) times the block's scale, float32."""
    return ((code_book() if levels is None else levels)[codes] * scales).reshape(shape)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Pack pairs of 4-bit codes into bytes, uint8 `[n / 2]`, the first one in the high half."""
    import torch

    pairs = codes.flatten().to(torch.uint8).reshape(-1, 2)
    return (pairs[:, 0] << 4) | pairs[:, 1]


def unpack(packed: torch.Tensor, block: int = 64) -> torch.Tensor:
    """Unpack bytes (any shape, n / 2 bytes) to codes `[n / block, block]`."""
    import torch

    return torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).reshape(-1, block).long()


class DoubleQuantized(NamedTuple):
    """Block scales in 8 bits: codes, second-level scales and offset.

    `codes` [blocks] (uint8), one float32 scale per 256 of them, and the mean that was subtracted.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    offset: torch.Tensor


def dynamic_code_book() -> torch.Tensor:
    """Compute the 256 ascending values of bitsandbytes' dynamic 8-bit format in (-1, 1].

    They are dense near zero and sparse outside. A sign, then zeros that choose a power of ten from
    1e-6 to 1, and evenly spaced values with the remaining bits (Dettmers 2015, "8-Bit
    Approximations for Parallelism in Deep Learning"; `bitsandbytes.functional.create_dynamic_map`).
    """
    import torch

    values = [torch.tensor([0.0, 1.0])]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        middles = 10 ** (power - 6) * ((edges[1:] + edges[:-1]) / 2)
        values += [middles, -middles]
    return torch.cat(values).sort().values


# bitsandbytes' CPU kernel looks up the 8-bit code in a table with this many steps from -1 to 1
CPU_STEPS = 65_535


def double_quantize(scales: torch.Tensor, block: int = 256) -> DoubleQuantized:
    """Quantise block scales to 8 bits: subtract their mean, then one scale per `block` of them.

    The codes are those of bitsandbytes on a CPU, which rounds to a grid of `CPU_STEPS` first: about
    one code in a thousand, where two values are nearly equally near, is then not the nearest but
    its neighbour.
    """
    import torch

    scales = scales.flatten()
    offset = scales.mean()
    rest = torch.nn.functional.pad(scales - offset, (0, -len(scales) % block)).reshape(-1, block)
    largest = rest.abs().amax(1, keepdim=True)
    book = dynamic_code_book()
    grid = (torch.arange(CPU_STEPS + 1, dtype=torch.float64) / CPU_STEPS * 2 - 1).float()
    table = torch.bucketize(grid, (book[1:] + book[:-1]) / 2).to(torch.uint8)
    # A block of equal scales leaves only zeros; bitsandbytes gives them code 0.
    place = ((rest / largest.clamp(min=1e-38) + 1) * (CPU_STEPS / 2) + 0.5).floor().long() * (
        largest > 0
    )
    return DoubleQuantized(table[place].flatten()[: len(scales)], largest.flatten(), offset)


def double_dequantize(quantised: DoubleQuantized, block: int = 256) -> torch.Tensor:
    """Dequantise 8-bit block scales to float32 `[blocks]`."""
    values = dynamic_code_book()[quantised.codes.long()]
    return values * quantised.scales.repeat_interleave(block)[: len(values)] + quantised.offset


def bytes_a_weight(block: int = 64, second: int | None = 256, bits: int = 4) -> float:
    """Compute bytes per weight: its code and its share of the block's scale.

    The scale is float32, or 8 bits plus its share of the second level's scale.

    Args:
        block: weights per scale.
        second: blocks per second-level scale; None: no double quantisation.
        bits: bits per code.
    """
    return bits / 8 + (4 / block if second is None else 1 / block + 4 / (block * second))


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a matrix to int8 row by row: codes `[rows, columns]` and scales `[rows]`.

    Codes are -127 to 127, a scale is the row's largest magnitude, and the weight is codes * scales
    / 127. LLM.int8() without its outliers (Dettmers et al. 2022;
    `bitsandbytes.functional.int8_vectorwise_quant`).
    """
    import torch

    largest = weight.abs().amax(1).float()
    return (weight * (127.0 / largest[:, None])).round().to(torch.int8), largest


def relative_error(kept: torch.Tensor, exact: torch.Tensor) -> float:
    """Compute the RMS error of `kept`, relative to the RMS of `exact`."""
    return ((kept - exact).square().mean() / exact.square().mean()).sqrt().item()
