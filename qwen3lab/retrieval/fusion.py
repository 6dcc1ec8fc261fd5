"""Combine several rankings into one by reciprocal rank fusion (RRF)."""

from __future__ import annotations

from collections.abc import Sequence

from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval.index import Hit


def fuse(*searches: Sequence[Sequence[Hit]], k: int = 3, constant: float = 60) -> list[list[Hit]]:
    """Merge the hits of several searches by reciprocal rank fusion (RRF).

    A chunk's score is the sum of 1 / (constant + rank) over the searches. Only ranks count, so a
    cosine and a BM25 score need no common scale. Ties go to the chunk that was seen first, in the
    order of the searches.

    Args:
        searches: for each method, the hits of every question, best first; give more than `k` of
            them, since a chunk in the middle of two rankings can end up at the top.
        constant: the larger, the less the first ranks stand out; 60 as in Cormack, Clarke &
            Büttcher 2009.
    Raises Qwen3labError unless every search has the same number of questions.
    """
    if len({len(found) for found in searches}) != 1:
        raise Qwen3labError(
            f"Searches of {[len(found) for found in searches]} questions cannot be joined. Ask"
            " every search the same questions."
        )
    fused = []
    for lists in zip(*searches):
        scores: dict[int, float] = {}
        chunks = {}
        for hits in lists:
            for rank, hit in enumerate(hits, start=1):
                chunks.setdefault(hit.chunk.id, hit.chunk)
                scores[hit.chunk.id] = scores.get(hit.chunk.id, 0.0) + 1 / (constant + rank)
        best = sorted(scores, key=lambda number: -scores[number])[:k]
        fused.append([Hit(chunks[number], scores[number]) for number in best])
    return fused
