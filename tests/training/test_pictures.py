"""LoRA on pictures: which weights move, and that training rows are none of the exam's."""

from __future__ import annotations

import re

import pytest
import torch

from qwen3lab.models import vision
from qwen3lab.training import pictures as tuning
from qwen3lab.world import pictures


@pytest.mark.parametrize("encoder", [False, True])
def test_adapters_stand_where_they_are_asked_for(encoder):
    model, tokenizer, processor = vision.load()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    adapted, losses = tuning.fine_tune(
        model, tokenizer, processor, tuning.company_rows(16), encoder=encoder, steps=2
    )
    assert len(losses) == 2 and losses[1] == losses[1]
    covered = {
        re.sub(r"base_model\.model\.(.*)\.lora_A\.default", r"\1", name)
        for name, module in adapted.named_modules()
        if name.endswith("lora_A.default")
    }
    wanted = {name for name in linear if name != "lm_head" and (encoder or "visual" not in name)}
    assert covered == wanted
    for name, value in adapted.state_dict().items():  # the weights themselves stay as they were
        own = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(value, kept[own]), name


def test_training_and_exam_share_no_price_font_or_position():
    exam = {what for picture, _ in pictures.exam("company", 150) for what in picture.shows}
    train = {
        what
        for number in range(300)
        for what in pictures.draw(f"company-0-{number}", "train", "company").shows
    }
    assert len(exam) > 100 and not exam & train
