"""Train the LoRA adapter with the company's knowledge once, and cache it for the notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwen3lab import cache, paths, profiles
from qwen3lab.data import tasks
from qwen3lab.models import loading
from qwen3lab.training.sft import Run, fine_tune


def company_adapter(run: Run | None = None) -> Path:
    """Return the folder of the company's LoRA adapter; train it as in notebook 03 if missing.

    It belongs to the profile's chat model. Notebook 03 passes its `run` to be stored. The other
    notebooks find it there; if it is missing, or was made from another model, other rows or another
    recipe, it is trained first.
    """
    folder = paths.ROOT / "runs" / f"company-lora-{profiles.get().name}{profiles.smoke_suffix()}"
    made_from = {
        "model": loading.fingerprint("chat"),
        "rows": cache.fingerprint(paths.TASKS / "knowledge.train.jsonl"),
        "recipe": company_recipe(),
    }

    def make(draft: Path) -> None:
        rows = tasks.load("knowledge", "train")
        trained = run or fine_tune("chat", rows, **company_recipe())
        trained.model.save_pretrained(draft)
        trained.tokenizer.save_pretrained(draft)

    cache.renew(folder, made_from, make, again=run is not None)
    return folder


def company_recipe() -> dict[str, Any]:
    """Return notebook 03's training settings.

    The tiny model gets many rows and a high learning rate; a large one starts from the defaults.
    """
    if profiles.get().name == "tiny":
        return {"method": "lora", "steps": 60, "batch_size": 32, "learning_rate": 1e-2}
    return {"method": "lora", "epochs": 4}
