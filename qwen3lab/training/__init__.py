"""Fine-tune with TRL: LoRA, QLoRA or all weights, callbacks, checkpoints, export, distillation.

Includes the training runs that the notebooks compare.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "company": ["company_adapter", "company_recipe"],
        "lora": ["ATTENTION", "add_lora", "load_adapter", "lora_config", "lora_settings"],
        "sft": [
            "METHODS",
            "RATES",
            "Run",
            "SMALL_RATES",
            "dataset",
            "default_rate",
            "encode",
            "fine_tune",
            "load",
        ],
    },
)
