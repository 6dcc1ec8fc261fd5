"""Merge a LoRA adapter into its base model and save an ordinary checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading


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
        dtype: stored dtype; default: that of the base's checkpoint.
        probe: a text whose logits are compared.
        tolerance: of the logits in float32, relative to the largest one.
    Raises:
        Qwen3labError: no adapter there, one of another shape, or logits that do not agree.
    """
    import torch
    from safetensors import SafetensorError

    from qwen3lab.training import lora

    adapter, dst = Path(adapter), Path(dst)
    model, tokenizer = loading.load(base, dtype="float32")
    stored = dtype or str(_stored_dtype(base) or "float32")
    ids = torch.tensor([tokenizer(probe).input_ids], device=model.device)
    try:
        adapted, _ = lora.load_adapter(adapter, model)
    except Qwen3labError:
        raise
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise Qwen3labError(
            f"The adapter {adapter.name!r} does not fit the model {str(base)!r}"
            f" ({str(error).strip().splitlines()[0].rstrip('.')}). Give the model that it was"
            " trained on."
        ) from error
    with torch.inference_mode():
        wanted = adapted(input_ids=ids).logits
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
    merged.to(getattr(torch, stored)).save_pretrained(dst)
    tokenizer.save_pretrained(dst)
    return Merged(dst, difference, rounding, scale)


def _stored_dtype(model_id: str | Path) -> str | None:
    """Read the dtype of a local checkpoint from its config; None for a hub id."""
    config = Path(loading.resolve(model_id)) / "config.json"
    if not config.is_file():
        return None
    fields = json.loads(config.read_text(encoding="utf-8"))
    return fields.get("dtype") or fields.get("torch_dtype")
