"""Seconds, bytes and tokens a second: what a run cost, printed so that two runs of a notebook still compare equal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

MARK = "time · "  # lines that start with it differ from run to run and from machine to machine; the comparison of outputs skips them


def note(text: str) -> None:
    """Print a line that depends on the machine."""
    print(MARK + text)


@dataclass
class Clock:
    """The time since the start; after the block the time that it took."""

    started: float
    stopped: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of wall clock."""
        return (self.stopped or time.perf_counter()) - self.started


@contextmanager
def clock(label: str) -> Iterator[Clock]:
    """Time a block and print "time · label: 12.3 s" at its end, also when it fails."""
    measured = Clock(time.perf_counter())
    try:
        yield measured
    finally:
        measured.stopped = time.perf_counter()
        note(f"{label}: {measured.seconds:.1f} s")


@dataclass
class Peak:
    """The highest memory of a block in bytes: of the process on a CPU (libraries included), of torch's tensors on a GPU."""

    bytes: int = 0


@contextmanager
def peak(device: str = "cpu") -> Iterator[Peak]:
    """Measure the highest memory in use while a block runs.

    On Linux the kernel keeps the peak itself (`VmHWM`), once it could be reset; else a thread looks 50 times a second.
    """
    found = Peak()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        try:
            yield found
        finally:
            found.bytes = torch.cuda.max_memory_allocated(device)
        return
    if _reset_high_water():
        try:
            yield found
        finally:
            found.bytes = _high_water()
        return
    import psutil

    process, done = psutil.Process(), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found.bytes = max(found.bytes, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found.bytes = max(found.bytes, process.memory_info().rss)


def _reset_high_water() -> bool:
    """Set the process's memory peak back to what it uses now (Linux, `proc(5)`); False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water() > 0
    except (OSError, ValueError, StopIteration):
        return False


def _high_water() -> int:
    """The process's memory peak in bytes since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def tensor_bytes(tensors) -> int:
    """Bytes of the data of some tensors; a tensor that several names share is counted once.

    A 4-bit weight of bitsandbytes counts with the scales of its blocks, a mixture of the two levels that double
    quantisation keeps.
    """
    seen: dict[int, int] = {}

    def add(tensor) -> None:
        if tensor is not None:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()

    for tensor in tensors:
        add(tensor)
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            add(state.absmax)
            if state.nested:
                add(state.state2.absmax)
    return sum(seen.values())


def model_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's parameters; tied weights count once."""
    return tensor_bytes(model.parameters())


def training_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes that a training keeps all the time: frozen weights, trained weights, their gradients, the optimiser's state.

    Gradients are counted from the trained weights, for a trainer sets them free after each step.
    """
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    state = [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value) and value.dim()]
    return {"frozen weights": tensor_bytes(frozen), "trained weights": tensor_bytes(trained),
            "gradients": tensor_bytes(trained), "optimiser": tensor_bytes(state)}


def speed(every: int = 50) -> TrainerCallback:
    """A callback for any trainer of transformers that prints "time · step 50 of 200: 6,100 tokens/s" as it goes.

    The tokens are the trainer's own count (`num_tokens` in TRL, padding left out), so it needs logging steps.
    """
    from transformers import TrainerCallback

    class Speed(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.started, self.printed = time.perf_counter(), 0

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "num_tokens" in logs and state.global_step >= self.printed + every:
                self.printed = state.global_step
                rate = logs["num_tokens"] / (time.perf_counter() - self.started)
                note(f"step {state.global_step} of {state.max_steps}: {rate:,.0f} tokens/s")

    return Speed()


COSTS = ("tokens_per_second", "memory_bytes", "utilisation")


def cost() -> TrainerCallback:
    """A callback that adds what a run costs to every logged step, for `Run.history` and for TensorBoard.

    tokens_per_second: since the step logged before, padding not counted; memory_bytes: of torch's tensors on a GPU, the
    highest since the start, of the process on a CPU, now; utilisation: of the GPU, or of one CPU, in [0, 1] (a second
    busy CPU makes it 2).
    """
    import psutil
    from transformers import TrainerCallback

    class Cost(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.process, self.time, self.tokens = psutil.Process(), time.perf_counter(), None
            self.process.cpu_percent()  # starts its measuring

        def on_log(self, args, state, control, logs=None, model=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            now, tokens = time.perf_counter(), logs.get("num_tokens", 0.0)
            read, self.time = now - self.time, now
            added = {"memory_bytes": _memory_now(self.process, model), "utilisation": _utilisation(self.process, model)}
            if self.tokens is not None or not state.log_history[:-1]:  # after a resume the first difference is not this run's
                added["tokens_per_second"] = (tokens - (self.tokens or 0)) / read
            self.tokens = tokens
            logs.update(added)
            state.log_history[-1].update(added)

    return Cost()


def _memory_now(process, model) -> int:
    if model is not None and model.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(model.device)
    return process.memory_info().rss


def _utilisation(process, model) -> float:
    if model is not None and model.device.type == "cuda":
        import torch

        try:
            return torch.cuda.utilization(model.device) / 100
        except (ModuleNotFoundError, RuntimeError):  # needs NVIDIA's management library
            return float("nan")
    return process.cpu_percent() / 100


def live_chart(every: float = 2.0) -> TrainerCallback:
    """A callback that draws loss, learning rate and gradient norm while a run goes on; nothing without JupyterLab.

    `every`: seconds between two drawings, at least.
    """
    from transformers import TrainerCallback

    class Chart(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.handle, self.drawn = None, 0.0

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}) and is_live() and time.perf_counter() - self.drawn >= every:
                self.draw(state)

        def on_train_end(self, args, state, control, **kwargs):
            if is_live():
                self.draw(state)

        def draw(self, state) -> None:
            import pandas as pd
            from IPython.display import display

            from qwen3lab import plots

            figure = plots.training_curves(pd.DataFrame([entry for entry in state.log_history if "loss" in entry or "eval_loss" in entry]))
            if self.handle is None:
                self.handle = display(figure, display_id=True)
            else:
                self.handle.update(figure)
            self.drawn = time.perf_counter()

    return Chart()


def is_live() -> bool:
    """Whether a person sits before this kernel: a Jupyter server started it for a notebook that is open.

    `make notebooks` and nbconvert start kernels without a server. Editors that do not tell count as not live.
    """
    return bool(os.environ.get("JPY_SESSION_NAME"))
