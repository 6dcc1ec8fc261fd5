"""Seconds, bytes and tokens a second: what a run cost, printed so that two runs of a notebook still
compare equal.
"""

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

# lines that start with it differ from run to run and from machine to machine; the comparison of
# outputs skips them
MARK = "time · "


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
    """The highest memory of a block in bytes: of the process on a CPU (libraries included), of
    torch's tensors on a GPU.
    """

    bytes: int = 0


@contextmanager
def peak(device: str = "cpu") -> Iterator[Peak]:
    """Measure the highest memory in use while a block runs.

    On Linux the kernel keeps the peak itself (`VmHWM`), once it could be reset; else a thread looks
    50 times a second.
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
    """Set the process's memory peak back to what it uses now (Linux, `proc(5)`); False where that
    is not possible.
    """
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

    A 4-bit weight of bitsandbytes counts with the scales of its blocks, a mixture of the two levels
    that double quantisation keeps.
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
    """Bytes that a training keeps all the time: frozen weights, trained weights, their gradients,
    the optimiser's state.

    Gradients are counted from the trained weights, for a trainer sets them free after each step.
    """
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    state = [
        value
        for entry in optimizer.state.values()
        for value in entry.values()
        if torch.is_tensor(value) and value.dim()
    ]
    return {
        "frozen weights": tensor_bytes(frozen),
        "trained weights": tensor_bytes(trained),
        "gradients": tensor_bytes(trained),
        "optimiser": tensor_bytes(state),
    }


def is_live() -> bool:
    """Whether a person sits before this kernel: a Jupyter server started it for a notebook that is
    open.

    `make notebooks` and nbconvert start kernels without a server. Editors that do not tell count as
    not live.
    """
    return bool(os.environ.get("JPY_SESSION_NAME"))


def folder_bytes(path: str | Path, pattern: str = "*") -> int:
    """Bytes of a file, or of the files of a folder that match `pattern` (`"*.safetensors"`: the
    weights).
    """
    path = Path(path)
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.glob(pattern) if file.is_file())
    )
