"""Retry after running out of memory, with smaller settings that make the same optimiser step.

The settings are tried in the order of their cost in speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3lab import profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.family import Shape
from qwen3lab.memory import planner
from qwen3lab.models import loading
from qwen3lab.training import sft


@dataclass(frozen=True)
class Setting:
    """A memory setting: `batch` rows at a time, `accumulation` times, checkpointing or not.

    checkpointing: whether activations are recomputed instead of kept. planned: the planner's peak
    memory over the phases of a step, in bytes.
    """

    batch: int
    accumulation: int
    checkpointing: bool
    planned: int

    @property
    def rows(self) -> int:
        """Return the rows per step, equal for all settings of one plan."""
        return self.batch * self.accumulation

    def __str__(self) -> str:
        return (
            f"{self.batch} {'row' if self.batch == 1 else 'rows'} x {self.accumulation},"
            f" checkpointing {'on' if self.checkpointing else 'off'}: {self.planned / 1e6:,.0f} MB"
            " planned"
        )


class OutOfMemory(Qwen3labError):
    """An out-of-memory error: the budget does not hold a step."""


def settings(
    model: str | Shape | Any,
    method: str,
    rows: int,
    length: int,
    *,
    checkpointing: bool = False,
    **plan: Any,
) -> Iterator[Setting]:
    """Yield the settings to try, each with the same rows per step.

    The batch is halved until one row is left (or an odd number), then activations are checkpointed.

    Args:
        rows, length: rows per step, and tokens of the longest one.
        plan: further arguments of `memory.plan`.
    """
    batch = rows
    tries = [(batch, checkpointing)]
    while batch % 2 == 0:
        batch //= 2
        tries.append((batch, checkpointing))
    if not checkpointing:
        tries.append((batch, True))
    for batch, again in tries:
        made = planner.plan(model, method, batch=batch, length=length, checkpointing=again, **plan)
        yield Setting(
            batch, rows // batch, again, made.peak if batch == rows else made.total
        )  # with accumulation the gradients stay in memory


def fine_tune(
    model: Any,
    rows: Sequence[Any],
    *,
    method: str = "lora",
    batch_size: int,
    budget: int | None = None,
    **options: Any,
) -> tuple[sft.Run, list[Setting]]:
    """Run `training.fine_tune`, and retry with the next setting when memory does not hold a step.

    Args:
        model: a role, a name, a folder or a hub id: each try begins with fresh weights.
        budget: maximum planned bytes, to practise without a full GPU. Without one the first try is
            as given, and a GPU's own out-of-memory error leads to the next setting.
        options: go to `training.fine_tune`.
    Returns:
        The run, and the settings that were tried; the last one worked.
    Raises:
        OutOfMemory: no setting fits.
    """
    import torch
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
    from transformers import AutoConfig

    source = loading.resolve(model)
    longest = max(
        map(
            len,
            sft.dataset(loading.load_tokenizer(source), rows, profiles.get().max_length)[
                "input_ids"
            ],
        )
    )
    config = AutoConfig.from_pretrained(source)
    form = planner.format_of(profiles.get().dtype)
    tried: list[Setting] = []
    for setting in settings(config, method, batch_size, longest, **form):
        tried.append(setting)
        if budget is not None and setting.planned > budget:
            continue
        try:
            run = sft.fine_tune(
                model,
                rows,
                method=method,
                batch_size=setting.batch,
                gradient_accumulation_steps=setting.accumulation,
                activation_checkpointing=setting.checkpointing,
                **options,
            )
            return run, tried
        except RuntimeError as error:  # MPS and the CPU have no class of their own
            if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(
                error
            ):
                raise
        clear_device_cache()
    raise OutOfMemory(
        f"No setting fits: even {tried[-1]}. Shorten the rows, or take a smaller model or QLoRA."
    )
