"""Serve a model: llama.cpp, vLLM, a chat server in front, and the ladder of variants."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "llama_cpp": ["Completion", "LONGEST", "LlamaServer", "SMALL_FILE", "check", "opener"]
    },
)
