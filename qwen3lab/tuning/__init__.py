"""Tune a model on a file of one's own rows, audit what came out, and chat with it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checks": ["audit"],
        "conversation": ["Conversation", "SideBySide", "open_run", "talk"],
        "pipeline": ["Forms", "Settings", "tune"],
        "questions": ["examine"],
    },
)
