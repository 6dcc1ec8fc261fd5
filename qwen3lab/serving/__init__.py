"""Serve a model with llama.cpp or vLLM behind a chat server, and compare its quantised variants."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "llama_cpp": ["Completion", "LONGEST", "LlamaServer", "SMALL_FILE", "check", "opener"]
    },
)
