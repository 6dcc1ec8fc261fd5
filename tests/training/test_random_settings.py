"""`fine_tune` over random settings: no false alarm, no run lost, the weights on disk.

The tests draw a few; `python tests/training/test_random_settings.py 300` draws as many as wanted.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
from pathlib import Path

import pytest

from qwen3lab import training


def make_rows(n: int) -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": f"Code {i}?"}], "answer": f"{i * 37 % 100}"}
        for i in range(n)
    ]


def draw(seed: int) -> dict:
    """Settings that a user might combine, from the seed alone."""
    rng = random.Random(seed)
    found: dict = {"rows": make_rows(rng.choice([1, 2, 3, 5, 12]))}
    found |= {"batch_size": rng.choice([1, 2, 4, 8]), "seed": rng.randrange(5)}
    found |= {"method": rng.choice(["lora", "lora", "full", "qlora"])}
    found |= rng.choice([{"steps": rng.randint(1, 12)}, {"epochs": rng.choice([0.5, 1, 2.5])}])
    if rng.random() < 0.6:
        found["validation"] = make_rows(rng.choice([1, 3]))
        if rng.random() < 0.4:
            found["patience"] = rng.choice([1, 2])
    if rng.random() < 0.5:
        found["keep"] = True
        if rng.random() < 0.5:
            found["save_every"] = rng.randint(1, 5)
    if rng.random() < 0.5:
        found["logging_steps"] = rng.choice([1, 2, 5, 50])
    if rng.random() < 0.3:
        found["gradient_accumulation_steps"] = rng.choice([2, 3])
    if rng.random() < 0.3:
        found["lr_scheduler_type"] = rng.choice(["cosine", "constant"])
    return found


def check(model: Path, seed: int) -> None:
    settings = draw(seed)
    kept = settings.pop("keep", False)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        run = training.fine_tune(
            model,
            settings.pop("rows"),
            **settings,
            learning_rate=1e-3,
            **({"output_dir": out} if kept else {}),
        )
        assert run.steps >= 1 and len(run.history) and run.tokens > 0
        losses = run.history.loss.dropna()
        assert len(losses) and all(map(math.isfinite, losses))
        assert "nan" not in run.summary()
        if "validation" in settings:
            assert run.history.eval_loss.notna().any()
        if kept:
            names = {file.name for file in out.rglob("*")}
            name = "model.safetensors" if run.method == "full" else "adapter_model.safetensors"
            assert (out / name).is_file()
            assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]


@pytest.mark.parametrize("seed", range(10))
def test_no_run_is_lost(seed, checkpoint):
    check(checkpoint, seed)


if __name__ == "__main__":
    from helpers import make_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        model, failed = make_checkpoint(Path(folder) / "dense"), 0
        for seed in range(int(sys.argv[1])):
            try:
                check(model, seed)
            except Exception as error:
                failed += 1
                print(seed, {k: v for k, v in draw(seed).items() if k != "rows"}, repr(error)[:300])
        print(f"{sys.argv[1]} draws, {failed} failed")
