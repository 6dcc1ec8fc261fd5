"""DPO from scratch: log probabilities of answers, implicit rewards, and the loss of a pair.

Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward
Model"; results equal those of `trl.DPOTrainer`.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def answer_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Add up ln p of each row's answer tokens.

    Args:
        logits: [rows, length, vocabulary].
        labels: [rows, length]: the token's id where it belongs to the answer, -100 elsewhere.
    Returns:
        [rows]: ln of the probability of the whole answer.
    """
    given, wanted = logits[:, :-1], labels[:, 1:]  # position t predicts token t + 1
    answered = wanted >= 0
    chosen = given.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return (chosen * answered).sum(-1)


def implicit_reward(
    log_probs: torch.Tensor, reference: torch.Tensor, beta: float = 0.1
) -> torch.Tensor:
    """Compute beta * ln(p / p_reference): the reward that the model itself stands for.

    Args:
        log_probs, reference: of the same answers under the trained model and under the frozen one.
    """
    return beta * (log_probs - reference)


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float = 0.1,
) -> torch.Tensor:
    """Compute the DPO loss: -ln sigmoid of the difference of the implicit rewards, mean over pairs.

    Args:
        chosen, rejected: ln p of the preferred and of the other answer of each pair, [pairs].
        reference_chosen, reference_rejected: the same under the frozen reference.
        beta: how strongly leaving the reference counts.
    """
    better = implicit_reward(chosen, reference_chosen, beta)
    worse = implicit_reward(rejected, reference_rejected, beta)
    return -logsigmoid(better - worse).mean()
