"""Train the LoRA adapter with the company's knowledge once, and cache it for the notebooks."""

from __future__ import annotations

import json
import tempfile
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
    folder = paths.ROOT / "runs" / f"company-lora-{profiles.get().name}"
    made_from = folder / "made_from.json"
    now = json.dumps(
        {
            "model": loading.fingerprint("chat"),
            "rows": cache.fingerprint(paths.TASKS / "knowledge.train.jsonl"),
            "recipe": company_recipe(),
        },
        indent=1,
    )
    if run is None and made_from.is_file() and made_from.read_text(encoding="utf-8") == now:
        return folder
    run = run or fine_tune("chat", tasks.load("knowledge", "train"), **company_recipe())
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent
    ) as draft:  # complete or absent: two notebooks may run at once
        run.model.save_pretrained(draft)
        run.tokenizer.save_pretrained(draft)
        (Path(draft) / made_from.name).write_text(now, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for file in sorted(
            Path(draft).iterdir(), key=lambda file: file.name == made_from.name
        ):  # made_from.json last
            file.replace(folder / file.name)
    return folder


def company_recipe() -> dict[str, Any]:
    """Return notebook 03's training settings.

    The tiny model gets many rows and a high learning rate; a large one starts from the defaults.
    """
    if profiles.get().name == "tiny":
        return {"method": "lora", "steps": 60, "batch_size": 32, "learning_rate": 1e-2}
    return {"method": "lora", "epochs": 4}
