"""Find under-trained tokens by their embeddings, and those of them that training rows use.

An adapter does not change the embeddings. If two words of the new data have embeddings that were
never trained, and are therefore almost identical, no adapter on the layers can make the model
generate one and not the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


UNUSED = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|object_ref_start|>",
    "<|box_start|>",
    "<|quad_start|>",
)
ALIKE = 0.9  # cosine to the mean embedding of UNUSED


def likeness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Compute each token's cosine to the mean embedding of unused tokens; [vocabulary].

    The unused tokens are those that a text model never reads. Source: the reference tokens of Land
    & Bartolo 2024, "Fishing for Magikarp: Automatically Detecting Under-trained Tokens". Raises
    Qwen3labError for a tokenizer without Qwen3's vision tokens.
    """
    import torch

    known = tokenizer.get_vocab()
    places = [known[token] for token in UNUSED if token in known]
    if not places:
        raise Qwen3labError(
            "This tokenizer has none of Qwen3's vision tokens to compare with. Use a Qwen3"
            " tokenizer."
        )
    table = torch.nn.functional.normalize(
        model.get_input_embeddings().weight.detach().float(), dim=-1
    )
    return table @ torch.nn.functional.normalize(table[places].mean(0), dim=-1)


def tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Sequence[int]]] | None = None,
) -> list[int]:
    """Find the ids of tokens that were never trained, in ascending order.

    Args:
        rows: encoded rows (input_ids): only tokens that occur in them. Default: the whole
            vocabulary.
    """
    found = set((likeness(model, tokenizer) > ALIKE).nonzero().flatten().tolist())
    if rows is not None:
        found &= {token for row in rows for token in row["input_ids"]}
    return sorted(found)


def adapter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Sequence[int]]],
) -> dict[str, Any]:
    """Build the `lora` option of `training.fine_tune` that also trains new tokens' embeddings.

    The tokens are those of the rows that were never trained; {} if there are none.
    """
    ids = tokens(model, tokenizer, rows)
    return {"trainable_token_indices": ids} if ids else {}
