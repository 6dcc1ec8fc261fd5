"""Measurement of time, peak memory and tensor sizes, in output lines that comparisons can skip."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Lines that start with it differ between runs and machines; the comparison of notebook outputs
# skips them.
MARK = "time · "


def note(text: str) -> None:
    """Print a line that depends on the machine."""
    print(MARK + text)


@dataclass
class Clock:
    """Stopwatch: the time since the start, and after the block its duration."""

    started: float
    stopped: float | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds."""
        return (self.stopped or time.perf_counter()) - self.started


@contextmanager
def clock(label: str) -> Iterator[Clock]:
    """Time a block and print "time · label: 12.3 s" at its end, even if it fails."""
    measured = Clock(time.perf_counter())
    try:
        yield measured
    finally:
        measured.stopped = time.perf_counter()
        note(f"{label}: {measured.seconds:.1f} s")


@dataclass
class Peak:
    """Peak memory of a block in bytes.

    On a CPU it is the process's (libraries included), on a GPU that of torch's tensors (on Apple's
    with the memory that torch keeps for the next ones, sampled).
    """

    bytes: int = 0


@contextmanager
def peak(device: str = "cpu") -> Iterator[Peak]:
    """Measure the peak memory while a block runs.

    CUDA and on Linux the kernel (`VmHWM`), if it can be reset, track the peak themselves; otherwise
    a thread samples 50 times per second.
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
    if device.startswith("mps"):
        import torch

        yield from _sampled(found, torch.mps.driver_allocated_memory)
        return
    if _reset_high_water():
        try:
            yield found
        finally:
            found.bytes = high_water()
        return
    import psutil

    process = psutil.Process()
    yield from _sampled(found, lambda: process.memory_info().rss)


def _sampled(found: Peak, now: Callable[[], int]) -> Iterator[Peak]:
    """Yield `found` while a thread writes the highest of `now()`, in bytes, into it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found.bytes = max(found.bytes, now())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found.bytes = max(found.bytes, now())


def _reset_high_water() -> bool:
    """Reset the process's memory peak to its current use (Linux, `proc(5)`); False if it fails."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return high_water() > 0
    except (OSError, ValueError, StopIteration):
        return False


def high_water(pid: int | str = "self") -> int:
    """Read a process's peak resident memory in bytes, since the last reset (Linux).

    Raises OSError where there is no such file, StopIteration for a process that has ended.
    """
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def tensor_bytes(tensors) -> int:
    """Sum the bytes of some tensors' data; a tensor shared by several names counts once.

    A 4-bit weight of bitsandbytes includes its block scales, with double quantisation the scales of
    both levels.
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
    """Compute the bytes of a model's parameters; tied weights count once."""
    return tensor_bytes(model.parameters())


def training_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Compute the permanent memory of a training: frozen and trained weights, gradients, optimiser.

    All in bytes. Gradients are counted from the trained weights, because a trainer frees them after
    each step.
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
    """Tell whether a Jupyter server runs this kernel for an open notebook.

    `make notebooks` and nbconvert start kernels without a server. Editors that do not tell count as
    not live.
    """
    return bool(os.environ.get("JPY_SESSION_NAME"))


def folder_bytes(path: str | Path, pattern: str = "*") -> int:
    """Sum the bytes of a file, or of a folder's files that match `pattern`.

    For example `"*.safetensors"` for the weights.
    """
    path = Path(path)
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.glob(pattern) if file.is_file())
    )
