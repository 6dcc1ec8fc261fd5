"""Load a model with its linear layers in 4 bits (NF4), on a GPU or a CPU, so that it can also be trained.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs"; the arithmetic is bitsandbytes'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import models, profiles

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_4bit(model_id: str | Path = "chat", *, double_quant: bool = True, device: str | None = None,
              **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model with NF4 weights and its tokenizer, in eval mode.

    Every `nn.Linear` but the output head becomes 4-bit. The experts of a mixture stay as they are, because transformers
    keeps them as one fused tensor and not as `nn.Linear`; `share_4bit` counts it.

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


def layers_4bit(model: torch.nn.Module):
    """The 4-bit linear layers of a model (`bitsandbytes.nn.Linear4bit`)."""
    import bitsandbytes

    return (module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit))


def share_4bit(model: torch.nn.Module) -> tuple[int, int]:
    """Return (weights that are stored in 4 bits, all weights) of a model, as counts of numbers, tied ones once."""
    quantised = sum(layer.in_features * layer.out_features for layer in layers_4bit(model))
    packed = {id(layer.weight) for layer in layers_4bit(model)}
    return quantised, quantised + sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in packed)


def code_book() -> torch.Tensor:
    """The 16 values of NF4 in [-1, 1]: equally likely intervals of a normal distribution, with an exact zero.

    Eight quantiles on the positive side and seven on the negative one, scaled to 1
    (`bitsandbytes.functional.create_normal_map`; QLoRA paper, equation 4).
    """
    import torch

    edge = 0.9677083  # mean of 1 - 1/(2*15) and 1 - 1/(2*16): the outermost quantile of either side, as finite
    normal = torch.distributions.Normal(0.0, 1.0)
    positive = normal.icdf(torch.linspace(edge, 0.5, 9)[:-1])
    negative = -normal.icdf(torch.linspace(edge, 0.5, 8)[:-1])
    values = torch.cat([negative, torch.zeros(1), positive]).sort().values
    return values / values.abs().max()


def quantize(weight: torch.Tensor, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight to NF4: each block of `block` numbers is divided by its largest magnitude and rounded to the code book.

    Returns (codes [n / block, block] from 0 to 15, scales [n / block, 1]); the number of weights must divide by `block`.
    """
    blocks = weight.reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)
    distance = (blocks / scales.clamp(min=1e-30)).unsqueeze(-1) - code_book()
    return distance.abs().argmin(-1), scales


def dequantize(codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight that 4 bits keep of the original: code book value times the block's scale."""
    return (code_book()[codes] * scales).reshape(shape)
