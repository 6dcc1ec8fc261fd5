"""What TRL 1.16 does not let one set: four changes to its SFTTrainer, each with its reason.

A test (tests/training/test_trl_patches.py) fails when a name that is used here goes, and another
asserts that the loss does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def head_on_trained_positions() -> Iterator[None]:
    """Compute the output head only where a label is trained, as TRL itself does under CUDA.

    Elsewhere TRL scores every position and masks afterwards (`trl/trainer/utils.py`, `compact`),
    for the sake of devices that compile for fixed shapes. A CPU, an Apple GPU and CUDA without
    Triton (on Windows) do not, and with one trained token in ten the head, whose loss is the same,
    costs a tenth. The choice is private: the public way, an own `compute_loss`, would have to
    repeat TRL's loss, metrics and balancing loss.
    """
    import trl.trainer.utils as utils

    original = utils._use_triton
    # Read there for this one choice; the kernels look at their own copy.
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = original


@contextmanager
def head_in_one_pass(score: Callable) -> Iterator[None]:
    """Compute a frozen head's gradient together with its loss (`one_pass_head`).

    TRL refuses Liger's loss, which would do it, and its own kernel has no such setting. A head that
    is trained, has a bias or scales its logits stays with TRL. `score`: `one_pass_head.scores`,
    compiled or not.
    """
    import trl.trainer.utils as utils

    from qwen3lab.training.one_pass_head import OnePassHead

    original = utils._ChunkedLogProbFunction

    class Head:
        @staticmethod
        def apply(hidden, weight, bias, targets, temperature, columns, cap, scale, outputs):
            plain = bias is None and temperature == 1 and cap is None and scale == 1
            if weight.requires_grad or not plain:
                return original.apply(
                    hidden, weight, bias, targets, temperature, columns, cap, scale, outputs
                )
            chosen, entropy, top = OnePassHead.apply(hidden, weight, targets, score)
            found = {"entropy": entropy, "is_top1": top}
            others = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
            return (chosen, *(found.get(name) for name in others))

    utils._ChunkedLogProbFunction = Head
    try:
        yield
    finally:
        utils._ChunkedLogProbFunction = original


def give_head_a_bias(model: torch.nn.Module) -> None:
    """Set `bias` to None on an output head that has none at all.

    PEFT's wrapper around a head with trained tokens lacks the attribute, and TRL's loss reads it.
    """
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None


def train_in_float32(model: torch.nn.Module) -> None:
    """Cast the trained weights of a model with an adapter to float32.

    On a 4-bit model TRL casts adapters to bfloat16, as the QLoRA paper does, and there is no
    setting for it. A CPU and an older GPU only emulate that format, and loss scaling refuses it
    ("not implemented for 'BFloat16'"), as it refuses a float16 head that is trained too.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
