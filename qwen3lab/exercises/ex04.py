"""The exercises of notebook 04 and then of its companion, in the order in which they teach."""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why=(
        "Each value then stands for about equally many normally distributed weights, whatever the"
        " number of bits."
    ),
    hints=(
        (
            "Half of the values are positive: 2 ** (bits - 1) of them. One is zero. The others are"
            " negative."
        ),
        (
            "torch.linspace(edge, 0.5, n + 1)[:-1] gives n probabilities without the middle one;"
            " the quantile of 0.5 would be a second zero."
        ),
        (
            "torch.distributions.Normal(0.0, 1.0).icdf turns probabilities into quantiles. Sort all"
            " values and divide by the largest."
        ),
    ),
)
def normal_float(bits, edge):
    """The 2 ** bits values of a NormalFloat, ascending, the largest 1: quantiles from `edge` down
    to (not with) 0.5, one fewer for the negative side, and 0.
    """
    import torch

    normal, half = torch.distributions.Normal(0.0, 1.0), 2 ** (bits - 1)
    positive = normal.icdf(torch.linspace(edge, 0.5, half + 1)[:-1])
    negative = -normal.icdf(torch.linspace(edge, 0.5, half)[:-1])
    values = torch.cat([negative, torch.zeros(1), positive]).sort().values
    return values / values.max()


def _normal_values(bits, edge, positive=0, negative=-1, zero=True, scaled=True, even=False):
    from statistics import NormalDist

    def side(count):
        steps = [edge - (edge - 0.5) * place / count for place in range(count)]
        return [(step - 0.5 if even else NormalDist().inv_cdf(step)) for step in steps]

    half = 2 ** (bits - 1)
    values = sorted(
        [-value for value in side(half + negative)] + [0.0] * zero + side(half + positive)
    )
    return [value / (max(values) if scaled else 1) for value in values]


@normal_float.cases
def _():
    from bitsandbytes.functional import get_4bit_type

    yield case(
        4,
        0.9677083,
        expect=get_4bit_type("nf4", "cpu").tolist(),
        note="4 bits with the edge of NF4",
    )
    yield case(3, 0.95, expect=_normal_values(3, 0.95), note="3 bits with an edge of 0.95")


@normal_float.mistake(
    "Your largest value is not 1. Weights are divided by the largest of their block, so the code"
    " book has to end there: divide by the largest value."
)
def _not_scaled(bits, edge):
    return _normal_values(bits, edge, scaled=False)


@normal_float.mistake(
    "These are evenly spaced. Turn the probabilities into quantiles of a normal distribution first"
    " (icdf)."
)
def _even(bits, edge):
    return _normal_values(bits, edge, even=True)


@normal_float.mistake(
    "You have one value too many: both sides are equally long. With a zero among 2 ** bits values,"
    " one side has to be shorter."
)
def _as_long(bits, edge):
    return _normal_values(bits, edge, negative=0)


@normal_float.mistake("The longer side is the positive one in NF4; yours is the negative one.")
def _wrong_side(bits, edge):
    return _normal_values(bits, edge, positive=-1, negative=0)


@normal_float.mistake(
    "Zero is missing. Without it a weight of exactly zero would come back as something else."
)
def _no_zero(bits, edge):
    return _normal_values(bits, edge, negative=0, zero=False)


@exercise(
    why=(
        "One number that is far out stretches the scale of its whole block: that is why blocks are"
        " small."
    ),
    hints=(
        "The scale is the largest magnitude, so the sign does not matter: max(abs(number) ...).",
        "Divide every number by the scale, then find the place of the level that is nearest.",
        (
            "min(range(len(levels)), key=lambda place: abs(levels[place] - number / scale)) is that"
            " place. In a block of zeros there is nothing to divide by."
        ),
    ),
)
def quantize_block(block, levels):
    """Quantise a list of numbers: returns (codes, scale), a code being the place of the nearest
    level. A block of zeros has the scale 0.
    """
    scale = max(abs(number) for number in block)
    scaled = [number / scale if scale else 0.0 for number in block]
    return [
        min(range(len(levels)), key=lambda place: abs(levels[place] - number)) for number in scaled
    ], scale


@quantize_block.cases
def _():
    import torch
    from bitsandbytes import functional

    levels = functional.get_4bit_type("nf4", "cpu").tolist()
    for seed, (factor, note) in enumerate(
        (
            (0.03, "64 weights"),
            (-1.0, "64 weights whose largest magnitude is negative"),
            (0.0, "64 zeros"),
        )
    ):
        numbers = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * factor
        numbers[5] = 4 * factor  # the outlier
        packed, state = functional.quantize_4bit(numbers, quant_type="nf4", blocksize=64)
        codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().tolist()
        yield case(numbers.tolist(), levels, expect=(codes, state.absmax.item()), note=note)


def _rounded(block, levels, scale, choose=None):
    choose = choose or (
        lambda number: min(range(len(levels)), key=lambda place: abs(levels[place] - number))
    )
    return [choose(number / scale if scale else 0.0) for number in block], scale


@quantize_block.mistake(
    "Your scale is the largest number. Where the largest magnitude is negative, the block then"
    " leaves [-1, 1]: take magnitudes."
)
def _largest_number(block, levels):
    return _rounded(block, levels, max(block))


@quantize_block.mistake(
    "Your scale is right, but the codes are those of the numbers as they are. Divide them by the"
    " scale before you look for the nearest level."
)
def _never_divided(block, levels):
    return _rounded(block, levels, 1.0)[0], max(abs(number) for number in block)


@quantize_block.mistake(
    "You took the highest level that is not above the number. The nearest may lie above it."
)
def _level_below(block, levels):
    return _rounded(
        block,
        levels,
        max(abs(number) for number in block),
        lambda number: max(
            place for place in range(len(levels)) if levels[place] <= number or not place
        ),
    )


@quantize_block.mistake(
    "You gave back the levels themselves. Their places are what is stored: they fit into four bits."
)
def _levels_not_codes(block, levels):
    codes, scale = quantize_block.answer(block, levels)
    return [levels[code] for code in codes], scale


@quantize_block.mistake(
    "A block of zeros stops your answer, for you divide by its scale. Such blocks exist, in weights"
    " that were pruned."
)
def _divides_by_zero(block, levels):
    scale = max(abs(number) for number in block)
    return _rounded([number / scale for number in block], levels, 1.0)[0], scale


@exercise(
    tolerance=2e-3,
    why=(
        "The experts, nineteen twentieths of the model, are no nn.Linear for transformers 5, so"
        " stock 4-bit loading passes them by."
    ),
    hints=(
        (
            "Stock loading turns nn.Linear layers into 4 bits, the output head left out. In this"
            " model those are the four projections of attention."
        ),
        (
            "A layer's query and output matrix have hidden * heads * head_dim weights each; key and"
            " value have kv_heads in place of heads."
        ),
        "Multiply by the 48 layers and divide by all 30,532,122,624 weights.",
    ),
)
def stock_share():
    """The share (from 0 to 1) of Qwen3-30B-A3B's weights that are in 4 bits after stock loading: 48
    layers, hidden 2048, 32 heads and 4 KV heads of 128.
    """
    one_layer = 2 * 2048 * 32 * 128 + 2 * 2048 * 4 * 128
    return 48 * one_layer / 30_532_122_624


@stock_share.cases
def _():
    from qwen3lab.family import shape

    moe = shape("30B-A3B")
    yield case(expect=moe.linear_parameters / moe.parameters)


@stock_share.mistake(
    "That is the share with the experts. They are fused tensors, no nn.Linear, and stay as they"
    " are."
)
def _with_experts():
    return (48 * (2 * 2048 * 32 * 128 + 2 * 2048 * 4 * 128) + 28_991_029_248) / 30_532_122_624


@stock_share.mistake("You gave the keys and values 32 heads. They have 4: query heads share them.")
def _all_heads():
    return 48 * 4 * 2048 * 32 * 128 / 30_532_122_624


@stock_share.mistake("That is the share of one layer. There are 48.")
def _one_layer():
    return (2 * 2048 * 32 * 128 + 2 * 2048 * 4 * 128) / 30_532_122_624


@stock_share.mistake("That is a percentage. Give a share from 0 to 1.")
def _percent():
    return 100 * stock_share.answer()


@exercise(
    ask=lambda answer: "".join(answer).strip().upper(),  # "c" or ["C"] will do
    why=(
        "The adapter was trained beside the rounded weights, so it belongs to them, and 16 bits"
        " have room for the sum."
    ),
    hints=(
        "Which weights did the adapter see while it was trained?",
        "What can hold the sum of a rounded weight and a small change without rounding it again?",
        "Compare the KL divergences in the table above.",
    ),
)
def where_to_merge():
    """Which of A, B, C and D gives a model without adapter that answers like the one you trained?
    The letter, as a string.
    """
    return "C"


@where_to_merge.cases
def _():
    yield case(expect="C")


@where_to_merge.mistake(
    "A rounds the sum to sixteen values a second time, and the adapter was trained without that"
    " error. A sum needs more room than four bits."
)
def _into_four_bits():
    return "A"


@where_to_merge.mistake(
    "B has room for the sum, but the adapter has learned to work with the rounded weights, and"
    " these were never rounded. Look at the KL divergences in the table."
)
def _into_exact_weights():
    return "B"


@where_to_merge.mistake(
    "D does not change the model at all: the scales belong to the frozen weights. The adapter would"
    " be lost."
)
def _into_scales():
    return "D"


@exercise(
    why=(
        "Half of NF4's work is bookkeeping: a byte is the smallest thing that can be addressed, so"
        " two codes share one."
    ),
    hints=(
        "A byte is 16 times its high half plus its low half.",
        "byte >> 4 is the high half, byte & 15 the low one; divmod(byte, 16) gives both.",
        "The high half comes first.",
    ),
)
def unpack_nibbles(packed):
    """The 4-bit codes of a list of bytes (0 to 255), two for each byte, the one in the high half
    first.
    """
    return [code for byte in packed for code in (byte >> 4, byte & 15)]


@unpack_nibbles.cases
def _():
    import torch
    from bitsandbytes import functional

    from qwen3lab.from_scratch import nf4

    weight = torch.randn(64, generator=torch.Generator().manual_seed(3))
    packed, _ = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    yield case(
        packed.flatten().tolist(),
        expect=nf4.quantize(weight)[0].flatten().tolist(),
        note="the bytes of 64 weights",
    )
    yield case([0x1F, 0xA0], expect=[1, 15, 10, 0], note="the bytes 0x1F and 0xA0")
    yield case([], expect=[], note="no bytes")


@unpack_nibbles.mistake(
    "You have the low half first. bitsandbytes puts the first of two codes into the high half."
)
def _low_first(packed):
    return [code for byte in packed for code in (byte & 15, byte >> 4)]


@unpack_nibbles.mistake(
    "The high halves are still 16 times too large. Shift them down by four bits."
)
def _not_shifted(packed):
    return [code for byte in packed for code in (byte & 240, byte & 15)]


@unpack_nibbles.mistake(
    "All high halves come first in your list, then all low ones. The two codes of a byte are"
    " neighbours."
)
def _halves_apart(packed):
    return [byte >> 4 for byte in packed] + [byte & 15 for byte in packed]


@unpack_nibbles.mistake("That is one code for each byte. The other half holds one too.")
def _high_only(packed):
    return [byte >> 4 for byte in packed]


@exercise(
    why=(
        "With blocks of 64 and 256 it is 0.516 bytes: double quantisation takes the scales from an"
        " eighth of the codes' size to a thirtieth."
    ),
    hints=(
        "The code itself is half a byte, whatever the blocks are.",
        (
            "A block of `block` weights has one scale, now in one byte: each weight's share is 1 /"
            " block."
        ),
        (
            "`second` of these scales share one number of four bytes, so that is four bytes for"
            " block * second weights."
        ),
    ),
)
def bytes_per_weight(block, second):
    """Bytes that a 4-bit weight takes with double quantisation: a one-byte scale for each `block`
    weights, a float32 for each `second` of those scales.
    """
    return 1 / 2 + 1 / block + 4 / (block * second)


@bytes_per_weight.cases
def _():
    import torch
    from bitsandbytes import functional

    for block in (64, 128, 4096):
        weight = torch.randn(2 * 256 * block, generator=torch.Generator().manual_seed(4))
        packed, state = functional.quantize_4bit(
            weight, quant_type="nf4", blocksize=block, compress_statistics=True
        )
        kept = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        yield case(block, 256, expect=kept / weight.numel(), note=f"blocks of {block} and 256")
    yield case(32, 64, expect=0.5 + 1 / 32 + 4 / 2048, note="blocks of 32 and 64")


@bytes_per_weight.mistake(
    "You counted the scales with four bytes each. Double quantisation is there to make one byte of"
    " them."
)
def _scales_in_four_bytes(block, second):
    return 1 / 2 + 4 / block + 4 / (block * second)


@bytes_per_weight.mistake("The second level has scales too: four bytes for each `second` blocks.")
def _second_level_free(block, second):
    return 1 / 2 + 1 / block


@bytes_per_weight.mistake(
    "You divided the second level's four bytes by `second` alone. They serve `second` blocks, and"
    " each block has `block` weights."
)
def _second_level_for_every_block(block, second):
    return 1 / 2 + 1 / block + 4 / second


@bytes_per_weight.mistake("You counted bits. Eight of them are a byte.")
def _bits(block, second):
    return 8 * bytes_per_weight.answer(block, second)


@exercise(
    why=(
        "One scale a row costs next to nothing, and 255 even steps are fine enough that nobody"
        " needs a code book."
    ),
    hints=(
        "The scale of a row is its largest magnitude; every row has its own.",
        "The largest magnitude becomes 127 or -127: multiply the row by 127 / scale.",
        "Round to the nearest whole number with round(); int() would cut towards zero.",
    ),
)
def quantize_rows(matrix):
    """Quantise a list of rows to whole numbers from -127 to 127: returns (rows of codes, scales); a
    scale is the row's largest magnitude.
    """
    scales = [max(abs(number) for number in row) for row in matrix]
    return [
        [round(number * 127 / scale) for number in row] for row, scale in zip(matrix, scales)
    ], scales


@quantize_rows.cases
def _():
    import torch
    from bitsandbytes import functional

    for seed, (rows, columns) in enumerate(((2, 3), (4, 16))):
        matrix = torch.randn(
            rows, columns, generator=torch.Generator().manual_seed(seed)
        ) * torch.tensor([[0.01], [3.0]]).repeat(rows // 2, 1)
        matrix[0, 0] = -0.05  # the largest magnitude of the first row is a negative number
        codes, scales, _ = functional.int8_vectorwise_quant(matrix)
        yield case(
            matrix.tolist(),
            expect=(codes.tolist(), scales.tolist()),
            note=f"{rows} rows of {columns}, some of them 300 times smaller,",
        )


def _rows_of(matrix, scales, steps=127, to_whole=round):
    return [
        [to_whole(number * steps / scale) for number in row] for row, scale in zip(matrix, scales)
    ], scales


def _magnitudes(matrix):
    return [max(abs(number) for number in row) for row in matrix]


@quantize_rows.mistake(
    "You gave all rows one scale, the largest of the matrix. A row of small weights is then all"
    " zeros or nearly so."
)
def _one_scale(matrix):
    return _rows_of(matrix, [max(_magnitudes(matrix))] * len(matrix))


@quantize_rows.mistake(
    "Your largest magnitude becomes 128. A signed byte ends at 127, and 128 would come back as"
    " -128."
)
def _up_to_128(matrix):
    return _rows_of(matrix, _magnitudes(matrix), 128)


@quantize_rows.mistake(
    "You cut towards zero. That shrinks every weight by half a step on average: round to the"
    " nearest."
)
def _cut(matrix):
    return _rows_of(matrix, _magnitudes(matrix), to_whole=int)


@quantize_rows.mistake(
    "Your scale is the largest number of the row. Where a negative number is farther out, its code"
    " leaves the byte: take magnitudes."
)
def _largest_of_row(matrix):
    return _rows_of(matrix, [max(row) for row in matrix])
