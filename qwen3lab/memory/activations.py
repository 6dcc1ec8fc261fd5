"""What a training step keeps in memory beside weights, gradients and optimiser: arithmetic from the
shape, term by term.

Each term is one tensor that an operation saves for its backward pass, in the layers of transformers
5.23 with scaled dot product attention (`sdpa`) and `grouped_mm` experts.
`tracking.saved_for_backward` counts the same bytes on a real model, and the tests hold both
together. Sizes are bytes; the rows of a tensor are the tokens of a batch, padding included.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3lab.errors import Qwen3labError
from qwen3lab.family import Shape

HEADS = ("trl", "plain")
TILE_TOKENS, TILE_COLUMNS = (
    4096,
    32_768,
)  # in which TRL 1.16 computes the output head (trl/kernels/chunked_logprob.py)


@dataclass(frozen=True)
class Step:
    """How one step of training runs on one device.

    Args:
        batch, length: rows and tokens a row, padding included.
        checkpointing: keep the input of each layer alone and compute the rest again in the backward
            pass.
        padded: whether the rows differ in length. Attention then needs a mask, and copies keys and
            values for every query head.
        labelled: share of the tokens that have a label; TRL computes the output head for those
            alone.
        head: "trl" (in tiles) or "plain" (transformers' Trainer: all logits at once).
        device: "cuda", or "cpu", where TRL's tile has no Triton kernel and is copied seven times
            over.
    Raises:
        Qwen3labError: a size below one, a share outside 0 to 1, an unknown head.
    """

    batch: int = 1
    length: int = 2048
    checkpointing: bool = True
    padded: bool = False
    labelled: float = 1.0
    head: str = "trl"
    device: str = "cuda"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.length < 1:
            raise Qwen3labError(
                f"A batch of {self.batch} rows of {self.length} tokens has nothing to compute. Give"
                " both as 1 or more."
            )
        if not 0 <= self.labelled <= 1:
            raise Qwen3labError(
                f"The labelled share {self.labelled} is no share. Give a number from 0 to 1."
            )
        if self.head not in HEADS:
            raise Qwen3labError(
                f"Unknown output head {self.head!r}. Use one of: {', '.join(HEADS)}."
            )

    @property
    def tokens(self) -> int:
        """Tokens of the batch, padding included."""
        return self.batch * self.length


@dataclass(frozen=True)
class Format:
    """Bytes a number of the hidden state that runs through the layers, of the products, and of a
    LoRA's weights.

    float32: (4, 4, 4). A bfloat16 model under autocast, as TRL trains it: (2, 2, 4), and with its
        bfloat16 adapters on a 4-bit
    model (2, 2, 2). float32 weights under bfloat16 autocast: (4, 2, 4).
    """

    stream: int
    product: int
    adapter: int = 4

    def copies(self, adapted: bool) -> bool:
        """Whether each matrix reads a copy of its own: a cast by autocast, or one to and from the
        format of the adapter.
        """
        return self.stream > self.product or (adapted and self.adapter != self.stream)


def layer_terms(
    s: Shape, step: Step, form: Format, trains: str, rank: int = 16, experts_in_4bit: bool = False
) -> dict[str, int]:
    """Bytes that one layer keeps for its backward pass, by term.

    Args:
        trains: "all" weights, or a LoRA on "attention" or "all-linear" (in a mixture of experts: on
            every expert).
    """
    rows, h, q, kv = step.tokens, s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim
    full = trains == "all"
    copies = form.copies(not full)
    # RMSNorm computes in float32 and keeps its input and one factor a row; if its weight is
    # trained, the scaled input too.
    terms = {
        "norms": 2 * rows * (4 * h + 4 + full * form.stream * h),
        "input of query, key, value": rows * h * form.product * (3 if copies else 1),
        "query and key norms": (
            rows * (4 * (q + kv) + 4 * (s.heads + s.kv_heads) + full * form.product * (q + kv))
        ),
        # Query, key, value, result, and for each row and head the logarithm of its softmax's sum.
        "attention": (
            rows * ((4 * q if step.padded else 2 * q + 2 * kv) * form.product + 4 * s.heads)
        ),
    }
    if step.padded:
        terms["attention mask"] = rows * step.length * form.product
    if not full:
        terms["attention adapters"] = (
            rows * (4 * rank + copies * q) * form.product
        )  # and a copy of the output matrix's input
    return terms | (_experts if s.is_moe else _feed_forward)(
        s, rows, form, trains, rank, experts_in_4bit
    )


def _feed_forward(
    s: Shape, rows: int, form: Format, trains: str, rank: int, _: bool
) -> dict[str, int]:
    """The terms of a dense SwiGLU. A frozen matrix keeps no input, for it needs no gradient."""
    adapted = trains != "attention"
    terms = {"gate, silu, up": 3 * rows * s.ffn * form.product}
    if adapted:
        terms["input of gate and up"] = (
            rows * s.hidden * form.product * (2 if form.copies(trains != "all") else 1)
        )
        terms["input of down"] = rows * s.ffn * form.product
    if trains == "all-linear":
        terms["feed-forward adapters"] = 3 * rows * rank * form.product
    return terms


def _experts(
    s: Shape, rows: int, form: Format, trains: str, rank: int, in_4bit: bool
) -> dict[str, int]:
    """The terms of router and experts. A row passes `top_k` experts, so it is there that many
    times.

    Experts compute in the format of their weights: `grouped_mm` takes no part in autocast. For
        adapters on experts PEFT 0.21
    adds the low-rank product to all experts at once (`ParamWrapper`) and that sum is kept; so is
    what a 4-bit expert unpacks to.
    """
    picked, f, wide = rows * s.top_k, s.moe_ffn, form.stream
    terms = {
        # Softmax and choice; the input if the router is trained.
        "router": (
            rows * (4 * s.experts + 12 * s.top_k + 4)
            + (trains == "all") * rows * s.hidden * form.product
        ),
        "order of the rows": 3 * 8 * picked + 4 * s.experts,
        "expert gate, silu, up": 3 * picked * f * wide,
        "expert results and shares": picked * (s.hidden * wide + form.product),
    }
    if trains != "attention":
        terms["input of the experts' gate and up"] = picked * s.hidden * wide
        terms["input of the experts' down"] = picked * f * wide
    if trains == "all-linear" or in_4bit:
        terms["second copy of the experts"] = s.expert_parameters // s.layers * wide
    return terms


def kept(
    s: Shape, step: Step, form: Format, trains: str, rank: int = 16, experts_in_4bit: bool = False
) -> int:
    """Bytes kept between forward and backward pass by all layers, the last norm and the output
    head; `cast_weights` come on top.
    """
    rows, full = step.tokens, trains == "all"
    labelled = round(step.labelled * rows)
    # The last norm; then the labelled rows with their numbers, targets and two results (TRL), or
    # the logarithms of all shares.
    ends = rows * (4 * s.hidden + 4 + full * (form.stream * s.hidden + 8))
    ends += (
        labelled * (form.stream * s.hidden + 32)
        if step.head == "trl"
        else rows * (full * s.hidden * form.product + 4 * s.vocab)
    )
    if (
        step.head == "trl"
        # the load-balancing loss of a mixture of experts, on by default: the shares that each layer
        # gave
    ):
        ends += (
            s.layers * rows * s.experts * (form.product if step.device == "cpu" else 4)
        )  # a GPU's autocast has softmax in float32
    if step.checkpointing:
        return ends + s.layers * rows * s.hidden * form.stream
    layers = s.layers * sum(layer_terms(s, step, form, trains, rank, experts_in_4bit).values())
    if not full:  # nothing before the first adapter needs a gradient
        layers -= rows * (4 * s.hidden + 4)
    turns = (
        2 * step.length * s.head_dim * form.stream
    )  # cosine and sine of the rotary embedding, shared by all layers
    return ends + layers + turns


def cast_weights(s: Shape, form: Format, trains: str, rank: int = 16) -> int:
    """Bytes of the copies that autocast makes of trained float32 weights; experts take no part in
    autocast.

    They live until the forward pass is over; without checkpointing the backward pass needs them
    too.
    """
    if (form.stream if trains == "all" else form.adapter) == form.product:
        return 0
    return 2 * (
        s.linear_parameters + s.router_parameters
        if trains == "all"
        else s.lora_parameters(rank, trains)
    )


def at_work(
    s: Shape,
    step: Step,
    form: Format,
    trains: str,
    rank: int = 16,
    four_bit: bool = False,
    experts_in_4bit: bool = False,
) -> int:
    """Bytes for one layer in its backward pass beyond what was kept: what it computes again, and
    the gradients that run through it.
    """
    rows = step.tokens
    # The widest place: two gradients beside the third's room in SwiGLU; in a mixture three arrays
    # of all picked rows.
    flow = (
        3 * rows * s.top_k * s.hidden * form.stream if s.is_moe else 2 * rows * s.ffn * form.product
    )
    flow += rows * s.hidden * form.stream
    if four_bit:  # one matrix is unpacked at a time
        flow += s.hidden * max(s.heads * s.head_dim, 0 if s.is_moe else s.ffn) * form.product
    if not step.checkpointing:
        return flow
    again = sum(layer_terms(s, step, form, trains, rank, experts_in_4bit).values())
    if form.stream == 4:  # the kept input is the very tensor that the first norm keeps
        again -= 4 * rows * s.hidden
    return flow + again


def output_head(s: Shape, step: Step, form: Format, trains: str) -> int:
    """Bytes that the output head and the loss need for the moment, the gradient of a trained head
    included.

    Plain: all logits, and once more in float32: first a copy of them, later their gradient. What
        the softmax keeps is in `kept`.
    TRL: one tile of the logits, and in float32 the gradient of the hidden rows and of the head.
    """
    full = trains == "all"
    head_gradient = full * 4 * s.vocab * s.hidden
    if step.head == "plain":
        return step.tokens * s.vocab * (form.product + 4) + head_gradient
    labelled, columns = round(step.labelled * step.tokens), min(s.vocab, TILE_COLUMNS)
    tile = min(labelled, TILE_TOKENS)
    size = tile * TILE_COLUMNS * form.product + 4 * labelled * s.hidden + head_gradient
    if form.stream > form.product:  # a cast slice of the head
        size += columns * s.hidden * form.product
    if step.device == "cpu":
        size += int(7.25 * 4 * tile * columns) + (form.product == 2) * 4 * columns * s.hidden
    return size
