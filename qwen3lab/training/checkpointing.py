"""Save and resume trainer checkpoints without pickle, as safetensors and JSON.

`transformers.Trainer` writes the optimiser's state and the random state with `torch.save`. The
classes here store the same content in formats that can contain only numbers and text.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from qwen3lab.errors import Qwen3labError

OPTIMIZER, PROGRESS = "optimizer.safetensors", "progress.json"


def save_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Save an optimiser's state as safetensors.

    Tensors are named like "3.exp_avg" (parameter 3); everything else is in the file's metadata.
    """
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for number, entry in state["state"].items():
        for key, value in entry.items():
            if torch.is_tensor(value):
                tensors[f"{number}.{key}"] = value.detach().contiguous().cpu()
            else:
                plain[f"{number}.{key}"] = value
    save_file(
        tensors,
        path,
        metadata={"groups": json.dumps(state["param_groups"]), "plain": json.dumps(plain)},
    )


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load what `save_optimizer` wrote into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    with safe_open(path, "pt") as file:
        groups, plain = (json.loads(file.metadata()[key]) for key in ("groups", "plain"))
        for name in file.keys():
            number, key = name.split(".", 1)
            state.setdefault(int(number), {})[key] = file.get_tensor(name)
    for name, value in plain.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_state() -> dict[str, Any]:
    """Capture the random state of Python, numpy and torch (each GPU's too) as JSON types."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    gpus = (
        [state.tolist() for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else []
    )
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": gpus,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the random state that `random_state` captured."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(
            [torch.tensor(gpu, dtype=torch.uint8) for gpu in state["cuda"]]
        )


class SafeCheckpoints:
    """A `transformers.Trainer` mixin for checkpoints without pickle (one process).

    Its checkpoints hold safetensors and JSON, and it resumes from them. Rows grouped by length get
    their order from torch's random state at the start of an epoch. The library restores only the
    checkpoint's random state, so the rest of a resumed epoch would have other rows; here the state
    at the start of the epoch is restored too.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        from transformers import TrainerCallback

        super().__init__(*args, **kwargs)
        self._epoch_began: dict[str, Any] | None = None
        trainer, restored = self, []
        self._restored = restored

        class EpochBegins(TrainerCallback):
            def on_epoch_begin(self, args, state, control, **kwargs):
                if restored:
                    set_random_state(restored.pop())
                trainer._epoch_began = random_state()

        self.add_callback(EpochBegins())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_optimizer(Path(output_dir) / OPTIMIZER, self.optimizer)

    def _save_scaler(self, output_dir: str) -> None:
        pass

    def _save_rng_state(self, output_dir: str) -> None:
        # The last of the three that a checkpoint calls. The scheduler's state is plain numbers; its
        # functions are created again.
        schedule = {
            key: value
            for key, value in self.lr_scheduler.state_dict().items()
            if key != "lr_lambdas"
        }
        (Path(output_dir) / PROGRESS).write_text(
            json.dumps(
                {
                    "schedule": schedule,
                    "random": random_state(),
                    "epoch began": self._epoch_began,
                    "trained": _shapes(self.model),
                }
            ),
            encoding="utf-8",
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(Path(checkpoint) / OPTIMIZER, self.optimizer)
            progress = _progress(checkpoint)
            self.lr_scheduler.load_state_dict(self.lr_scheduler.state_dict() | progress["schedule"])
            self._restored.append(progress["epoch began"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        pass

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(_progress(checkpoint)["random"])

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(
            missing_ok=True
        )  # a pickle that contains paths of this machine


def check(checkpoint: Path, model: torch.nn.Module) -> None:
    """Check that a checkpoint trained weights of the same names and shapes.

    Raises Qwen3labError if it did not.
    """
    there, here = _progress(checkpoint)["trained"], _shapes(model)
    if there != here:
        raise Qwen3labError(
            f"The checkpoint belongs to another run: it trained {len(there)} tensors, and this run"
            f" trains {len(here)} with other names or shapes. Resume with the same method and"
            " adapter, or start anew in another folder."
        )


def _shapes(model: torch.nn.Module) -> dict[str, str]:
    return {
        name: "x".join(map(str, parameter.shape))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _progress(checkpoint: str | Path) -> dict[str, Any]:
    return json.loads((Path(checkpoint) / PROGRESS).read_text(encoding="utf-8"))


def last_checkpoint(folder: str | Path) -> Path | None:
    """Find the newest complete checkpoint in a run's folder; None if there is none.

    One that a kill truncated is skipped.
    """
    found = {
        int(match[1]): path
        for path in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    whole = [
        step
        for step, path in found.items()
        if (path / PROGRESS).is_file() and (path / "trainer_state.json").is_file()
    ]
    return found[max(whole)] if whole else None
