"""Round all linear layers of a model to few bits by our own code, to see what the bits cost.

The weights stay in float32 with rounded values, so that any number of bits runs on any machine.
Nothing is stored smaller: `stored_bytes` says what a packed file of these weights would take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import gptq
from qwen3lab.models import batching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class _Caught(Exception):
    """Ends a forward pass once all inputs of a decoder layer were seen."""


def round_linears(
    model: PreTrainedModel,
    *,
    bits: int,
    group_size: int = 128,
    texts: Sequence[Sequence[int]] | None = None,
) -> PreTrainedModel:
    """Round the weights of every linear layer but the head, in place; return the model.

    Args:
        bits: 2 to 8.
        group_size: neighbouring weights of a row that share a scale; -1: whole rows.
        texts: token ids of calibration texts: then GPTQ (`from_scratch.gptq`), one decoder
            layer after the other, each calibrated on what the rounded layers before it give.
            None: round to nearest.
    Raises:
        Qwen3labError: a number of bits outside 2 to 8; what `gptq.quantize` raises.
    """
    import torch

    if bits not in range(2, 9):
        raise Qwen3labError(f"{bits} bits cannot be made here. Give a number from 2 to 8.")
    settings = {"bits": bits, "group_size": group_size}
    with torch.no_grad():
        for names in _blocks(model):
            seen = {} if texts is None else _hessians(model, names, texts)
            for name in names:
                weight = model.get_submodule(name).weight
                if texts is None:
                    rounded = gptq.nearest(weight, **settings)
                else:
                    rounded = gptq.quantize(weight, seen[name], **settings)
                weight.copy_(rounded.weight())
    return model


def linears(model: PreTrainedModel) -> list[str]:
    """List the names of the linear layers but the head, in the order of the forward pass."""
    import torch

    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    ]


def stored_bytes(model: PreTrainedModel, bits: int, group_size: int = 128) -> int:
    """Compute the bytes of the packed weights with a 16-bit scale a group, all others in 16 bits.

    Tied weights count once. A file also holds names and shapes, and GPTQ's holds zero points.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    packed = [model.get_submodule(name).weight for name in linears(model)]
    inside = sum(weight.numel() for weight in packed)
    groups = sum(
        weight.numel() // (weight.shape[1] if group_size < 1 else group_size) for weight in packed
    )
    return inside * bits // 8 + 2 * groups + 2 * (total - inside)


def _blocks(model: PreTrainedModel) -> list[list[str]]:
    """Group the linear layers by decoder layer, in forward order."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in linears(model):
        groups.setdefault(tuple(name.split(".")[:3]), []).append(name)
    return list(groups.values())


def _hessians(
    model: PreTrainedModel, names: Sequence[str], texts: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Compute the Hessian of each layer's inputs on the texts, without padding."""
    import torch

    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    inside: list[torch.Tensor] = []  # the mask of the batch that is being read

    def catch(name: str):
        def hook(module, inputs):
            seen[name].append(inputs[0][inside[-1].bool()])
            if name == names[-1]:  # what lies behind this layer is not needed
                raise _Caught

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(catch(name)) for name in names]
    try:
        with batching.reading(model):
            for _, ids, mask in batching.batches(list(texts), 16, device=model.device):
                inside.append(mask)
                with contextlib.suppress(_Caught):
                    model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: gptq.hessian(torch.cat(inputs)) for name, inputs in seen.items()}
