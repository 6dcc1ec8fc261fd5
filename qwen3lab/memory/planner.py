"""Memory planner: bytes for training and inference, by arithmetic from a model's shape.

It counts weights, gradients, optimiser state and, for a given batch, the key-value cache or the
activations of a training step (qwen3lab/memory/activations.py). Libraries, the driver and allocator
fragmentation come on top (qwen3lab/memory/gpus.py keeps a reserve).
All sizes are bytes. Tables print decimal gigabytes: 1 GB = 10^9 bytes; 1 GiB = 2^30 bytes is 7.4 %
more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.family import Shape, shape
from qwen3lab.memory import activations
from qwen3lab.memory.activations import Format, Step

LABELS = {"inference": "inference", "lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tuning"}
METHODS = tuple(LABELS)
OPTIMISERS = ("adamw", "adamw-bf16", "adamw-8bit")
# How many of optimiser state, gradients and weights are sharded over the GPUs (Rajbhandari et al.
# 2020, "ZeRO"). FSDP shards all three.
SHARDS = {"zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}
# NF4 with double quantisation: 4 bits per weight, 8 bits per block of 64, and 4 bytes per 256 of
# those blocks.
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Plan:
    """Memory plan of one model and method, in bytes per part on each GPU.

    The parts need not all be full at one time: gradients appear as activations are freed. `peak` is
    the peak memory over the phases of a step; with gradient accumulation, where gradients stay from
    batch to batch, count on `total`.
    """

    model: str
    method: str
    parts: dict[str, int]
    peak: int = 0
    gpus: int = 1
    shard: str | None = None

    @property
    def total(self) -> int:
        """The sum of the parts, in bytes."""
        return sum(self.parts.values())

    def table(self) -> str:
        """Format the parts and their sum as lines of text, in GB."""
        rows = [*self.parts.items(), ("total", self.total)]
        width = max(len(name) for name, _ in rows)
        each = (
            f", each of {self.gpus} GPUs" + (f" under {self.shard}" if self.shard else "")
            if self.gpus > 1
            else ""
        )
        return "\n".join(
            [
                f"{self.model}, {LABELS[self.method]}{each}",
                *(f"  {name:<{width}}  {size / 1e9:10.3f} GB" for name, size in rows),
            ]
        )


def plan(
    model: str | Shape | Any,
    method: str,
    *,
    tokens: int = 0,
    rank: int = 16,
    targets: str | None = None,
    bytes_per_weight: int = 2,
    float16: bool = False,
    optimiser: str = "adamw",
    four_bit: bool = False,
    experts_in_4bit: bool = False,
    upcast: bool = False,
    adapter_bytes: int | None = None,
    gpus: int = 1,
    shard: str | None = None,
    **step: Any,
) -> Plan:
    """Plan the memory of `method` ("inference", "lora", "qlora" or "full") on a model.

    Args:
        model: a name of the family, a bundled checkpoint's name, a `Shape`, or a transformers
            config.
        tokens: short for a first look: adds the key-value cache of that many tokens, or the one
            activation per layer that activation checkpointing keeps for them. `batch` and `length`
            count everything.
        rank, targets: of the LoRA; the default targets are "all-linear", for a mixture of experts
            "attention".
        bytes_per_weight: 2 for bfloat16 or float16, 4 for float32. Full fine-tuning keeps float32
            weights and computes in this format.
        float16: a GPU without bfloat16, such as a T4: the loss is scaled, which needs everything
            trained in float32, QLoRA's adapters included.
        optimiser: "adamw" (moments as precise as the trained weights: 16 bytes per parameter in
            all), "adamw-bf16" (weights, gradients and moments in bfloat16: 8), "adamw-8bit"
            (bfloat16 and bitsandbytes' 8-bit moments: about 6).
        four_bit: whether inference runs on NF4 weights.
        experts_in_4bit: whether the experts are in 4 bits too. bitsandbytes 0.50 under transformers
            5 leaves them as they are.
        upcast: what `peft.prepare_model_for_kbit_training` does: everything that is not in 4 bits
            becomes float32, experts included.
        adapter_bytes: 2 or 4 per number of the adapter; default: as TRL trains it.
        gpus, shard: shard what `SHARDS` says over that many GPUs; each has a batch of its own.
        step: batch, length, checkpointing and the other fields of `activations.Step`.
    Raises:
        Qwen3labError: unknown model, method, targets, optimiser or shard, and impossible sizes.
    """
    # 1. What was asked for, and the formats that follow from it.
    s = shape(model)
    _check(method, optimiser, rank, bytes_per_weight, gpus, shard, tokens, step)
    _check_float16(float16, method, optimiser, bytes_per_weight, shard)
    targets = targets or ("attention" if s.is_moe else "all-linear")
    quantised = method == "qlora" or (method == "inference" and four_bit)
    width, form = _formats(method, bytes_per_weight, float16, optimiser, shard)
    if quantised and upcast:  # everything not in 4 bits, hidden states included, is then float32
        form = Format(4, form.product, form.adapter)
    if adapter_bytes:
        form = Format(form.stream, form.product, adapter_bytes)
    # 2. Weights, gradients and moments of the whole model.
    weights = _weights(s, width, quantised, experts_in_4bit, upcast)
    gradients, moments = {}, {}
    if method == "full":
        gradients = {"gradients": width * s.parameters}
        moments = {"optimiser": _moments(s, optimiser, width)}
    elif method != "inference":
        adapter = s.lora_parameters(rank, targets)
        weights["adapter"], gradients["adapter"] = form.adapter * adapter, form.adapter * adapter
        moments["adapter"] = (
            round(EIGHT_BIT_MOMENTS * adapter)
            if optimiser == "adamw-8bit"
            else 2 * form.adapter * adapter
        )
    # 3. What of them lies on each GPU.
    stage = SHARDS.get(shard or "", 0)
    parts: dict[str, int] = {}
    for kind, first in ((weights, 3), (gradients, 2), (moments, 1)):
        for name, size in kind.items():
            parts[name] = parts.get(name, 0) + round(size / (gpus if stage >= first else 1))
    if stage == 3 and gpus > 1:
        parts["gathered layers"] = _gathered(s, form.product, method == "full")
    # 4. What the tokens add: a cache, a first look at the activations, or a whole step.
    if method == "inference" and (tokens or step):
        parts["key-value cache"] = s.kv_bytes(tokens or Step(**step).tokens)
    elif tokens:
        parts["activations"] = 2 * tokens * s.hidden * s.layers
    elif step:
        trains = "all" if method == "full" else targets
        share = sum(gradients.values()) // (gpus if stage >= 2 else 1)
        return _with_step(
            Plan(s.name, method, parts, 0, gpus, shard),
            share,
            s,
            Step(**step),
            form,
            trains,
            rank,
            quantised,
            experts_in_4bit,
            "float16" if float16 else "bfloat16",
        )
    return Plan(s.name, method, parts, sum(parts.values()), gpus, shard)


def _check(
    method: str,
    optimiser: str,
    rank: int,
    width: int,
    gpus: int,
    shard: str | None,
    tokens: int,
    step: dict[str, Any],
) -> None:
    """Refuse unknown names and impossible sizes."""
    for what, given, known in (
        ("method", method, METHODS),
        ("optimiser", optimiser, OPTIMISERS),
        ("shard", shard or "fsdp", tuple(SHARDS)),
    ):
        if given not in known:
            raise Qwen3labError(f"Unknown {what} {given!r}. Use one of: {', '.join(known)}.")
    if rank < 1 or gpus < 1 or tokens < 0 or width not in (2, 4):
        raise Qwen3labError(
            f"Rank {rank}, {gpus} GPUs, {tokens} tokens and {width} bytes a weight cannot be"
            " planned. Give rank and GPUs as 1 or more, tokens as 0 or more, and 2 or 4 bytes."
        )
    if width == 4 and optimiser == "adamw-bf16":
        raise Qwen3labError(
            "'adamw-bf16' keeps everything in bfloat16, and float32 was asked for. Leave one of the"
            " two out."
        )
    if tokens and step:
        raise Qwen3labError(
            "Both tokens and a batch are given. Give tokens for a first look, or batch and length"
            " for everything."
        )


def _check_float16(
    float16: bool, method: str, optimiser: str, width: int, shard: str | None
) -> None:
    """Refuse what loss scaling cannot do: it scales the gradients of float32 weights alone."""
    if float16 and width == 4:
        raise Qwen3labError("Both float16 and float32 are asked for. Give one of the two.")
    zero = (shard or "").startswith("zero")  # DeepSpeed keeps float32 copies of its own
    if (
        float16
        and method == "full"
        and (optimiser == "adamw-bf16" or (optimiser == "adamw-8bit" and not zero))
    ):
        raise Qwen3labError(
            f"{optimiser!r} trains bfloat16 weights, and float16 with loss scaling needs float32"
            " ones. Plan with 'adamw', or for a GPU that has bfloat16."
        )


def format_of(dtype: str) -> dict[str, Any]:
    """Return the arguments of `plan` for weights of a dtype, given by its torch name."""
    return {"bytes_per_weight": 4 if dtype == "float32" else 2, "float16": dtype == "float16"}


def _formats(
    method: str, width: int, float16: bool, optimiser: str, shard: str | None
) -> tuple[int, Format]:
    """Return the stored bytes per weight and the format of the computation."""
    if method == "qlora":
        # TRL 1.16 casts the adapters of a 4-bit model to bfloat16, and AdamW's moments follow. In
        # float16 `training.fine_tune` casts them back.
        return width, Format(width, width, 4 if float16 else width)
    if method != "full" or width == 4:
        return width, Format(width, width)
    if optimiser != "adamw" or (shard or "").startswith("zero"):
        # A bfloat16 model; DeepSpeed keeps the float32 copy in its optimiser.
        return 2, Format(2, 2)
    # float32 weights, cast when FSDP gathers them, otherwise by autocast.
    return 4, (Format(2, 2) if shard == "fsdp" else Format(4, 2))


def _weights(s: Shape, width: int, quantised: bool, experts: bool, upcast: bool) -> dict[str, int]:
    """Compute the bytes of the weights, with linear layers (and experts) in NF4 if quantised.

    All other weights keep their format, or become float32 with `upcast`.
    """
    if not quantised:
        return {"weights": width * s.parameters}
    count = s.linear_parameters + (s.expert_parameters if experts else 0)
    return {
        "4-bit weights": four_bit_bytes(s, experts),
        "other weights": (4 if upcast else width) * (s.parameters - count),
    }


def four_bit_bytes(s: Shape, experts: bool = False) -> int:
    """Compute the bytes of linear layers (and fused experts) in NF4 with double quantisation.

    They are codes, scales, and scales of scales. The code tables that bitsandbytes keeps beside
    them, about a kilobyte per matrix where they are not shared, are left out.
    """
    h, q, kv = s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim
    sizes = [h * q, h * kv, h * kv, q * h]
    if not s.is_moe:
        sizes += 3 * [h * s.ffn]
    elif experts:
        sizes += [2 * s.experts * s.moe_ffn * h, s.experts * s.moe_ffn * h]
    blocks = [-(-size // 64) for size in sizes]
    return s.layers * sum(
        -(-size // 2) + block + 4 * -(-block // 256) for size, block in zip(sizes, blocks)
    )


# bitsandbytes' 8-bit Adam: two moments of one byte, and two float32 scales per 256 of them.
EIGHT_BIT_MOMENTS = 2 * (1 + 4 / 256)


def _moments(s: Shape, optimiser: str, width: int) -> int:
    """Compute the optimiser state in bytes: two moments per weight.

    DeepSpeed also keeps a float32 copy of bfloat16 weights.
    """
    if optimiser == "adamw-8bit":  # tensors below 4,096 elements keep float32 moments
        small = s.norm_parameters if s.hidden < 4096 else 2 * s.layers * s.head_dim
        return round(EIGHT_BIT_MOMENTS * (s.parameters - small)) + 8 * small
    if optimiser == "adamw-bf16":
        return 2 * width * s.parameters
    return (12 if width == 2 else 8) * s.parameters


def _layer_parameters(s: Shape) -> int:
    return (s.non_embedding_parameters - s.hidden) // s.layers


def _gathered(s: Shape, width: int, trained: bool) -> int:
    """Compute the bytes of whole weights that a GPU holds at one time when they are sharded.

    Two layers, the tables at both ends, and a layer's gradient if trained.
    """
    return width * ((2 + trained) * _layer_parameters(s) + s.embedding_parameters)


def _with_step(
    made: Plan,
    gradients: int,
    s: Shape,
    step: Step,
    form: Format,
    trains: str,
    rank: int,
    four_bit: bool,
    experts_in_4bit: bool,
    half: str,
) -> Plan:
    """Add the activations of a step, and compute the peak memory over its phases."""
    kept = activations.kept(s, step, form, trains, rank, experts_in_4bit)
    at_work = activations.at_work(s, step, form, trains, rank, four_bit, experts_in_4bit)
    head = activations.output_head(s, step, form, trains)
    casts = activations.cast_weights(s, form, trains, rank)
    stays = 0 if step.checkpointing else casts
    table = gradients * s.vocab * s.hidden // s.parameters if trains == "all" else 0
    layer = (
        gradients * _layer_parameters(s) // s.parameters
        if trains == "all"
        else gradients // s.layers
    )
    peak = (
        sum(made.parts.values())
        - gradients
        + max(
            # The loss.
            kept + max(casts, head + stays),
            # The backward pass of the last layer, which is the first to run.
            kept + at_work + table + stays,
            # The backward pass of the first layer, when all other gradients are there.
            (kept + stays) // s.layers + at_work + gradients - layer,
            # The embedding's gradient, to which that of a tied head is added; then the optimiser.
            gradients + 2 * table * s.tied,
        )
    )
    parts = (
        made.parts
        | ({f"{half} copies": casts} if casts else {})
        | {"activations": kept + at_work, "logits": head}
    )
    return Plan(made.model, made.method, parts, peak, made.gpus, made.shard)


def machine_bytes(device: str = "cpu") -> int:
    """Return the memory of the device in bytes: the GPU's, or the machine's.

    An Apple GPU shares the machine's memory; what counts is the part that Metal recommends to fill.
    Where a container sets a lower limit than the machine's memory, the limit counts.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    if device.startswith("mps"):
        import torch

        return torch.mps.recommended_max_memory()
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no control group here, or "max"
            continue
    return min(limits)
