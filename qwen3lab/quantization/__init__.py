"""Merge adapters and quantise models: GPTQ, GGUF, and the variants that notebook 07 compares."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "gguf": ["GGUF_TYPES", "to_gguf"],
        "gptq_checkpoints": ["gptq"],
        "merging": ["Merged", "merge"],
        "packed": ["load_gptq"],
    },
)
