"""Merge a LoRA adapter into its base model and save an ordinary checkpoint.

The rule: the merged folder answers, encodes and ends as base plus adapter did. So it gets the
tokenizer, the chat template, the number of embeddings and the generation settings of the adapter's
folder, and the base's where the adapter's has none (`qwen3lab.models.beside`).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside, generation, loading


@dataclass(frozen=True)
class Merged:
    """A merged model on disk, and how far its logits are from those of base plus adapter."""

    path: Path
    # largest absolute logit difference on the probe, float32, before rounding to the stored dtype
    difference: float
    rounding: float  # the same after rounding
    scale: float  # the largest absolute logit of the probe, to compare with


def merge(
    base: str | Path,
    adapter: str | Path,
    dst: str | Path,
    *,
    dtype: str | None = None,
    probe: str = "What does the handbook say? 手册里怎么写？ 12 + 30 = 42",
    tolerance: float = 1e-4,
) -> Merged:
    """Merge a LoRA adapter's update into the weights and save an ordinary checkpoint.

    The base is loaded in float32, never in 4 bits: merged into a 4-bit model the update would be
    rounded away with it.

    Args:
        base: the model that the adapter was trained on, as in `models.load`.
        adapter: folder with adapter_config.json.
        dst: folder to write; it gets model, tokenizer and generation settings.
        dtype: stored dtype, one of `loading.DTYPES`; default: that of the base's checkpoint.
        probe: a text whose logits are compared.
        tolerance: of the logits in float32, relative to the largest one.
    Raises:
        Qwen3labError: an unknown dtype, a folder to write that is the base's or the adapter's, no
            adapter there, one of another shape, or logits that do not agree.
    """
    import torch

    from qwen3lab.training import lora

    adapter, dst = Path(adapter), Path(dst)
    if dtype is not None:
        loading.torch_dtype(dtype)
    beside.adapter_config(adapter)
    check_target(dst, loading.resolve(base), adapter)
    model, _ = loading.load(base, dtype="float32")
    stored = dtype or str(_stored_dtype(base) or "float32")
    adapted, tokenizer = lora.load_adapter(adapter, model)
    ids = torch.tensor([tokenizer(probe).input_ids], device=model.device)
    with torch.inference_mode():
        wanted = adapted(input_ids=ids).logits
    _untie(adapted)
    merged = adapted.merge_and_unload()
    with torch.inference_mode():
        difference = (merged(input_ids=ids).logits - wanted).abs().max().item()
    scale = wanted.abs().max().item()
    if difference > tolerance * scale:
        raise Qwen3labError(
            f"The merged model's logits differ from the adapter's by {difference:.3g}. Check that"
            " nothing is quantised, and merge in float32."
        )
    with torch.no_grad():  # keep float32 arithmetic, but with the rounded weights of the file
        for parameter in merged.parameters():
            parameter.copy_(parameter.to(getattr(torch, stored)).float())
    with torch.inference_mode():
        rounding = (merged(input_ids=ids).logits - wanted).abs().max().item()
    _save(merged.to(getattr(torch, stored)), tokenizer, adapter, dst)
    return Merged(dst, difference, rounding, scale)


def _untie(adapted) -> None:
    """Give the head a table of its own where an adapter changes embeddings or head, in place.

    Merged into a table that both share, the update of one would also be made to the other.
    """
    from peft.tuners.lora import LoraLayer
    from torch import nn

    model = adapted.get_base_model()
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if not any(isinstance(layer, LoraLayer) for layer in layers):
        return
    table, head = (getattr(layer, "base_layer", layer) for layer in layers)
    if table.weight is head.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def _save(merged, tokenizer, adapter: Path, dst: Path) -> None:
    """Write model, tokenizer and generation settings.

    Settings that the adapter's folder states are copied as they are. Else they are the base's, with
    the end tokens of the tokenizer that goes along: a chat adapter on a base model ends turns.
    """
    own = beside.own_file(adapter, beside.GENERATION)
    if own is None:
        settings = merged.generation_config
        stated = generation.stated_ends(settings)
        ends = generation.end_tokens(tokenizer)
        if not set(ends) <= set(stated):
            settings.eos_token_id = [*stated, *(end for end in ends if end not in stated)]
    else:  # the library refuses to save some settings that it reads
        merged.generation_config = type(merged.generation_config)()
    merged.save_pretrained(dst)
    if own is not None:
        shutil.copyfile(own, dst / beside.GENERATION)
    tokenizer.save_pretrained(dst)


def check_target(dst: Path, *sources: Path | str) -> None:
    """Check that a folder or file to be written is not one of those that are read.

    Raises Qwen3labError if it is one, or if a file is where the folder should be.
    """
    for source in sources:
        if Path(source).exists() and dst.exists() and dst.samefile(source):
            raise Qwen3labError(
                f"{dst.name!r} is to be written and to be read at once. Name another place for"
                " the result."
            )


def _stored_dtype(model_id: str | Path) -> str | None:
    """Read the dtype of a local checkpoint from its config; None for a hub id."""
    config = Path(loading.resolve(model_id)) / "config.json"
    if not config.is_file():
        return None
    fields = json.loads(config.read_text(encoding="utf-8"))
    return fields.get("dtype") or fields.get("torch_dtype")
