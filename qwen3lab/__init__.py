"""qwen3lab: the package behind a course on fine-tuning Qwen3.

`import qwen3lab` is cheap: the submodules, and torch with them, are loaded when they are first
used.
"""

from __future__ import annotations

import os
import pkgutil
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from qwen3lab.profiles import Profile

__version__ = "0.1.0"

# Set before any library is imported, because they read these once. A learner's own setting wins.
os.environ.setdefault(
    "TOKENIZERS_PARALLELISM", "false"
)  # forks of a data loader would print a warning each
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=[module.name for module in pkgutil.iter_modules(__path__)]
)


def profile() -> Profile:
    """Return the profile in force (`QWEN3LAB_PROFILE`, else `tiny`) after a check that it fits this
    machine.

    Every notebook calls it first, so it also hides what libraries say and nobody can act on.
    Raises Qwen3labError for an unknown profile and for one that needs more memory than there is.
    """
    from qwen3lab import profiles
    from qwen3lab.quiet import quiet

    quiet()  # before a notebook's own imports
    return profiles.check_fits(profiles.get())


def use(name: str) -> Profile:
    """Turn the dial: make `name` the profile of this process and of those that it starts, and
    return it.

    Raises Qwen3labError for an unknown profile and for one that needs more memory than there is.
    """
    from qwen3lab import profiles

    chosen = profiles.check_fits(profiles.get(name))
    os.environ["QWEN3LAB_PROFILE"] = chosen.name
    return chosen
