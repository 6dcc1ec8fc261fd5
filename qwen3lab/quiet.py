"""Filters for library warnings and log messages that a learner cannot act on, and imports without
the garbage collector.

Each entry says what is hidden and why. A warning that somebody could act on does not belong here.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# (part of the message as a regular expression, why nobody needs it)
_WARNINGS = (
    (
        r".*`?pin_memory`? argument is set as true but no accelerator is found",
        "a data loader's default; pinning is simply left out",
    ),
    (
        r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\)",
        "the first step under gradient scaling; the schedule is right",
    ),
    (r".*is_gradient_checkpointing.* is deprecated", "PEFT asks by the old name"),
    (r".*`gradient_checkpointing` is deprecated", "TRL sets it by the old name"),
    (
        r".*The following (rank|alpha)_pattern keys did not match",
        "PEFT looks among the modules only; the experts' fused parameters do take the pattern",
    ),
    (r".*IProgress not found", "no progress widgets when notebooks run from the command line"),
)
_LOGGERS = (
    # "Failed to load CPU gemm_4bit_forward": an optional kernel; the built-in one serves
    "bitsandbytes",
    "hf-to-gguf",  # "Unknown RoPE type: default": transformers' name for positions without scaling
    "torchao",  # optional C++ kernels that were built for another torch
    "torch.utils._pytree",  # torchao registers two enums that torch no longer needs registered
)


def quiet() -> None:
    """Install the filters, where the package first touches a library; repeated calls are cheap."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for message, _ in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Progress bars of a few milliseconds (loading shards, mapping rows) would fill a notebook's
    # output; downloads keep theirs.
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    if "datasets" in sys.modules:
        import datasets

        datasets.disable_progress_bars()


@contextmanager
def importing() -> Iterator[None]:
    """Import libraries with the garbage collector off.

    Half a million lasting objects come in, and it would look through all of them again and again: 2
    of the 11 seconds that the imports of a training take. The first that can make a model are left
    out of all later searches too (0.4 s each, one after every training); were a model there
    already, it would be left out with them, and its memory might never be given back.
    """
    first, on = "transformers.modeling_utils" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if first and "transformers.modeling_utils" in sys.modules:
            gc.freeze()
        if on:
            gc.enable()
