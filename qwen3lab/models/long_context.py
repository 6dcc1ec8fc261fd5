"""Context extension by RoPE scaling (NTK, YaRN, sliding window), and perplexity by position.

YaRN: Peng et al. 2023 (arXiv 2309.00071), equations 17 to 22; transformers'
`_compute_yarn_parameters` is the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


KINDS = ("default", "dynamic", "yarn", "sliding window")


def yarn(
    head_dim: int, theta: float, factor: float, trained: int, *, fast: float = 32, slow: float = 1
) -> tuple[torch.Tensor, float]:
    """Compute YaRN's rotary frequencies `[head_dim / 2]` (radians per token) and attention factor.

    A pair of dimensions that turns more than `fast` times within the `trained` tokens keeps its
    frequency: it tells neighbours apart. One that turns less than `slow` times is slowed by
    `factor`, because its angle would leave the trained range. A linear ramp interpolates between
    the two. The attention factor 0.1 ln(factor) + 1 multiplies queries and keys and sharpens the
    scores again.
    """
    import torch

    plain = theta ** -(torch.arange(0, head_dim, 2).float() / head_dim)

    def place(turns: float) -> float:  # of the pair that turns so often within the trained length
        return head_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(place(fast)), 0), min(math.ceil(place(slow)), head_dim - 1)
    slowed = ((torch.arange(head_dim // 2).float() - low) / max(high - low, 1e-3)).clamp(0, 1)
    return plain / factor * slowed + plain * (1 - slowed), 0.1 * math.log(factor) + 1.0


def load(
    model_id: str,
    kind: str = "default",
    *,
    trained: int,
    factor: float = 1.0,
    dtype: str | None = None,
) -> PreTrainedModel:
    """Load a model in eval mode with another RoPE scaling or a sliding window.

    Args:
        kind: one of `KINDS`. "dynamic" is NTK scaling that follows the length of the text; with
            "sliding window" a token attends only to the last `trained` tokens.
        trained: context length that the model was trained on, in tokens.
        factor: how many times longer the text may become ("dynamic" and "yarn").
        dtype: torch name; default: the profile's.
    Raises:
        Qwen3labError: unknown kind, and as `models.load`.
    """
    from transformers import AutoConfig

    if kind not in KINDS:
        raise Qwen3labError(f"Unknown kind of positions {kind!r}. Use one of: {', '.join(KINDS)}.")
    config = AutoConfig.from_pretrained(loading.resolve(model_id))
    config.max_position_embeddings = trained
    if kind == "sliding window":  # `sliding_window` alone would be silently ignored
        config.use_sliding_window, config.sliding_window, config.max_window_layers = (
            True,
            trained,
            0,
        )
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    elif kind != "default":
        # Without theta transformers would take 10,000, whatever the model was trained with.
        config.rope_parameters = {
            "rope_type": kind,
            "factor": factor,
            "rope_theta": config.rope_parameters["rope_theta"],
        }
        if kind == "yarn":
            config.rope_parameters["original_max_position_embeddings"] = trained
    return loading.load(model_id, dtype, config=config)[0]


def rotations(
    tokenizer: PreTrainedTokenizerBase, count: int, length: int, step: int, seed: int = 0
) -> list[list[int]]:
    """Build rows of `length` ids in which the same text stretches occupy every position in turn.

    A text of `length` ids (pages of the little world, separated by the end-of-text token) is
    rotated by 0, `step`, 2 `step` ... ids. So each stretch of `step` positions is scored on the
    same tokens as any other, and only the position differs. `count` such texts give
    `count * length / step` rows. The texts come from the generator of the pre-training text with
    another seed: new texts about the same world. A smoke run takes one text.
    """
    from qwen3lab.world import corpus

    rng, rows = random.Random(f"long-{seed}"), []
    for _ in range(1 if profiles.smoke() else count):
        ids: list[int] = []
        while len(ids) < length:
            ids += [*tokenizer(corpus.plain_text(rng)).input_ids, tokenizer.pad_token_id]
        rows += [ids[start:length] + ids[:start] for start in range(0, length, step)]
    return rows


def losses(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Compute the loss in nats of every token but the first, `[rows, length - 1]`.

    All rows have the same length; each takes one forward pass.
    """
    import torch
    import torch.nn.functional as F

    found = []
    with torch.inference_mode(), loading.more_threads(model.device):
        for row in rows:
            ids = torch.tensor([list(row)], device=model.device)
            found.append(
                F.cross_entropy(
                    model(input_ids=ids, use_cache=False).logits[0, :-1].float(),
                    ids[0, 1:],
                    reduction="none",
                ).cpu()
            )
    return torch.stack(found).numpy()


def by_position(losses: np.ndarray, step: int, reference: np.ndarray | None = None) -> pd.DataFrame:
    """Compute perplexity per stretch of `step` positions from the `losses` of rotated rows.

    One line per stretch: end (position), perplexity, n (tokens). With `reference` (losses of the
    same rows read in another way) also ratio, low, high: perplexity relative to the reference's,
    with a 95 % interval by Student's t over the rows' differences in mean loss, which are paired
    because both readings score the same tokens.
    """
    import numpy as np
    import pandas as pd
    from scipy import stats

    lines = []
    for start in range(0, losses.shape[1], step):
        part = losses[:, start : start + step]
        line = {"end": start + step, "perplexity": np.exp(part.mean()), "n": part.size}
        if reference is not None:
            gaps = part.mean(axis=1) - reference[:, start : start + step].mean(axis=1)
            half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
            line |= dict(
                zip(
                    ("ratio", "low", "high"),
                    np.exp([gaps.mean(), gaps.mean() - half, gaps.mean() + half]),
                )
            )
        lines.append(line)
    return pd.DataFrame(lines).set_index("end")


def compare(
    model_id: str,
    rows: Sequence[Sequence[int]],
    ways: dict[str, dict[str, Any]],
    *,
    trained: int,
    dtype: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Compare `by_position` of several configurations (name -> arguments of `load`) with the first.

    A stretch is as long as the trained context.
    """
    found = {
        name: losses(load(model_id, trained=trained, dtype=dtype, **way), rows)
        for name, way in ways.items()
    }
    first = next(iter(found.values()))
    return {name: by_position(loss, trained, first) for name, loss in found.items()}
