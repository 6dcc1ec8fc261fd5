"""Measure retrieval quality apart from the answers: relevant chunks, recall@k and MRR."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval.chunking import Chunk
from qwen3lab.retrieval.index import Hit


def relevant_chunks(
    chunks: Iterable[Chunk], answer: str, pages: Iterable[int], name: str = ""
) -> set[int]:
    """Collect the ids of the chunks that answer a question.

    They are on one of its pages and contain both the answer and the `name` of the thing.
    """
    squeeze = lambda text: re.sub(r"\s+", "", text).lower()
    wanted, pages = (squeeze(answer), squeeze(name)), list(pages)
    return {
        c.id
        for c in chunks
        if any(map(c.stands_on, pages)) and all(part in squeeze(c.text) for part in wanted)
    }


def first_ranks(found: Sequence[Sequence[Hit]], relevant: Sequence[set[int]]) -> list[int | None]:
    """Find the rank (from 1) of the first relevant chunk per question; None if there is no hit.

    Raises Qwen3labError if a question has no relevant chunk at all, since that would blame the
    search for the chunking.
    """
    if len(found) != len(relevant) or not found:
        raise Qwen3labError(
            f"{len(found)} results do not match {len(relevant)} questions. Give one list of hits a"
            " question."
        )
    if not all(relevant):
        raise Qwen3labError(
            f"{sum(not r for r in relevant)} questions have no relevant chunk. Leave them out, or"
            " check page and answer."
        )
    return [
        next((rank for rank, hit in enumerate(hits, start=1) if hit.chunk.id in right), None)
        for hits, right in zip(found, relevant)
    ]


def recall_at_k(found: Sequence[Sequence[Hit]], relevant: Sequence[set[int]], k: int) -> float:
    """Compute recall@k: the share of questions with a relevant chunk among the first `k`.

    Raises as `first_ranks`.
    """
    ranks = first_ranks(found, relevant)
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def mrr(found: Sequence[Sequence[Hit]], relevant: Sequence[set[int]]) -> float:
    """Compute the mean reciprocal rank (Voorhees 1999) of the first relevant chunk.

    A question counts 1 if it comes first, 1/2 if second, 0 if it is not found. Longer lists of hits
    can contain more: compare only searches that return equally many. Raises as `first_ranks`.
    """
    ranks = first_ranks(found, relevant)
    return sum(1 / rank for rank in ranks if rank) / len(ranks)


def search_marks(
    found: Sequence[Sequence[Hit]], relevant: Sequence[set[int]], ks: Sequence[int] = (1, 3)
) -> dict[str, float]:
    """Compute recall@k and MRR with their 95 % intervals, and n, the number of questions.

    The interval of a recall is Wilson's, that of the MRR a bootstrap over questions. Raises as
    `first_ranks`.
    """
    from qwen3lab.evaluation.statistics import bootstrap, wilson

    ranks = first_ranks(found, relevant)
    line: dict[str, float] = {"n": len(ranks)}
    for k in ks:
        hits = sum(rank is not None and rank <= k for rank in ranks)
        low, high = wilson(hits, len(ranks))
        line |= {f"recall@{k}": hits / len(ranks), f"recall@{k} low": low, f"recall@{k} high": high}
    reciprocal = [1 / rank if rank else 0.0 for rank in ranks]
    low, high = bootstrap(reciprocal)
    return line | {"MRR": sum(reciprocal) / len(ranks), "MRR low": low, "MRR high": high}
