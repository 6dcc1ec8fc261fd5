"""The settings that rescue a run from want of memory."""

from __future__ import annotations

import pytest
import torch

from qwen3lab import family, memory
from qwen3lab.training import out_of_memory


def test_every_setting_makes_the_same_step_and_the_order_is_from_fast_to_small():
    tried = list(out_of_memory.settings("8B", "lora", 12, 2048))
    assert [(s.batch, s.accumulation, s.checkpointing) for s in tried] == [
        (12, 1, False),
        (6, 2, False),
        (3, 4, False),
        (3, 4, True),
    ]
    assert {setting.rows for setting in tried} == {12}
    assert [setting.planned for setting in tried] == sorted(
        (setting.planned for setting in tried), reverse=True
    )
    assert (
        tried[0].planned
        == memory.plan("8B", "lora", batch=12, length=2048, checkpointing=False).peak
    )
    assert (
        tried[-1].planned
        == memory.plan("8B", "lora", batch=3, length=2048, checkpointing=True).total
    )


def test_no_budget_is_small_enough(checkpoint):
    rows = [
        {"messages": [{"role": "user", "content": "Code?"}], "answer": "7", "thinking": False}
    ] * 4
    run, tried = out_of_memory.fine_tune(checkpoint, rows, batch_size=4, steps=1)
    assert len(tried) == 1 and run.steps == 1
    with pytest.raises(out_of_memory.OutOfMemory, match="No setting fits"):
        out_of_memory.fine_tune(checkpoint, rows, batch_size=4, steps=1, budget=1000)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 2 GB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_a_devices_own_error_leads_to_the_next_setting(error, checkpoint, monkeypatch):
    from qwen3lab import training
    from qwen3lab.training import sft

    original, seen = training.fine_tune, []

    def first_fails(*args, **options):
        seen.append((options["batch_size"], options["gradient_accumulation_steps"]))
        if len(seen) == 1:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(sft, "fine_tune", first_fails)
    rows = [
        {"messages": [{"role": "user", "content": "Code?"}], "answer": "7", "thinking": False}
    ] * 4
    _, tried = out_of_memory.fine_tune(checkpoint, rows, batch_size=4, steps=1)
    assert seen == [(4, 1), (2, 2)] and len(tried) == 2


def test_another_error_is_no_lack_of_memory(checkpoint, monkeypatch):
    from qwen3lab.training import sft

    def fails(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(sft, "fine_tune", fails)
    rows = [
        {"messages": [{"role": "user", "content": "Code?"}], "answer": "7", "thinking": False}
    ] * 4
    with pytest.raises(RuntimeError, match="shapes do not match"):
        out_of_memory.fine_tune(checkpoint, rows, batch_size=4, steps=1)


def test_what_is_checkpointed_already_is_halved_alone():
    already = out_of_memory.settings(family.shape("8B"), "qlora", 2, 512, checkpointing=True)
    assert [(s.batch, s.checkpointing) for s in already] == [(2, True), (1, True)]
