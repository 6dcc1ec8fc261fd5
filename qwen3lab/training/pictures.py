"""Fine-tune a Qwen3-VL on pictures with PEFT and the Trainer, the vision encoder frozen or not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import paths, profiles
from qwen3lab.models import vision
from qwen3lab.world import pictures

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

RECIPE = {"rows": 480, "batch_size": 16, "learning_rate": 2e-3, "rank": 16}
# All linear layers of the decoder; and those of the encoder's blocks and of its mergers.
DECODER = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
ENCODER = r".*visual\.(blocks\.\d+\.(attn|mlp)|(deepstack_)?merger.*)\.(qkv|proj|linear_fc[12])"


def company_rows(many: int = RECIPE["rows"], seed: int | str = 0) -> list[tuple[Any, str, str]]:
    """Draw training rows of the company's tags: (picture, question, answer)."""
    rng, rows = random.Random(f"company-{seed}"), []
    for number in range(many):
        picture = pictures.draw(f"company-{seed}-{number}", "train", "company")
        question = rng.choice(picture.questions)
        rows.append((picture.image, question.text, question.answer))
    return rows


def lora_config(encoder: bool, rank: int = RECIPE["rank"]) -> LoraConfig:
    """Configure LoRA on the decoder, and with `encoder` on the vision encoder and mergers too."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=f"({DECODER})|({ENCODER})" if encoder else DECODER,
        task_type="CAUSAL_LM",
    )


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    processor: BaseImageProcessor,
    rows: Sequence[tuple[Any, str, str]] | None = None,
    *,
    encoder: bool = False,
    steps: int = 60,
    seed: int = 0,
    learning_rate: float = RECIPE["learning_rate"],
) -> tuple[PeftModel, list[float]]:
    """Train LoRA on rows of (picture, question, answer), those of the company by default.

    Returns:
        The model with its adapter, and the loss of every step.
    """
    import torch
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    torch.manual_seed(seed)
    steps = profiles.smoke_steps(steps)
    adapted = get_peft_model(model, lora_config(encoder))
    trainer = Trainer(
        adapted,
        TrainingArguments(
            output_dir=str(paths.BUILD / "pictures"),
            max_steps=steps,
            per_device_train_batch_size=RECIPE["batch_size"],
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=model.device.type == "cpu",
            seed=seed,
        ),
        train_dataset=list(rows or company_rows(seed=seed)),
        data_collator=lambda few: vision.training_batch(tokenizer, processor, few),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return adapted, list(_losses(trainer))


def _losses(trainer: Any) -> Iterator[float]:
    return (line["loss"] for line in trainer.state.log_history if "loss" in line)
