"""NF4 quantisation of a mixture's experts, which transformers 5 with bitsandbytes 0.50 leaves out.

transformers keeps the experts of a layer as two fused tensors, and bitsandbytes replaces only
`nn.Linear`. `bitsandbytes.nn.parametrize.replace_parameter_4bit`, which its authors call
experimental, can quantise any tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch


NAMES = ("gate_up_proj", "down_proj")


def expert_modules(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Find the modules that hold a layer's fused experts (`Qwen3MoeExperts`), in layer order."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    return (module for module in model.modules() if isinstance(module, Qwen3MoeExperts))


def quantize_experts(model: torch.nn.Module, *, double_quant: bool = True) -> int:
    """Quantise the fused experts of every layer to NF4 in place; return the number of weights.

    Each forward pass dequantises them again, one layer at a time: this saves memory, never time.
    Adapters on attention can be trained on top; PEFT no longer finds experts to adapt. Load the
    whole model first, on the device where it will stay: nothing here moves the scales along.

    Args:
        double_quant: quantise the block scales too (0.516 instead of 0.5625 bytes per weight).
    Raises:
        Qwen3labError: the model has no experts, they are already in 4 bits, or it carries an
            adapter.
    """
    from bitsandbytes.nn.parametrize import replace_parameter_4bit
    from torch.nn.utils import parametrize

    layers = list(expert_modules(model))
    if not layers:
        raise Qwen3labError(
            "This model has no experts. Give a mixture of experts, for example models.load('moe')."
        )
    if hasattr(model, "peft_config"):
        raise Qwen3labError(
            "This model carries an adapter already. Quantise the experts first, then add the"
            " adapter."
        )
    if any(parametrize.is_parametrized(layer) for layer in layers):
        raise Qwen3labError(
            "The experts of this model are in 4 bits already. Use it as it is, or load it anew."
        )
    count = 0
    for layer in layers:
        for name in NAMES:
            count += getattr(layer, name).numel()
            replace_parameter_4bit(layer, name, quant_type="nf4", compress_statistics=double_quant)
            # bitsandbytes keeps the scales in the parametrisation. Put them where its own 4-bit
            # weights have them, so that code that counts bytes and shapes finds them.
            layer.parametrizations[name].original.quant_state = layer.parametrizations[name][
                0
            ].quant_state
    return count
