"""Load models by role, in 16 or 4 bits; generate in batches; measure routing and long context."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "four_bit": ["load_4bit", "share_4bit"],
        "loading": [
            "ROLES",
            "SMALL_MODEL",
            "cpus",
            "folder",
            "load",
            "load_embedding",
            "load_tokenizer",
            "more_threads",
            "resolve",
            "set_threads",
        ],
    },
)
