"""Embed texts with a sentence-transformers model, without control tokens from untrusted text.

What a document or a user writes never becomes a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qwen3lab.chat import plain_ids
from qwen3lab.data.pdf_marks import whole
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def rows(
    embedder: SentenceTransformer, texts: Sequence[str], role: str = "document"
) -> list[list[int]]:
    """Tokenize texts for the embedding model: role instruction, text, and the closing token.

    `embedder.encode` gives the same ids, except that it turns spelled-out control tokens in a text
    into real ones.
    """
    tokenizer, prompt = embedder.tokenizer, embedder.prompts.get(role) or ""
    end = tokenizer("").input_ids
    most = (embedder.max_seq_length or tokenizer.model_max_length) - len(end)
    return [plain_ids(tokenizer, prompt + whole(text))[:most] + end for text in texts]


def embed(
    embedder: SentenceTransformer,
    texts: Sequence[str],
    role: str = "document",
    dimension: int | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Compute float32 embeddings `[N, dimension]` of length 1.

    Args:
        role: "document", or "query", which prepends the query instruction.
        dimension: keep only the first components (Matryoshka, Kusupati et al. 2022). A truncated
            vector is normalised again, which `truncate_dim` of sentence-transformers alone does not
            do.
    Raises Qwen3labError for a dimension that the model does not have, and where the model's numbers
    are not finite.
    """
    import torch

    whole = embedder.get_embedding_dimension()
    dimension = whole if dimension is None else dimension
    if not 1 <= dimension <= whole:
        raise Qwen3labError(
            f"Vectors of {whole} numbers cannot be cut to {dimension}. Choose a dimension from 1 to"
            f" {whole}."
        )
    ids = rows(embedder, texts, role)
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # batches by length
    out = np.empty((len(ids), dimension), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        features = embedder.tokenizer.pad(
            {"input_ids": [ids[i] for i in batch]}, return_tensors="pt"
        ).to(embedder.device)
        with torch.inference_mode():
            vectors = embedder(dict(features))["sentence_embedding"][:, :dimension].float()
        out[batch] = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
    return finite(
        out,
        "The embedding model's numbers are not finite for {} of {} texts. Load it in float32, or"
        " another copy of it.",
    )


def finite(vectors: np.ndarray, message: str) -> np.ndarray:
    """Return the vectors `[N, D]` as they are; raise Qwen3labError where one is not finite.

    NaN is nearest to nothing, and infinity to everything: a search with either returns nonsense.
    The length counts, so that its square may not be too large for float32 either.

    Args:
        message: what to say, with {} for the number of such vectors and {} for N.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.square(vectors, dtype=np.float32).sum(axis=1)
    wrong = int((~np.isfinite(lengths)).sum())
    if wrong:
        raise Qwen3labError(message.format(wrong, len(vectors)))
    return vectors
