"""A run that was killed and went on equals one that was never stopped, and nothing on the way is a
pickle.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from qwen3lab import models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.training import checkpointing

STEPS = {"steps": 9, "batch_size": 4, "learning_rate": 5e-3, "logging_steps": 1}


def _rows(n=12):
    return [
        {
            "id": str(i),
            "task": "codes",
            "language": "en",
            "messages": [{"role": "user", "content": f"Code of box {i}?"}],
            "answer": f"{i * 37 % 100}",
            "thinking": False,
        }
        for i in range(n)
    ]


def _numbers(run):
    return {name: tensor for name, tensor in run.model.state_dict().items()}


@pytest.mark.parametrize(
    "optimiser", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)]
)
def test_an_optimiser_comes_back_bit_for_bit(optimiser, tmp_path):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(5, 3), torch.randn(4, 5)
    first = optimiser(layer.parameters())

    def step(model, optim):
        optim.zero_grad()
        model(x).square().sum().backward()
        optim.step()

    step(layer, first)
    checkpointing.save_optimizer(tmp_path / "o.safetensors", first)
    other = copy.deepcopy(layer)
    second = optimiser(other.parameters())
    checkpointing.load_optimizer(tmp_path / "o.safetensors", second)
    step(layer, first)
    step(other, second)
    assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)


def test_random_numbers_go_on():
    saved = json.loads(json.dumps(checkpointing.random_state()))
    first = random.random(), np.random.rand(), torch.rand(3).tolist()
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) != first
    checkpointing.set_random_state(saved)
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == first


def test_the_random_state_of_an_apple_gpu_goes_on(monkeypatch):
    kept = {"state": torch.tensor([1, 2, 250], dtype=torch.uint8)}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: kept["state"])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: kept.update(state=state))
    saved = json.loads(json.dumps(checkpointing.random_state()))
    kept["state"] = None
    checkpointing.set_random_state(saved)
    assert kept["state"].tolist() == [1, 2, 250] and kept["state"].dtype == torch.uint8
    earlier = {key: value for key, value in saved.items() if key != "mps"}
    checkpointing.set_random_state(earlier)  # of a checkpoint from before
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert checkpointing.random_state()["mps"] == []


@pytest.mark.parametrize(
    ("method", "options"), [("lora", {"lora": {"lora_dropout": 0.2}}), ("full", {})]
)
def test_a_run_that_stopped_equals_one_that_did_not(method, options, checkpoint, tmp_path):
    whole = training.fine_tune(checkpoint, _rows(), method=method, **STEPS, **options)

    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    training.fine_tune(
        checkpoint,
        _rows(),
        method=method,
        save_every=2,
        output_dir=tmp_path / "run",
        callbacks=[Stop()],
        **STEPS,
        **options,
    )
    (
        (tmp_path / "run" / "checkpoint-5").rename(tmp_path / "not one of its own")
        if (tmp_path / "run" / "checkpoint-5").exists()
        else None
    )
    assert checkpointing.last_checkpoint(tmp_path / "run").name == "checkpoint-4"
    rest = training.fine_tune(
        checkpoint,
        _rows(),
        method=method,
        save_every=2,
        output_dir=tmp_path / "run",
        resume=True,
        **STEPS,
        **options,
    )
    assert rest.steps == whole.steps == 9
    differences = [
        (a - b).abs().max().item()
        for a, b in zip(_numbers(whole).values(), _numbers(rest).values())
    ]
    assert max(differences) == 0
    assert rest.history.loss.tolist() == whole.history.loss.tolist()
    files = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert "optimizer.safetensors" in files and not [
        name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))
    ]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpointing import STEPS, _rows
from qwen3lab import training
settings = STEPS | {{"steps": 4000}}
training.fine_tune({model!r}, _rows(), method="lora", save_every=2, output_dir={out!r},
                   resume=True, **settings)
"""


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(checkpoint, tmp_path):
    out = tmp_path / "run"
    script = KILLED.format(tests=os.path.dirname(__file__), model=str(checkpoint), out=str(out))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(1200):
        if checkpointing.last_checkpoint(out) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = checkpointing.last_checkpoint(out)
    assert found is not None
    (out / "checkpoint-99999").mkdir()  # one that the kill cut short
    assert checkpointing.last_checkpoint(out) == found
    reached = int(found.name.split("-")[1])
    rest = training.fine_tune(
        checkpoint,
        _rows(),
        method="lora",
        save_every=2,
        output_dir=out,
        resume=True,
        **STEPS | {"steps": reached + 3},
    )
    assert rest.steps == reached + 3
    assert rest.history.step.tolist() == list(range(1, reached + 4))


@pytest.mark.parametrize(
    "other", [{"method": "full"}, {"lora": {"r": 4}}, {"lora": {"target_modules": ["q_proj"]}}]
)
def test_another_adapter_cannot_go_on(other, checkpoint, tmp_path):
    training.fine_tune(
        checkpoint, _rows(), save_every=2, output_dir=tmp_path, **STEPS | {"steps": 2}
    )
    with pytest.raises(Qwen3labError, match="belongs to another run"):
        training.fine_tune(
            checkpoint, _rows(), save_every=2, output_dir=tmp_path, resume=True, **other, **STEPS
        )


def test_early_stopping_gives_back_the_best_weights(checkpoint):
    other = [row | {"answer": "no"} for row in _rows()]  # learning the rows makes these worse
    run = training.fine_tune(
        checkpoint,
        _rows(),
        validation=other,
        method="full",
        patience=3,
        eval_steps=1,
        save_steps=1,
        **STEPS | {"steps": 60},
    )
    losses = run.history.eval_loss.dropna()
    best = losses.idxmin()
    assert run.steps < 60 and len(losses) - 1 - losses.index.get_loc(best) == 3
    assert run.best_step == run.history.step[best]
    again = training.fine_tune(checkpoint, _rows(), method="full", **STEPS | {"steps": 60})
    assert any(
        not torch.equal(a, b) for a, b in zip(_numbers(run).values(), _numbers(again).values())
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 3}, "nothing to evaluate"),
        ({"save_every": 2}, "folder that lasts"),
        ({"resume": True}, "folder that lasts"),
    ],
)
def test_settings_that_need_another(arguments, message, checkpoint):
    with pytest.raises(Qwen3labError, match=message):
        training.fine_tune(checkpoint, _rows(), **STEPS | arguments)


def test_resume_in_an_empty_folder_starts_anew(checkpoint, tmp_path):
    run = training.fine_tune(
        checkpoint, _rows(), save_every=3, output_dir=tmp_path, resume=True, **STEPS | {"steps": 3}
    )
    assert run.steps == 3 and models.load_tokenizer(tmp_path).pad_token == "<|endoftext|>"


def test_tensorboard_reads_back_what_the_history_says(checkpoint, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = training.fine_tune(checkpoint, _rows(), validation=_rows(3), logs=tmp_path, **STEPS)
    written = EventAccumulator(str(tmp_path)).Reload()
    for tag, column in (
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("train/grad_norm", "grad_norm"),
        ("train/memory_bytes", "memory_bytes"),
        ("eval/loss", "eval_loss"),
    ):
        history = run.history.dropna(subset=[column])
        assert [event.step for event in written.Scalars(tag)] == history.step.tolist()
        assert [event.value for event in written.Scalars(tag)] == pytest.approx(
            history[column].tolist(), rel=1e-6
        )
    assert (run.history.tokens_per_second.dropna() > 0).all() and (
        run.history.memory_bytes.dropna() > 1e8
    ).all()
