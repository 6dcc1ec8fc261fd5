"""Search chunks with an exact vector index (faiss) or with BM25."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval.chunking import Chunk
from qwen3lab.retrieval.embedding import embed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Cosine of the same text's two vectors: larger on two machines, bfloat16 included; far smaller with
# two training runs of a model.
SAME_VECTOR = 0.999


@dataclass(frozen=True)
class Hit:
    """A search hit: chunk and score (cosine or BM25 sum; larger is better)."""

    chunk: Chunk
    score: float


class Index:
    """An exact vector index: chunks with normalised embeddings in a faiss `IndexFlatIP`.

    The inner product of normalised vectors is their cosine.
    """

    def __init__(self, chunks: Sequence[Chunk], vectors: np.ndarray, embedder: SentenceTransformer):
        import faiss

        self.chunks, self.embedder, self.dimension = list(chunks), embedder, vectors.shape[1]
        self.faiss = faiss.IndexFlatIP(self.dimension)
        self.faiss.add(np.ascontiguousarray(vectors, dtype=np.float32))

    @classmethod
    def build(
        cls, chunks: Sequence[Chunk], embedder: SentenceTransformer, dimension: int | None = None
    ) -> Index:
        """Embed the chunks as documents and index them.

        `dimension` truncates the vectors to their first components (Matryoshka).
        """
        if not chunks:
            raise Qwen3labError("There are no chunks to index. Read a document and chunk it first.")
        return cls(
            chunks, embed(embedder, [chunk.text for chunk in chunks], dimension=dimension), embedder
        )

    def search(self, questions: Sequence[str], k: int = 3) -> list[list[Hit]]:
        """Return the `k` nearest chunks of each question, best first (or all, if fewer)."""
        if not questions:
            return []
        vectors = embed(self.embedder, questions, "query", self.dimension)
        scores, numbers = self.faiss.search(vectors, min(k, len(self.chunks)))
        return [
            [Hit(self.chunks[n], float(s)) for s, n in zip(*row)] for row in zip(scores, numbers)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write vectors, chunks and settings into `folder` and return it."""
        import faiss

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.faiss, str(folder / "index.faiss"))
        lines = (json.dumps(asdict(chunk), ensure_ascii=False) for chunk in self.chunks)
        (folder / "chunks.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settings = {
            "model": _name(self.embedder),
            "dimension": self.dimension,
            "chunks": len(self.chunks),
        }
        (folder / "settings.json").write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path, embedder: SentenceTransformer) -> Index:
        """Load an index that `save` wrote, for use with `embedder`.

        Raises Qwen3labError if there is no index, or if it was built with another model or another
        dimension: the search would run and return nonsense. The model is recognised by its vector
        of the first chunk, not by its name alone.
        """
        import faiss

        folder = Path(folder)
        try:
            settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
            chunks = [
                _chunk(json.loads(line))
                for line in (folder / "chunks.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
            ]
            stored = faiss.read_index(str(folder / "index.faiss"))
            model, dimension, n = settings["model"], settings["dimension"], settings["chunks"]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise Qwen3labError(
                f"{folder.name!r} holds no whole index ({type(error).__name__}). Build it again and"
                " save it."
            ) from error
        if not n == len(chunks) == stored.ntotal or stored.d != dimension:
            raise Qwen3labError(
                f"The parts of the index {folder.name!r} do not belong together. Build it again and"
                " save it."
            )
        whole = embedder.get_embedding_dimension()
        if dimension > whole:
            raise Qwen3labError(
                f"The index {folder.name!r} has vectors of {dimension} numbers (from {model}), but"
                f" {_name(embedder)} makes {whole}. Load that model, or build the index again."
            )
        vectors = stored.reconstruct_n(0, n)
        (fresh,) = embed(embedder, [chunks[0].text], dimension=dimension)
        if fresh @ vectors[0] < SAME_VECTOR:
            given = _name(embedder)
            other = (
                f"another model ({model}) than the one given ({given})"
                if model != given
                else f"another version of {model} than the one given"
            )
            raise Qwen3labError(
                f"The index {folder.name!r} was made with {other}. "
                "Load that model, or build the index again."
            )
        return cls(chunks, vectors, embedder)


def _chunk(row: dict) -> Chunk:
    return Chunk(**row | {"turns": tuple((position, page) for position, page in row["turns"])})


def _name(embedder: SentenceTransformer) -> str:
    return (
        Path(str(getattr(embedder[0].auto_model.config, "name_or_path", ""))).name
        or "a model without a name"
    )


def key_terms(text: str) -> list[str]:
    """Tokenize a text for BM25: lower-cased words, numbers and codes, and Chinese bigrams."""
    terms = re.findall(r"[a-z0-9]+(?:[-.:][a-z0-9]+)*", text.lower())
    for run in re.findall(r"[\u3400-\u9fff]+", text):
        terms += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return terms


class Keywords:
    """A BM25 index over chunks (`rank_bm25.BM25Okapi`), the baseline for learned search."""

    def __init__(self, chunks: Sequence[Chunk]):
        from rank_bm25 import BM25Okapi

        if not chunks:
            raise Qwen3labError("There are no chunks to index. Read a document and chunk it first.")
        self.chunks = list(chunks)
        self.bm25 = BM25Okapi([key_terms(chunk.text) or [""] for chunk in chunks])

    def search(self, questions: Sequence[str], k: int = 3) -> list[list[Hit]]:
        """Return the `k` best chunks of each question, best first; ties go to the earlier chunk."""
        found = []
        for question in questions:
            scores = self.bm25.get_scores(key_terms(question))
            best = np.argsort(-scores, kind="stable")[:k]
            found.append([Hit(self.chunks[n], float(scores[n])) for n in best])
        return found
