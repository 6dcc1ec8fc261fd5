"""The memory planner: from a model's shape to bytes, by arithmetic alone.

It counts what must lie in memory at once whatever the code does (weights, gradients, optimiser state) and, for a given
number of tokens, the key-value cache or the checkpointed activations. Kernels, buffers and the libraries come on top.
All sizes are bytes; tables print decimal gigabytes (1 GB = 10^9 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.family import Shape, shape

LABELS = {"inference": "inference", "lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tuning"}
METHODS = tuple(LABELS)
# NF4 with double quantisation: 4 bits a weight, 8 bits a block of 64, and 4 bytes for each 256 of those blocks.
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Plan:
    """What one way of using one model needs, in bytes a part."""

    model: str
    method: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """The sum of the parts, in bytes."""
        return sum(self.parts.values())

    def table(self) -> str:
        """Return the parts and their sum as lines of text, in GB."""
        rows = [*self.parts.items(), ("total", self.total)]
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"{self.model}, {LABELS[self.method]}",
                          *(f"  {name:<{width}}  {size / 1e9:10.3f} GB" for name, size in rows)])


def plan(model: str | Shape | Any, method: str, *, tokens: int = 0, rank: int = 16, targets: str | None = None,
         bytes_per_weight: int = 2, experts_in_4bit: bool = False) -> Plan:
    """Plan the memory of `method` ("inference", "lora", "qlora" or "full") on a model.

    Args:
        model: a name of the family, a `Shape`, or a transformers config.
        tokens: rows of a batch times their length. Adds the key-value cache for inference, and for training the one
            activation a layer that is left when activations are checkpointed.
        rank, targets: of the LoRA; the default targets are "all-linear", for a mixture of experts "attention".
        bytes_per_weight: 2 for bfloat16, 4 for float32. Full fine-tuning always takes 16: fp32 weights, gradients and two moments.
        experts_in_4bit: whether QLoRA really quantises the experts. bitsandbytes 0.50 under transformers 5 does not.
    Raises:
        Qwen3labError: unknown model, method or targets.
    """
    s = shape(model)
    if method not in METHODS:
        raise Qwen3labError(f"Unknown method {method!r}. Use one of: {', '.join(METHODS)}.")
    total = s.parameters
    if method == "full":
        parts = {"weights": 4 * total, "gradients": 4 * total, "optimiser": 8 * total}
    elif method == "inference":
        parts = {"weights": bytes_per_weight * total}
    else:
        adapter = s.lora_parameters(rank, targets or ("attention" if s.is_moe else "all-linear"))
        if method == "lora":  # fp32 adapters: weight, gradient, two moments
            parts = {"weights": bytes_per_weight * total, "adapter": 16 * adapter}
        else:  # TRL 1.16 casts the adapters of a quantised model to bf16, and AdamW's moments follow
            quantised = s.linear_parameters + (s.expert_parameters if experts_in_4bit else 0)
            parts = {"4-bit weights": round(NF4_BYTES * quantised), "other weights": 2 * (total - quantised),
                     "adapter": 8 * adapter}
    if tokens:
        if method == "inference":
            parts["key-value cache"] = s.kv_bytes(tokens)
        else:
            parts["activations"] = 2 * tokens * s.hidden * s.layers
    return Plan(s.name, method, parts)


def machine_bytes(device: str = "cpu") -> int:
    """Return the memory of the device in bytes: the GPU's, or the machine's where a container may not set a lower limit."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no control group here, or "max"
            continue
    return min(limits)
