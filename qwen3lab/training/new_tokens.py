"""Tokens that pre-training never showed a model, found by their embeddings, and those of them that
training rows use.

An adapter leaves the embeddings as they are. Where two words of the new data have embeddings that
were never trained, and so are nearly alike, no adapter on the layers can make the model write the
one and not the other.
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
    """Cosine of each token's embedding to the mean of tokens that a text model never reads; shape
    [vocabulary].

    Source: the reference tokens of Land & Bartolo 2024, "Fishing for Magikarp: Automatically
        Detecting Under-trained Tokens".
    Raises Qwen3labError for a tokenizer without Qwen3's vision tokens.
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
    """Ids of tokens that were never trained, in ascending order.

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
    """The change of `lora` for `training.fine_tune` that trains the embeddings of these rows' new
    tokens beside the adapter; {} where there are none.
    """
    ids = tokens(model, tokenizer, rows)
    return {"trainable_token_indices": ids} if ids else {}
