"""GRPO from scratch: advantages within a group of answers, and the clipped policy-gradient loss.

Shao et al. 2024, "DeepSeekMath"; results equal those of `trl.GRPOTrainer`.
"""

from __future__ import annotations

import torch

from qwen3lab.errors import Qwen3labError


def group_advantages(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """Compare each answer's reward with those of its group: (reward - mean) / standard deviation.

    Args:
        rewards: [prompts * size], the answers to one prompt side by side.
        size: answers per prompt, at least 2.
    Returns:
        [prompts * size]; 0 for a group whose rewards are all equal.
    Raises:
        Qwen3labError: groups of fewer than two, or rewards that do not fill them.
    """
    if size < 2 or len(rewards) % size:
        raise Qwen3labError(
            f"{len(rewards)} rewards do not make groups of {size}. Give as many answers to every"
            " prompt, at least two."
        )
    groups = rewards.view(-1, size)
    spread = groups.std(dim=1, keepdim=True)  # of a sample: divided by size - 1, as in TRL
    return ((groups - groups.mean(dim=1, keepdim=True)) / (spread + 1e-4)).view(-1)


def policy_loss(
    log_probs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip: float = 0.2,
) -> torch.Tensor:
    """Compute the clipped policy-gradient loss, the mean over all tokens of all answers.

    The ratio of new to old probability multiplies the advantage. Once the ratio has moved by more
    than `clip` in the wanted direction, a token has no gradient any more.

    Args:
        log_probs: of the sampled tokens under the model, [answers, length].
        old: the same under the model that sampled them, without gradient.
        advantages: [answers].
        mask: 1 for the tokens of an answer, its end included, 0 behind it; [answers, length].
    Source: TRL's `loss_type="dapo"`, its default, for a batch that is one step.
    """
    ratio = (log_probs - old).exp()
    gain = advantages[:, None]
    kept = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    return -(kept * mask).sum() / mask.sum()
