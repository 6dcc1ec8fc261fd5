"""Compare approximate nearest-neighbour indexes (HNSW, IVF) in faiss with exact search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval.embedding import finite
from qwen3lab.retrieval.index import NOT_FINITE

if TYPE_CHECKING:
    import faiss

LINKS, BUILD_WIDTH = (
    32,
    100,
)  # HNSW: M, links per vector on each layer; efConstruction, candidates kept while building
KINDS = ("flat", "hnsw", "ivf")


def build(
    kind: str, vectors: np.ndarray, *, cells: int | None = None, seed: int = 0
) -> faiss.Index:
    """Build a faiss index over vectors `[N, D]` of length 1, for the inner product.

    Args:
        kind: "flat" compares with every vector; "hnsw" walks a graph of near neighbours (Malkov &
            Yashunin 2018); "ivf" searches only the cells with the nearest centres (k-means, Sivic &
            Zisserman 2003).
        cells: number of IVF cells; default: 4 times the square root of N, but at least 39 vectors
            per cell, which faiss asks for.
        seed: seed of the k-means.
    Raises Qwen3labError for another kind, no vectors, or vectors that are not finite.
    """
    import faiss

    if kind not in KINDS:
        raise Qwen3labError(
            f"There is no index of the kind {kind!r}. Use one of: {', '.join(KINDS)}."
        )
    if vectors.ndim != 2 or not len(vectors):
        raise Qwen3labError(
            f"Vectors of the shape {vectors.shape} cannot be indexed. Give at least one row of"
            " numbers."
        )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    finite(vectors, NOT_FINITE)
    n, d = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_WIDTH
    elif kind == "ivf":
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(d),
            d,
            cells or max(1, min(round(4 * n**0.5), n // 39)),
            faiss.METRIC_INNER_PRODUCT,
        )
        index.cp.seed = seed
        index.train(vectors)
    else:
        index = faiss.IndexFlatIP(d)
    index.add(vectors)
    return index


def widen(index: faiss.Index, effort: int) -> None:
    """Set the search effort of an index: efSearch candidates for HNSW, nprobe cells for IVF.

    Exact search has no such setting and is left unchanged.
    """
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = effort
    elif hasattr(index, "nprobe"):
        index.nprobe = effort


def overlap(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Compute recall per question: the share of its true nearest neighbours that were found.

    Takes two arrays of row numbers `[Q, k]`, found and exact, and returns `[Q]` in [0, 1]. The -1
    that faiss gives where there are fewer than `k` is no neighbour.
    """
    true = [set(row) - {-1} for row in exact.tolist()]
    return np.array(
        [
            len(set(row) & wanted) / max(1, len(wanted))
            for row, wanted in zip(found.tolist(), true, strict=True)
        ]
    )


def examine(
    index: faiss.Index,
    queries: np.ndarray,
    exact: np.ndarray,
    efforts: Sequence[int | None] = (None,),
) -> list[dict[str, Any]]:
    """Measure recall and latency of an index against exact search, one question at a time.

    A service also receives its questions one at a time.

    Args:
        queries: `[Q, D]`.
        exact: `[Q, k]`, the row numbers that exact search finds.
        efforts: settings for `widen`; None leaves the index as it is.
    Returns:
        One dict per effort: effort; recall (of the k true neighbours, mean over questions); "recall
        low" and "recall high" (95 %, bootstrap over questions); "milliseconds" per question
        (median; faiss uses as many threads as it is set to) and "slowest tenth" (the 90th
        percentile).
    """
    from qwen3lab.evaluation.statistics import bootstrap

    lines = []
    for effort in efforts:
        if effort is not None:
            widen(index, effort)
        found, spent = np.empty_like(exact), []
        for i, query in enumerate(queries):
            begun = time.perf_counter()
            _, found[i : i + 1] = index.search(query[None], exact.shape[1])
            spent.append(1000 * (time.perf_counter() - begun))
        shares = overlap(found, exact)
        low, high = bootstrap(shares, draws=500)
        lines.append(
            {
                "effort": effort,
                "recall": float(shares.mean()),
                "recall low": low,
                "recall high": high,
                "milliseconds": float(np.median(spent)),
                "slowest tenth": float(np.quantile(spent, 0.9)),
            }
        )
    return lines


def size(index: faiss.Index) -> int:
    """Return the size of the serialised index in bytes, which is about its size in memory."""
    import faiss

    return len(faiss.serialize_index(index))
