"""Activation memory of a training step: arithmetic from the model's shape, term by term.

Each term is one tensor that an operation saves for its backward pass, in the layers of transformers
5.23 with scaled dot product attention (`sdpa`) and `grouped_mm` experts. In a compiled layer it is
one that torch's partitioner hands from the forward graph to the backward graph: it keeps the inputs
and results of matrix products and attention, and computes the cheap operations between them again.
`tracking.saved_for_backward` counts the same bytes on a real model, and the tests compare the two.
Sizes are bytes; the rows of a tensor are the tokens of a batch, padding included.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3lab.errors import Qwen3labError
from qwen3lab.family import Shape

HEADS = ("trl", "plain", "one-pass")
# The tiles in which TRL 1.16 computes the output head (trl/kernels/chunked_logprob.py).
TILE_TOKENS, TILE_COLUMNS = 4096, 32_768
# Rows of logits that exist at one time when loss and gradient are computed in one pass
# (qwen3lab/training/one_pass_head.py).
ONE_PASS_ROWS = 2048


@dataclass(frozen=True)
class Step:
    """Configuration of one training step on one device.

    Args:
        batch, length: rows, and tokens per row with padding.
        checkpointing: activation checkpointing: keep only the input of each layer and recompute the
            rest in the backward pass.
        padded: whether the rows differ in length. Attention then needs a mask, and copies keys and
            values for every query head.
        labelled: share of the tokens that have a label; TRL computes the output head only for
            those.
        head: "trl" (in tiles), "plain" (transformers' Trainer: all logits at once) or "one-pass"
            (loss and gradient of a frozen head together, for `ONE_PASS_ROWS` rows at a time).
        device: "cuda", or "cpu", where TRL's tile has no Triton kernel and is copied seven times
            over.
        compiled: whether each decoder layer is compiled (`torch.compile` with the min-cut
            partitioner, which inductor uses).
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
    compiled: bool = False

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
    """Bytes per number of the hidden state, of matrix products and of LoRA weights.

    `stream` is the hidden state that runs through the layers. float32: (4, 4, 4). A bfloat16 model
    under autocast, as TRL trains it: (2, 2, 4), and with its bfloat16 adapters on a 4-bit model (2,
    2, 2). float32 weights under bfloat16 autocast: (4, 2, 4).
    """

    stream: int
    product: int
    adapter: int = 4

    def copies(self, adapted: bool) -> bool:
        """Tell whether each matrix reads a copy of its input.

        The copy is a cast by autocast, or one to and from the format of the adapter.
        """
        return self.stream > self.product or (adapted and self.adapter != self.stream)


def layer_terms(
    s: Shape, step: Step, form: Format, trains: str, rank: int = 16, experts_in_4bit: bool = False
) -> dict[str, int]:
    """Compute the bytes that one layer keeps for its backward pass, by term.

    Args:
        s: shape of the model.
        step, form: the training step and its number formats.
        trains: "all" weights, or a LoRA on "attention" or "all-linear" (in a mixture of experts: on
            every expert).
        rank: of the LoRA.
        experts_in_4bit: whether the experts are stored in NF4.
    Raises:
        Qwen3labError: a compiled mixture of experts.
    """
    if step.compiled:
        return _compiled_layer(s, step, form, trains, rank)
    rows, h, q, kv = step.tokens, s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim
    full = trains == "all"
    copies = form.copies(not full)
    # RMSNorm computes in float32 and keeps its input and one factor per row; if its weight is
    # trained, the scaled input too.
    terms = {
        "norms": 2 * rows * (4 * h + 4 + full * form.stream * h),
        "input of query, key, value": rows * h * form.product * (3 if copies else 1),
        "query and key norms": (
            rows * (4 * (q + kv) + 4 * (s.heads + s.kv_heads) + full * form.product * (q + kv))
        ),
        # Query, key, value, result, and the log-sum-exp of the softmax for each row and head.
        "attention": (
            rows * ((4 * q if step.padded else 2 * q + 2 * kv) * form.product + 4 * s.heads)
        ),
    }
    if step.padded:
        terms["attention mask"] = rows * step.length * form.product
    if not full:
        # And a copy of the output matrix's input.
        terms["attention adapters"] = rows * (4 * rank + copies * q) * form.product
    return terms | (_experts if s.is_moe else _feed_forward)(
        s, rows, form, trains, rank, experts_in_4bit
    )


def _compiled_layer(s: Shape, step: Step, form: Format, trains: str, rank: int) -> dict[str, int]:
    """Compute the terms of a dense layer that is compiled as one graph.

    Gone are the norms' float32 copies of the hidden state, the copy of the input that each matrix
    of a plain layer keeps, and the result of silu: all are computed again within the backward
    graph's kernels.
    """
    if s.is_moe:
        raise Qwen3labError(
            f"What a compiled layer of {s.name} keeps is not known: its experts take other rows in"
            " every step. Plan it without `compiled`."
        )
    rows, h, q, kv = step.tokens, s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim
    full, feed_forward = trains == "all", trains != "attention"
    # The result of attention, in the graph of the attention and once more as the cast input of the
    # output matrix and its adapter.
    cast = not full and form.adapter != form.stream
    terms = {
        # The layer's input, from which the first norm is computed again; the result of the output
        # matrix (or the sum with it), from which the second is; one factor per row and norm.
        "norms": rows * (h * (form.stream + form.product) + 8),
        "input of query, key, value": rows * h * form.product,
        "query and key norms": rows * ((q + kv) * form.product + 4 * (s.heads + s.kv_heads)),
        "attention": rows
        * (((4 * q if step.padded else 2 * q + 2 * kv) + cast * q) * form.product + 4 * s.heads),
        "gate, up": 2 * rows * s.ffn * form.product,
    }
    if step.padded:
        terms["attention mask"] = rows * step.length * form.product
    if feed_forward:
        terms["input of gate and up"] = rows * h * form.product
        terms["input of down"] = rows * s.ffn * form.product
    if not full:
        terms["adapters"] = rows * (4 + 3 * feed_forward) * rank * form.product
    return terms


def _feed_forward(
    s: Shape, rows: int, form: Format, trains: str, rank: int, _: bool
) -> dict[str, int]:
    """Compute the terms of a dense SwiGLU; a frozen matrix needs no gradient and keeps no input."""
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
    """Compute the terms of router and experts; a row passes `top_k` experts and counts that often.

    Experts compute in the format of their weights: `grouped_mm` takes no part in autocast. For
    adapters on experts PEFT 0.21 adds the low-rank product to all experts at once (`ParamWrapper`),
    and that sum is kept; so is the dequantised copy of a 4-bit expert.
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
    """Compute the activation memory: bytes kept by all layers, the last norm and the output head.

    It is what lives between forward and backward pass; `cast_weights` come on top.
    """
    rows, full = step.tokens, trains == "all"
    labelled = round(step.labelled * rows)
    # The last norm; then the labelled rows with their indices, targets and two results (TRL), or
    # the log-probabilities of all rows.
    ends = rows * (4 * s.hidden + 4 + full * (form.stream * s.hidden + 8))
    ends += (
        labelled * (form.stream * s.hidden + 32)
        if step.head != "plain"  # in one pass the gradient of the labelled rows, of the same size
        else rows * (full * s.hidden * form.product + 4 * s.vocab)
    )
    # The load-balancing loss of a mixture of experts, on by default, keeps each layer's router
    # shares. A GPU's autocast has softmax in float32.
    if step.head != "plain":
        ends += s.layers * rows * s.experts * (form.product if step.device == "cpu" else 4)
    if step.checkpointing:
        return ends + s.layers * rows * s.hidden * form.stream
    layers = s.layers * sum(layer_terms(s, step, form, trains, rank, experts_in_4bit).values())
    if not full:  # nothing before the first adapter needs a gradient
        layers -= rows * ((form.stream if step.compiled else 4) * s.hidden + 4)
    # Cosine and sine of the rotary embedding, shared by all layers.
    turns = 2 * step.length * s.head_dim * form.stream
    return ends + layers + turns


def cast_weights(s: Shape, form: Format, trains: str, rank: int = 16) -> int:
    """Compute the bytes of autocast's copies of trained float32 weights.

    Experts take no part in autocast. The copies live until the forward pass is over; without
    checkpointing the backward pass needs them too.
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
    """Compute the working memory of one layer in its backward pass, in bytes beyond what was kept.

    It holds the recomputed activations and the gradients that flow through the layer.
    """
    rows = step.tokens
    # The widest point: two gradients beside the third's room in SwiGLU; in a mixture three arrays
    # of all routed rows.
    flow = (
        3 * rows * s.top_k * s.hidden * form.stream if s.is_moe else 2 * rows * s.ffn * form.product
    )
    flow += rows * s.hidden * form.stream
    if four_bit:  # one matrix is dequantised at a time
        flow += s.hidden * max(s.heads * s.head_dim, 0 if s.is_moe else s.ffn) * form.product
    if not step.checkpointing:
        return flow
    again = sum(layer_terms(s, step, form, trains, rank, experts_in_4bit).values())
    if form.stream == 4:  # the kept input is the same tensor that the first norm keeps
        again -= 4 * rows * s.hidden
    return flow + again


def output_head(s: Shape, step: Step, form: Format, trains: str) -> int:
    """Compute the temporary bytes of output head and loss, including a trained head's gradient.

    Plain: all logits, and once more in float32: first a copy of them, later their gradient. What
    the softmax keeps is in `kept`.
    TRL: one tile of the logits, and in float32 the gradient of the hidden rows and of the head.
    One pass: some rows of logits and their gradient, and the hidden rows that they are made from.
    """
    full = trains == "all"
    head_gradient = full * 4 * s.vocab * s.hidden
    if step.head == "plain":
        return step.tokens * s.vocab * (form.product + 4) + head_gradient
    if step.head == "one-pass":
        labelled = round(step.labelled * step.tokens)
        tile = min(labelled, ONE_PASS_ROWS) * s.vocab
        # Outside a compiled step the softmax and its exponentials exist in float32 as well.
        size = tile * (2 * form.product + (0 if step.compiled else 8))
        return size + labelled * s.hidden * form.stream
    labelled, columns = round(step.labelled * step.tokens), min(s.vocab, TILE_COLUMNS)
    tile = min(labelled, TILE_TOKENS)
    size = tile * TILE_COLUMNS * form.product + 4 * labelled * s.hidden + head_gradient
    if form.stream > form.product:  # a cast slice of the head
        size += columns * s.hidden * form.product
    if step.device == "cpu":
        size += int(7.25 * 4 * tile * columns) + (form.product == 2) * 4 * columns * s.hidden
    return size
