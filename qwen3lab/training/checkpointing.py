"""Save and resume a trainer without pickle: checkpoints of safetensors and JSON alone.

`transformers.Trainer` writes the optimiser, the schedule and the random numbers with `torch.save`.
`SafeCheckpoints` keeps the same content in formats that can hold nothing but numbers and text. It
uses the trainer's public callbacks alone, so it works for every trainer of transformers and TRL.
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
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from qwen3lab.errors import Qwen3labError

OPTIMIZER, PROGRESS = "optimizer.safetensors", "progress.json"
PICKLES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin")


def save_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Save an optimiser's state, however it is nested, as safetensors.

    Tensors are named by their place, like "state.3.exp_avg" (parameter 3), and one that stands in
    several places (a quantisation map) is stored once. The rest is JSON in the file's metadata.

    Raises:
        Qwen3labError: the state holds something else than tensors, numbers and texts.
    """
    tensors: dict[str, torch.Tensor] = {}
    places: dict[Any, str] = {}

    def pack(value: Any, place: str) -> Any:
        if torch.is_tensor(value) and type(value) in (torch.Tensor, torch.nn.Parameter):
            same = (value.data_ptr() or id(value), value.dtype, value.shape, value.stride())
            if same not in places:
                places[same] = place
                tensors[place] = value.detach().contiguous().cpu()
            return {"tensor": places[same]}
        if isinstance(value, dict) and all(isinstance(key, (str, int)) for key in value):
            return {"dict": [[key, pack(entry, f"{place}.{key}")] for key, entry in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [pack(entry, f"{place}.{at}") for at, entry in enumerate(value)]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise Qwen3labError(
            f"The optimiser {type(optimizer).__name__} has a {type(value).__name__} in its state"
            f" ({place}), which only a pickle could hold. Train without checkpoints, or take"
            " another optimiser."
        )

    if torch.cuda.is_available():
        torch.cuda.synchronize()  # paged states lie in memory that both sides write
    whole = optimizer.state_dict()
    packed = {key: pack(whole[key], key) for key in ("state", "param_groups")}
    save_file(tensors, path, metadata={"optimizer": json.dumps(packed), "kind": _kind(optimizer)})


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load what `save_optimizer` wrote into an optimiser over the same parameters.

    Raises:
        Qwen3labError: the file is of another optimiser, or of an earlier version of the course.
    """
    with safe_open(path, "pt") as file:
        told = file.metadata() or {}
        packed = told.get("optimizer")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if packed is None:
        raise Qwen3labError(
            f"The checkpoint {path.parent.name!r} was written by an earlier version of the course."
            " Start anew in another folder."
        )
    if told["kind"] != _kind(optimizer):
        raise Qwen3labError(
            f"The checkpoint {path.parent.name!r} was trained with {told['kind']}, and this run has"
            f" {_kind(optimizer)}. Resume with the same optim, or start anew in another folder."
        )

    def unpack(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "tensor":
            return tensors[inner]
        if kind == "dict":
            return {key: unpack(entry) for key, entry in inner}
        return (tuple if kind == "tuple" else list)(map(unpack, inner))

    optimizer.load_state_dict({key: unpack(value) for key, value in json.loads(packed).items()})


def _kind(optimizer: Any) -> str:
    """Name an optimiser's class and library; the trainer wraps it."""
    kind = type(getattr(optimizer, "optimizer", optimizer))
    return f"{kind.__module__.split('.')[0]}'s {kind.__name__}"


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
        "mps": torch.mps.get_rng_state().tolist() if torch.backends.mps.is_available() else [],
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
    # Missing in checkpoints of earlier versions.
    if state.get("mps") and torch.backends.mps.is_available():
        torch.mps.set_rng_state(torch.tensor(state["mps"], dtype=torch.uint8))


class SafeCheckpoints(TrainerCallback):
    """Callback that makes a trainer's checkpoints (one process) hold safetensors and JSON alone.

    Rows grouped by length get their order from torch's random numbers when an epoch begins. The
    library restores those of the checkpoint only, so that the rest of a resumed epoch would have
    other rows; here those of the epoch's begin come back first, and the checkpoint's at the first
    step.

    Args:
        resumed: the checkpoint that `Trainer.train(resume_from_checkpoint=...)` goes on from. The
            trainer loads its weights; what it misses there is loaded here.
    """

    def __init__(self, resumed: Path | None = None):
        self.progress = read_progress(resumed) if resumed else None
        self.resumed, self.epoch_began = resumed, None

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        if self.progress:
            load_optimizer(self.resumed / OPTIMIZER, optimizer)
            lr_scheduler.load_state_dict(lr_scheduler.state_dict() | self.progress["schedule"])
            scaler = getattr(optimizer, "scaler", None)
            if scaler is not None and self.progress.get("loss scale"):
                scaler.load_state_dict(self.progress["loss scale"])

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.progress and self.progress["epoch"] % 1:  # stopped within an epoch
            set_random_state(self.progress["epoch began"])
        elif self.progress:
            set_random_state(self.progress["random"])
            self.progress = None
        self.epoch_began = random_state()

    def on_step_begin(self, args, state, control, **kwargs):
        if self.progress:
            set_random_state(self.progress["random"])
            self.progress = None

    def on_save(
        self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **kwargs
    ):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        remove_pickles(folder)
        if args.save_only_model:
            return
        save_optimizer(folder / OPTIMIZER, optimizer)
        # The schedule's state is numbers; its functions are made anew.
        schedule = {k: v for k, v in lr_scheduler.state_dict().items() if k != "lr_lambdas"}
        progress = {
            "schedule": schedule,
            "epoch": state.epoch,
            "epoch began": self.epoch_began,
            "random": random_state(),
            "trained": trained_shapes(model),
        }
        scaler = getattr(optimizer, "scaler", None)  # of float16: numbers alone
        if scaler is not None:
            progress["loss scale"] = scaler.state_dict()
        # Last, and at once: a checkpoint that has it is whole.
        draft = folder / f"{PROGRESS}.new"
        draft.write_text(json.dumps(progress), encoding="utf-8")
        draft.replace(folder / PROGRESS)


def remove_pickles(folder: Path) -> None:
    """Delete the pickles that a trainer leaves in a folder: they hold machine paths, and a pickle
    can run any code when it is loaded.
    """
    for name in PICKLES:
        (folder / name).unlink(missing_ok=True)


def check(checkpoint: Path, model: torch.nn.Module) -> None:
    """Check that a checkpoint trained weights of the same names and shapes.

    Raises Qwen3labError if it did not.
    """
    there, here = read_progress(checkpoint)["trained"], trained_shapes(model)
    if there != here:
        raise Qwen3labError(
            f"The checkpoint belongs to another run: it trained {len(there)} tensors, and this run"
            f" trains {len(here)} with other names or shapes. Resume with the same method and"
            " adapter, or start anew in another folder."
        )


def trained_shapes(model: torch.nn.Module) -> dict[str, str]:
    """Return the shape of every trained parameter by its name, as "2x3"."""
    return {
        name: "x".join(map(str, parameter.shape))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def read_progress(checkpoint: str | Path) -> dict[str, Any]:
    """Read what `SafeCheckpoints` wrote beside the weights: schedule, epoch, random states."""
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


def ended(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written at a run's last step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"] >= state["max_steps"]


def restore(trainer: Any, checkpoint: Path) -> None:
    """Load the weights, optimiser and log of a run's last step, without training.

    Where the trainer gives back the best weights, those of the best checkpoint are loaded.
    """
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    load_optimizer(checkpoint / OPTIMIZER, trainer.create_optimizer())
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
        checkpoint = checkpoint.parent / Path(trainer.state.best_model_checkpoint).name
    if hasattr(trainer.model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(trainer.model, load_peft_weights(str(checkpoint), device="cpu"))
    else:
        for file in sorted(checkpoint.glob("model*.safetensors")):
            # A tied head has no entry of its own.
            trainer.model.load_state_dict(load_file(file), strict=False)
