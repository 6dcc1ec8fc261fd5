"""GPU memory of training and serving: planner, tracking of a run, published figures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "planner": [
            "EIGHT_BIT_MOMENTS",
            "LABELS",
            "METHODS",
            "NF4_BYTES",
            "OPTIMISERS",
            "Plan",
            "SHARDS",
            "four_bit_bytes",
            "machine_bytes",
            "plan",
        ]
    },
)
