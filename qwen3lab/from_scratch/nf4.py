"""NF4 from scratch, double quantisation and int8 beside it, and models loaded in 4 bits so that
they can also be trained.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs". Codes, bytes and values are
those of bitsandbytes 0.50, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch


def code_book() -> torch.Tensor:
    """The 16 values of NF4 in [-1, 1]: equally likely intervals of a normal distribution, with an
    exact zero.

    Eight quantiles on the positive side and seven on the negative one, scaled to 1
    (`bitsandbytes.functional.create_normal_map`; QLoRA paper, equation 4).
    """
    import torch

    # mean of 1 - 1/(2*15) and 1 - 1/(2*16): the outermost quantile of either side, as finite
    edge = 0.9677083
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
    normal = torch.distributions.Normal(
        zero, one
    )  # bitsandbytes, too, takes quantiles in float64 and scales them in float32
    positive = normal.icdf(torch.linspace(edge, 0.5, 9)[:-1].double())
    negative = -normal.icdf(torch.linspace(edge, 0.5, 8)[:-1].double())
    values = torch.cat([negative, zero[None], positive]).sort().values.float()
    return values / values.abs().max()


def even_levels() -> torch.Tensor:
    """Sixteen evenly spaced values from -1 to 1, what a 4-bit integer can name."""
    import torch

    return torch.linspace(-1, 1, 16)


def quantize(
    weight: torch.Tensor, block: int = 64, levels: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight by blocks: each `block` numbers are divided by their largest magnitude and
    rounded to the nearest level.

    Args:
        weight: any shape; cut into blocks row by row.
        levels: ascending, in [-1, 1]; default: NF4's.
    Returns:
        codes [n / block, block], whole numbers from 0 to 15, and scales [n / block, 1] (float32),
        as `bitsandbytes.functional.quantize_4bit`.
    Raises:
        Qwen3labError: the number of weights does not divide by `block`.
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
    # The nearest level is told by the midpoints between neighbours. A factor 1 / scale instead of a
    # division: its rounding decides ties.
    scaled = (blocks * (1.0 / scales.clamp(min=1e-38))).clamp(-1, 1)
    return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2), scales


def dequantize(
    codes: torch.Tensor,
    scales: torch.Tensor,
    shape: tuple[int, ...],
    levels: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weight that 4 bits keep of the original: the code's level (default: NF4's) times the
    block's scale, float32.
    """
    return ((code_book() if levels is None else levels)[codes] * scales).reshape(shape)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes in a byte, the first one in the high half: codes of an even number to uint8
    `[n / 2]`.
    """
    import torch

    pairs = codes.flatten().to(torch.uint8).reshape(-1, 2)
    return (pairs[:, 0] << 4) | pairs[:, 1]


def unpack(packed: torch.Tensor, block: int = 64) -> torch.Tensor:
    """The codes `[n / block, block]` of packed bytes (any shape, n / 2 bytes)."""
    import torch

    return torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).reshape(-1, block).long()


class DoubleQuantized(NamedTuple):
    """Scales of blocks in 8 bits: codes `[blocks]` (uint8), a scale (float32) for each 256 of them,
    and the mean that was taken off.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    offset: torch.Tensor


def dynamic_code_book() -> torch.Tensor:
    """The 256 values of bitsandbytes' 8-bit format in (-1, 1], ascending: fine near zero, coarse
    outside.

    A sign, then zeros that choose a power of ten from 1e-6 to 1, and evenly spaced values with the
    bits that are left (Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning";
    `bitsandbytes.functional.create_dynamic_map`).
    """
    import torch

    values = [torch.tensor([0.0, 1.0])]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        middles = 10 ** (power - 6) * ((edges[1:] + edges[:-1]) / 2)
        values += [middles, -middles]
    return torch.cat(values).sort().values


# bitsandbytes' CPU kernel looks the 8-bit code up in a table of so many steps from -1 to 1
CPU_STEPS = 65_535


def double_quantize(scales: torch.Tensor, block: int = 256) -> DoubleQuantized:
    """Quantise the scales of blocks: their mean is taken off, and what is left rounded to 8 bits,
    with one scale for each `block`.

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
    # A block whose scales are all equal has nothing left; bitsandbytes gives it code 0.
    place = ((rest / largest.clamp(min=1e-38) + 1) * (CPU_STEPS / 2) + 0.5).floor().long() * (
        largest > 0
    )
    return DoubleQuantized(table[place].flatten()[: len(scales)], largest.flatten(), offset)


def double_dequantize(quantised: DoubleQuantized, block: int = 256) -> torch.Tensor:
    """The scales `[blocks]` that their 8 bits keep, float32."""
    values = dynamic_code_book()[quantised.codes.long()]
    return values * quantised.scales.repeat_interleave(block)[: len(values)] + quantised.offset


def bytes_a_weight(block: int = 64, second: int | None = 256, bits: int = 4) -> float:
    """Bytes that a weight takes: its code, its share of the block's scale (float32), or of that in
    8 bits and of the second level's.

    Args:
        second: blocks to a scale of the second level; None: no double quantisation.
    """
    return bits / 8 + (4 / block if second is None else 1 / block + 4 / (block * second))


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a matrix row by row to whole numbers from -127 to 127: codes `[rows, columns]`
    (int8) and scales `[rows]`, the largest magnitudes.

    LLM.int8() without its outliers (Dettmers et al. 2022;
    `bitsandbytes.functional.int8_vectorwise_quant`). The weight is codes * scales / 127.
    """
    import torch

    largest = weight.abs().amax(1).float()
    return (weight * (127.0 / largest[:, None])).round().to(torch.int8), largest


def relative_error(kept: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, in units of the root mean square of the exact numbers."""
    return ((kept - exact).square().mean() / exact.square().mean()).sqrt().item()
