"""Memory and disk before a run."""

from __future__ import annotations

import re

import pytest

from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import planner
from qwen3lab.tuning import fitting
from qwen3lab.tuning.fitting import Ask

EIGHT = Ask("Qwen/Qwen3-8B", "lora", 8, 1024)


def test_needed_is_the_planners():
    plan = planner.plan(
        "8B",
        "lora",
        rank=16,
        bytes_per_weight=4,
        batch=8,
        length=1024,
        checkpointing=False,
        padded=True,
    )
    assert fitting.needed(EIGHT) == plan.total
    assert fitting.needed(Ask("qwen3-tiny", "full", 4, 64)) < 10**9


def test_shape_of_a_folder_a_name_and_a_stranger(tmp_path, checkpoint):
    assert fitting.shape(str(checkpoint)).hidden == 32
    assert fitting.shape("Qwen/Qwen3-30B-A3B").experts == 128
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert fitting.shape(str(tmp_path)) is None
    assert fitting.needed(Ask(str(tmp_path), "lora", 1, 8)) is None
    assert "not planned" in fitting.check_memory(Ask(str(tmp_path), "lora", 1, 8))


@pytest.mark.parametrize("room_gb", [4, 8, 12, 24, 40, 60, 100, 200])
def test_the_nearest_way_fits_and_nothing_nearer_does(room_gb):
    room = room_gb * 10**9
    if fitting.needed(EIGHT) <= room:
        return
    found = fitting.nearest(EIGHT, room)
    if found is None:
        assert fitting.needed(Ask("Qwen/Qwen3-0.6B", "qlora", 1, 1024)) > room
        return
    way, size = found
    assert size == fitting.needed(way) <= room
    if way.batch * 2 <= EIGHT.batch:
        bigger = Ask(way.model, way.method, way.batch * 2, way.length)
        assert fitting.needed(bigger) > room
    if way.method == "qlora" or way.model != EIGHT.model:
        assert fitting.needed(Ask(EIGHT.model, "lora", 1, 1024)) > room


def test_refusal_names_the_way():
    with pytest.raises(Qwen3labError) as refused:
        fitting.check_memory(EIGHT, available=int(40e9))
    text = str(refused.value)
    assert text.startswith("LoRA on Qwen3-8B, 8 rows of 1024 tokens at a time needs ")
    way, size = fitting.nearest(EIGHT, int(fitting.SHARE * 40e9))
    assert f"which needs {size / 1e9:.2f} GB" in text
    batch = re.search(r"--batch (\d+) --accumulate (\d+)", text)
    if way.batch != 8:
        assert int(batch[1]) * int(batch[2]) >= 8
    with pytest.raises(Qwen3labError, match="Use a machine with more memory"):
        fitting.check_memory(EIGHT, available=10**6)


def test_disk(tmp_path, monkeypatch):
    assert "are free" in fitting.check_disk(tmp_path / "a" / "b", Ask("qwen3-tiny", "lora", 1, 8))
    monkeypatch.setattr(fitting.shutil, "disk_usage", lambda path: type("U", (), {"free": 10**6}))
    with pytest.raises(Qwen3labError, match=r"has 0.00 GB free. Free some"):
        fitting.check_disk(tmp_path, EIGHT, gguf=True)
