"""Memory tracking by tensor storages: activations saved by autograd, and peak live bytes.

Both count storages, not tensors, so that a view costs nothing, and both work on a CPU, where no
allocator keeps such a count.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class Saved:
    """Storages saved by autograd, by address: [bytes, number of operations that hold it]."""

    storages: dict[int, list[int]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The sum over all storages, each once."""
        return sum(size for size, _ in self.storages.values())


@contextmanager
def saved_for_backward(model: torch.nn.Module) -> Iterator[Saved]:
    """Count the bytes that the forward pass in this block saves for the backward pass.

    The model's own parameters and buffers are left out. Keep the loss alive until you have read the
    result: without it autograd frees everything. Layers under activation checkpointing show only
    their inputs, as they keep nothing else.
    """
    import torch

    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    found = Saved()

    class Packed:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    def forget(key: int) -> None:
        found.storages[key][1] -= 1
        if not found.storages[key][1]:
            del found.storages[key]

    def pack(tensor: torch.Tensor) -> Packed:
        packed, storage = Packed(tensor), tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found.storages.setdefault(storage.data_ptr(), [storage.nbytes(), 0])[1] += 1
            weakref.finalize(packed, forget, storage.data_ptr())
        return packed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        yield found


@dataclass
class Live:
    """Bytes of the storages that operations in the block made: live now, and at the peak."""

    now: int = 0
    peak: int = 0


@contextmanager
def live_bytes() -> Iterator[Live]:
    """Track every storage that an operation in this block allocates, until it is freed.

    This is what a GPU's allocator counts. Storages from before the block do not count, nor does
    scratch space inside a kernel.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    count = Live()
    known: set[int] = set()  # ids of storages; an id is free again when its storage is gone

    def forget(key: int, size: int) -> None:
        known.discard(key)
        count.now -= size

    def tensors(values):
        for value in values:
            if isinstance(value, torch.Tensor):
                yield value
            elif isinstance(value, (tuple, list)):
                yield from tensors(value)

    class Follow(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            given = {
                tensor.untyped_storage()._cdata
                for tensor in tensors((*args, *(kwargs or {}).values()))
            }
            result = func(*args, **kwargs or {})
            for tensor in tensors((result,)):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in given and key not in known:
                    known.add(key)
                    count.now += size
                    count.peak = max(count.peak, count.now)
                    weakref.finalize(storage, forget, key, size)
            return result

    with Follow():
        yield count
