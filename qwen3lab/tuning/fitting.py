"""Plan a run's memory and disk before it starts, and say the nearest way that fits."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from qwen3lab import family, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import planner
from qwen3lab.models import loading

# Of the machine's memory, what the planner's figure may take: libraries and rows need the rest.
SHARE = 0.9


@dataclass(frozen=True)
class Ask:
    """What a training asks of the machine."""

    model: str
    method: str
    batch: int  # rows at one time
    length: int  # tokens of the longest row
    rank: int = 16

    def __str__(self) -> str:
        return (
            f"{planner.LABELS[self.method]} on {Path(self.model).name}, {self.batch} rows of"
            f" {self.length} tokens at a time"
        )


def shape(model: str) -> family.Shape | None:
    """Look up a model's shape by its folder or name; None for a model of another family."""
    found = loading.resolve(model)
    if isinstance(found, Path) and (found / "config.json").is_file():
        fields = json.loads((found / "config.json").read_text(encoding="utf-8"))
        if str(fields.get("model_type", "")).startswith("qwen3"):
            return family.shape(fields | {"_name_or_path": found.name})
        return None
    try:
        return family.shape(str(found))
    except Qwen3labError:
        return None


def needed(ask: Ask) -> int | None:
    """Compute the bytes of memory that a training needs by the planner; None if it cannot tell."""
    found = shape(ask.model)
    if found is None:
        return None
    profile = profiles.get()
    return planner.plan(
        found,
        ask.method,
        rank=ask.rank,
        **planner.format_of(profile.dtype),
        batch=ask.batch,
        length=ask.length,
        checkpointing=profile.device != "cpu",
        padded=True,
    ).total


def nearest(ask: Ask, room: int) -> tuple[Ask, int] | None:
    """Find the first lighter training that fits: smaller batch, QLoRA, then a smaller model.

    A batch is made up for by gradient accumulation, so that only its cost in time changes.
    """
    methods = [ask.method, *{"full": ["lora", "qlora"], "lora": ["qlora"]}.get(ask.method, [])]
    batches = sorted({max(1, ask.batch >> shift) for shift in range(8)}, reverse=True)
    mine = shape(ask.model)
    smaller = [
        entry.id
        for entry in sorted(family.FAMILY.values(), key=lambda s: -s.parameters)
        if mine is not None and entry.parameters < mine.parameters
    ]
    for model in [ask.model, *smaller]:
        for method in methods:
            for batch in batches:
                tried = replace(ask, model=model, method=method, batch=batch)
                size = needed(tried)
                if size is not None and size <= room:
                    return tried, size
    return None


def check_memory(ask: Ask, available: int | None = None) -> str:
    """Check that a training fits this machine's memory; returns the plan as one sentence.

    `available`: bytes to assume instead of the machine's.

    Raises:
        Qwen3labError: it does not fit; the second sentence is the nearest way that does.
    """
    size = needed(ask)
    if size is None:
        return "memory is not planned: the model is none of the Qwen3 family"
    device = profiles.get().device
    room = int(SHARE * (planner.machine_bytes(device) if available is None else available))
    if size <= room:
        return f"{ask}: {size / 1e9:.2f} GB by the planner, of {room / 1e9:.1f} GB"
    found = nearest(ask, room)
    advice = "Use a machine with more memory, or shorter rows"
    if found:
        way, lighter = found
        changes = [f"--model {way.model}"] if way.model != ask.model else []
        changes += [f"--method {way.method}"] if way.method != ask.method else []
        if way.batch != ask.batch:
            changes.append(f"--batch {way.batch} --accumulate {-(-ask.batch // way.batch)}")
        advice = f"Use {' '.join(changes)}, which needs {lighter / 1e9:.2f} GB"
    raise Qwen3labError(
        f"{ask} needs {size / 1e9:.2f} GB by the planner, and {room / 1e9:.1f} GB may be used here."
        f" {advice}."
    )


def check_disk(folder: Path, ask: Ask, merge: bool = False, gguf: bool = False) -> str:
    """Check that the disk has room for what a training writes; returns a sentence.

    Counted are three checkpoints with their optimiser's state, the result, and, where asked for,
    the merged model and a GGUF file with its scratch copy in float32.

    Raises:
        Qwen3labError: there is too little room.
    """
    found = shape(ask.model)
    if found is None:
        return ""
    targets = "attention" if found.is_moe else "all-linear"
    full = ask.method == "full"
    trained = found.parameters if full else found.lora_parameters(ask.rank, targets)
    size = trained * 4 * (3 * 3 + 1)
    size += found.parameters * (2 if merge else 0) + found.parameters * (6 if gguf else 0)
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise Qwen3labError(
            f"The run writes up to {size / 1e9:.2f} GB, and the disk of {folder.name!r} has"
            f" {free / 1e9:.2f} GB free. Free some, or name another folder with --out."
        )
    return f"writes up to {size / 1e9:.2f} GB; {free / 1e9:.1f} GB are free"
