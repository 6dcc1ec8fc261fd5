"""Search chunks with an exact vector index (faiss) or with BM25.

The rule: a hit is a chunk that the search found. No index takes a number that is not finite, no
search returns a place that faiss left empty (-1) or a chunk without a word of the question, and
BM25 knows the words of every script.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import regex

from qwen3lab.data.pdf_marks import whole
from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval.chunking import Chunk
from qwen3lab.retrieval.embedding import embed, finite

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LEAST_WEIGHT = 1e-6  # of a word that tells nothing
NOT_FINITE = "{} of {} vectors are not finite. Embed the chunks again, with the model in float32."
# Words, numbers and codes; "C++" and "C#" are not "C".
LETTERS = r"[\p{L}\p{M}\p{N}]"
WORD = regex.compile(rf"{LETTERS}+(?:[-.:]{LETTERS}+)*(?:(?:\+\+|#)(?!{LETTERS}))?")
# Scripts that set no spaces between words, or, as Korean, join small words to them.
RUNNING = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30fc]+"
)
# Signs that most writers leave out: Arabic vowels and stretching, Hebrew points.
LEFT_OUT = regex.compile(r"[\u0640\u064b-\u065f\u0670\u0591-\u05bd\u05bf\u05c1-\u05c7]")
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
        """Index vectors `[N, D]`, one of each chunk.

        Raises Qwen3labError unless there are as many as chunks, and all finite.
        """
        import faiss

        if vectors.ndim != 2 or len(vectors) != len(chunks):
            raise Qwen3labError(
                f"Vectors of the shape {vectors.shape} do not belong to {len(chunks)} chunks. Give"
                " one row of numbers for each chunk."
            )
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.chunks, self.embedder, self.dimension = list(chunks), embedder, vectors.shape[1]
        self.faiss = faiss.IndexFlatIP(self.dimension)
        self.faiss.add(finite(vectors, NOT_FINITE))

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
        """Return the `k` nearest chunks of each question, best first (or all, if fewer).

        Raises Qwen3labError for a `k` below 1, and as `embed`.
        """
        _at_least_one(k)
        if not questions:
            return []
        vectors = embed(self.embedder, questions, "query", self.dimension)
        scores, numbers = self.faiss.search(vectors, min(k, len(self.chunks)))
        return [
            [Hit(self.chunks[n], float(s)) for s, n in zip(*row) if n >= 0 and np.isfinite(s)]
            for row in zip(scores, numbers)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write vectors, chunks and settings into `folder` and return it.

        Raises Qwen3labError for vectors that are not finite.
        """
        import faiss

        finite(self.faiss.reconstruct_n(0, self.faiss.ntotal), NOT_FINITE)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.faiss, str(folder / "index.faiss"))
        lines = (json.dumps(asdict(chunk), ensure_ascii=False) for chunk in self.chunks)
        (folder / "chunks.jsonl").write_text(whole("\n".join(lines) + "\n"), encoding="utf-8")
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

        Raises Qwen3labError if there is no index, if its vectors are not finite, or if it was built
        with another model or another dimension: the search would run and return nonsense. The model
        is recognised by its vector of the first chunk, not by its name alone.
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
        finite(vectors, f"In the index {folder.name!r} {NOT_FINITE}")
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


def _at_least_one(k: int) -> None:
    if k < 1:
        raise Qwen3labError(f"A search cannot return {k} chunks. Ask for one or more.")


def key_terms(text: str) -> list[str]:
    """Tokenize a text for BM25: words, numbers and codes of any script, without their case.

    Digits of every script become those of ASCII, and letters that are written in two ways (full or
    half width, composed or not) one. Scripts without spaces give pairs of characters.
    """
    fold = lambda word: unicodedata.normalize("NFKC", word[0].casefold())
    text = regex.sub(rf"{LETTERS}+", fold, LEFT_OUT.sub("", text))
    text = regex.sub(r"\p{Nd}", lambda digit: str(unicodedata.decimal(digit[0])), text)
    terms = WORD.findall(RUNNING.sub(" ", text))
    for run in RUNNING.findall(text):
        letters = regex.findall(r"\X", run)
        terms += ["".join(letters[i : i + 2]) for i in range(max(1, len(letters) - 1))]
    return terms


class Keywords:
    """A BM25 index over chunks (`rank_bm25.BM25Okapi`), the baseline for learned search.

    Its weights of words that stand in half of the chunks or more are 0 or less; here they count a
    little, so that a chunk which shares a word with the question has a score above 0, and no other.
    """

    def __init__(self, chunks: Sequence[Chunk]):
        from rank_bm25 import BM25Okapi

        if not chunks:
            raise Qwen3labError("There are no chunks to index. Read a document and chunk it first.")
        self.chunks = list(chunks)
        self.bm25 = BM25Okapi([key_terms(chunk.text) or [""] for chunk in chunks])
        self.bm25.idf = {
            term: max(weight, LEAST_WEIGHT) for term, weight in self.bm25.idf.items() if term
        }

    def search(self, questions: Sequence[str], k: int = 3) -> list[list[Hit]]:
        """Return the `k` best chunks of each question, best first; ties go to the earlier chunk.

        Only chunks that share a word with the question are found, be they fewer than `k`. Raises
        Qwen3labError for a `k` below 1.
        """
        _at_least_one(k)
        found = []
        for question in questions:
            scores = self.bm25.get_scores(key_terms(question))
            best = np.argsort(-scores, kind="stable")[:k]
            found.append([Hit(self.chunks[n], float(scores[n])) for n in best if scores[n] > 0])
        return found
