"""Bytes are counted right, and what a machine measured is marked as such."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from qwen3lab import measure, memory, models
from qwen3lab.training import callbacks


def test_clock_prints_a_marked_line(capsys):
    with measure.clock("a block") as clock:
        assert clock.seconds >= 0
    line = capsys.readouterr().out
    assert line.startswith(measure.MARK) and line == f"time · a block: {clock.seconds:.1f} s\n"
    assert clock.seconds == clock.seconds, "the clock stands after the block"


def test_clock_prints_when_the_block_fails(capsys):
    with pytest.raises(ValueError):
        with measure.clock("broken"):
            raise ValueError
    assert capsys.readouterr().out.startswith("time · broken: ")


# In a process of its own: what other tests freed, or free meanwhile, would count as well.
PEAK = """
import sys, time
from qwen3lab import measure

size = 120_000_000
if sys.argv[1] == "thread":  # the way of machines without Linux's counter
    measure._reset_high_water = lambda: False
with measure.peak() as before:
    pass
with measure.peak() as during:
    block = b"1" * size
    latest = time.monotonic() + 30  # a busy machine may not let the watcher look for a while
    seen = lambda: during.bytes - before.bytes >= 0.9 * size
    while sys.argv[1] == "thread" and not seen() and time.monotonic() < latest:
        time.sleep(0.02)
    del block
print((during.bytes - before.bytes) / size)
"""


@pytest.mark.parametrize("way", ["kernel", "thread"])
def test_peak_sees_memory_that_was_given_back(way):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, way], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(1, rel=0.2)


def test_peak_of_an_apple_gpu_is_sampled_from_torch(monkeypatch):
    sizes = iter([10, 70, 40])
    latest = [0]

    def now():
        latest[0] = next(sizes, latest[0])
        return latest[0]

    monkeypatch.setattr(torch.mps, "driver_allocated_memory", now)
    with measure.peak("mps") as peak:
        while latest[0] != 40:
            pass
    assert peak.bytes == 70


def test_what_a_step_costs_on_an_apple_gpu(monkeypatch):
    import math
    import types

    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1234)
    model = types.SimpleNamespace(device=torch.device("mps"))
    callback, logs = callbacks.cost(), {"loss": 1.0, "num_tokens": 5.0}
    callback.on_train_begin(None, None, None)
    state = types.SimpleNamespace(log_history=[dict(logs)])
    callback.on_log(None, state, None, logs=logs, model=model)
    assert logs["memory_bytes"] == 1234 and math.isnan(logs["utilisation"])


def test_model_bytes_count_tied_weights_once(checkpoint):
    model, _ = models.load(checkpoint)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert measure.model_bytes(model) == 4 * model.num_parameters()
    assert (
        measure.tensor_bytes([model.lm_head.weight, model.model.embed_tokens.weight])
        == 4 * model.lm_head.weight.numel()
    )


def test_training_bytes_are_those_of_the_planner(checkpoint):
    model, _ = models.load(checkpoint)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    measured = measure.training_bytes(model, optimizer)
    planned = memory.plan(model.config, "full").parts
    assert measured == {
        "frozen weights": 0,
        "trained weights": planned["weights"],
        "gradients": planned["gradients"],
        "optimiser": planned["optimiser"],
    }


def test_the_live_chart_draws_for_a_person_only(checkpoint, monkeypatch):
    from IPython import display

    from qwen3lab import training

    shown = []

    class Handle:
        def update(self, figure):
            shown.append("update")

    monkeypatch.setattr(
        display, "display", lambda figure, display_id: shown.append("display") or Handle()
    )
    rows = [{"messages": [{"role": "user", "content": "Code?"}], "answer": "7", "thinking": False}]
    settings = {"steps": 3, "batch_size": 1, "logging_steps": 1}
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    training.fine_tune(checkpoint, rows, callbacks=[callbacks.live_chart(every=0)], **settings)
    assert shown == []
    monkeypatch.setenv("JPY_SESSION_NAME", "03.ipynb")
    run = training.fine_tune(
        checkpoint, rows, callbacks=[callbacks.live_chart(every=0)], **settings
    )
    assert shown == ["display", "update", "update", "update"]
    assert set(callbacks.COSTS) <= set(run.history.columns)
