"""Load models in 4 bits (bitsandbytes NF4) so that adapters can be trained; count 4-bit weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_4bit(
    model_id: str | Path = "chat",
    *,
    double_quant: bool = True,
    device: str | None = None,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model with NF4 weights and its tokenizer, in eval mode.

    Every `nn.Linear` except the output head becomes 4-bit. The experts of a mixture keep their
    dtype, because transformers stores them as fused tensors and not as `nn.Linear`: `share_4bit`
    shows this, and `experts_in_4bit.quantize_experts` quantises them.

    Args:
        model_id: as in `models.load`.
        double_quant: quantise the block scales too (0.516 instead of 0.5625 bytes per weight).
        device: default: the current profile's.
        options: passed to `AutoModelForCausalLM.from_pretrained`.
    Raises:
        Qwen3labError: as `models.load`, a device that bitsandbytes does not support, settings of
            bitsandbytes among the options, and a model that is quantised already.

    The dequantised weights are multiplied in the profile's dtype: float16 on a T4. Apple's MPS has
    a backend in bitsandbytes 0.50 (in plain torch before macOS 26); it was not run by those who
    wrote this.
    """
    import bitsandbytes
    import torch
    from transformers import BitsAndBytesConfig

    _check(model_id, double_quant, options)
    profile = profiles.get()
    kind = str(device or profile.device).split(":")[0]
    if kind not in bitsandbytes.supported_torch_devices:
        raise Qwen3labError(
            f"bitsandbytes {bitsandbytes.__version__} has no 4-bit weights on {kind!r}. Use method"
            " 'lora', or load the model with device='cpu'."
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=getattr(torch, profile.dtype),
    )
    model, tokenizer = loading.load(model_id, device=device, quantization_config=config, **options)
    guard(model)
    return model, tokenizer


def _check(model_id: str | Path, double_quant: Any, options: dict[str, Any]) -> None:
    """Refuse what transformers would drop, or would answer with an error of its own."""
    if not isinstance(double_quant, bool):
        raise Qwen3labError(f"double_quant is True or False, not {double_quant!r}. Give one.")
    strange = [
        name
        for name in options
        if name.startswith(("bnb_", "load_in_")) or name == "quantization_config"
    ]
    if strange:
        raise Qwen3labError(
            f"load_4bit stores NF4 and takes no {strange[0]!r}. For other settings call models.load"
            " with quantization_config=transformers.BitsAndBytesConfig(...)."
        )
    found = loading.resolve(model_id)
    file = Path(found) / "config.json"
    if isinstance(found, Path) and file.is_file():
        if json.loads(file.read_text(encoding="utf-8")).get("quantization_config"):
            raise Qwen3labError(
                f"{found.name!r} is quantised already. Take the 16-bit checkpoint that it was made"
                " from."
            )


def guard(model: torch.nn.Module) -> int:
    """Keep 4-bit layers trainable on CPUs with avx512_bf16; return the number of 4-bit layers.

    On such a CPU bitsandbytes 0.50 repacks a layer's weight for good at its first forward pass
    without gradients. The kernel for that format has no backward pass: from then on nothing before
    the layer receives a gradient, with a warning at most (`bitsandbytes/nn/modules.py`,
    `Linear4bit.forward`). So call this before the first generation.
    """
    layers = list(layers_4bit(model))
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def layers_4bit(model: torch.nn.Module):
    """Find the 4-bit linear layers of a model (`bitsandbytes.nn.Linear4bit`)."""
    import bitsandbytes

    return (module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit))


def share_4bit(model: torch.nn.Module) -> tuple[int, int]:
    """Count a model's weights: return (weights stored in 4 bits, all weights), tied ones once."""
    quantised = every = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = math.prod(state.shape) if state is not None else parameter.numel()
        every += count
        quantised += count if state is not None else 0
    return quantised, every
