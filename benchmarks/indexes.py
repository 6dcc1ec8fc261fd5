"""Benchmark vector indexes: exact search, HNSW and IVF over 1 thousand to 1 million vectors.

`python benchmarks/indexes.py`. The vectors are those of `qwen3-tiny-embedding`, cut to their first
64 components and normalised again. Real ones are passages of the little world (one thing each, one
to four facts, three of five English), all different. Larger sets are synthesised from the real
ones: a real vector plus 0.65 times the difference between another real vector and one of its ten
nearest neighbours, normalised. With 0.65 a synthetic vector is as near to its nearest neighbour as
a real one is. How alike they are is measured: a set of real passages against a set of the same size
that is synthesised from other ones (`check`). In the largest set 25 synthetic vectors surround each
real one, in clusters, which flatters IVF. Questions ask for a fact of a real passage. faiss runs on
one thread. Writes `data/benchmarks/indexes.json`; real vectors are cached in `build/indexes`.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import record

from qwen3lab import measure, models, paths
from qwen3lab.retrieval import approximate
from qwen3lab.world import things

DIMENSION, K, NEAR, STEP = 64, 10, 10, 0.65
EFFORTS = {"flat": (None,), "hnsw": (16, 32, 64, 128, 256), "ivf": (1, 4, 16, 64)}


def passages(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Generate `n` different passages, and a question for each."""
    rng = random.Random(f"indexes-{seed}")
    texts: dict[str, str] = {}
    while len(texts) < n:
        language = "en" if rng.random() < 0.6 else "zh"
        thing = things.make_thing(
            rng, rng.choice(("product", "person", "place")), language, None, rng.randint(1, 4)
        )
        texts.setdefault(
            things.describe(rng, thing),
            things.ask(thing, rng.choice(list(thing.values)), rng.randrange(60)),
        )
    return list(texts), list(texts.values())


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embed(n: int, questions: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embed `n` passages and `questions` questions that some of them answer."""
    file = folder / f"real-{n}.npz"
    if not file.is_file():
        embedder = models.load_embedding(device="cpu")
        texts, asked = passages(n, 0)
        with measure.clock(f"embedding of {n} passages"):
            vectors = unit(embedder.encode_document(texts)[:, :DIMENSION])
        chosen = random.Random("questions").sample(
            range(min(1000, n)), min(questions, n)
        )  # their passages are also in the smallest set
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            file,
            vectors=vectors,
            questions=unit(embedder.encode_query([asked[i] for i in chosen])[:, :DIMENSION]),
        )
    with np.load(file) as kept:
        return kept["vectors"], kept["questions"]


def neighbours(real: np.ndarray) -> np.ndarray:
    """Find the row numbers `[N, 10]` of the nearest other vectors."""
    _, found = approximate.build("flat", real).search(real, NEAR + 1)
    return found[:, 1:]


def grow(
    real: np.ndarray, near: np.ndarray, n: int, seed: int = 0, keep: bool = True
) -> np.ndarray:
    """Extend the real vectors to `n`: the real ones first (with `keep`), then synthetic ones.

    Float32, of length 1.
    """
    rng = np.random.default_rng(seed)
    out = np.empty((n, real.shape[1]), dtype=np.float32)
    kept = min(n, len(real)) if keep else 0
    out[:kept] = real[:kept]
    for start in range(kept, n, 50_000):
        rows = min(50_000, n - start)
        a, b = rng.integers(0, len(real), (2, rows))
        c = near[b, rng.integers(0, near.shape[1], rows)]
        out[start : start + rows] = unit(real[a] + STEP * (real[b] - real[c]))
    return out


def compare(vectors: np.ndarray, questions: np.ndarray, say: str) -> list[dict[str, Any]]:
    """Benchmark all three kinds of index over one set of vectors."""
    lines: list[dict[str, Any]] = []
    exact = None
    for kind, efforts in EFFORTS.items():
        begun = time.perf_counter()
        index = approximate.build(kind, vectors)
        seconds = time.perf_counter() - begun
        if exact is None:
            _, exact = index.search(questions, K)
        common = {
            "index": kind,
            "n": len(vectors),
            "build seconds": round(seconds, 3),
            "bytes": approximate.size(index),
        }
        common |= {"cells": index.nlist} if kind == "ivf" else {}
        for line in approximate.examine(index, questions, exact, efforts):
            if kind == "ivf" and line["effort"] > index.nlist:
                continue
            lines.append(
                common
                | {
                    key: round(value, 5) if isinstance(value, float) else value
                    for key, value in line.items()
                }
            )
            print(say, lines[-1], flush=True)
        del index
    return lines


def nearest(vectors: np.ndarray, sample: int = 1000) -> dict[str, float]:
    """Average a sample's cosines to the nearest and the tenth-nearest neighbour."""
    scores, _ = approximate.build("flat", vectors).search(vectors[-sample:], NEAR + 1)
    return {
        "nearest": round(float(scores[:, 1].mean()), 4),
        "tenth": round(float(scores[:, NEAR].mean()), 4),
    }


def main() -> None:
    import faiss

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=int, default=40_000, help="passages that are embedded")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "indexes.json")
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    real, questions = embed(args.real, args.questions, paths.BUILD / "indexes")
    half = len(real) // 2
    made = grow(real[:half], neighbours(real[:half]), half, seed=1, keep=False)
    check = {
        "n": half,
        "cosines real": nearest(real[half:]),
        "cosines made": nearest(made),
        "real": compare(real[half:], questions, "check, real"),
        "made": compare(made, questions, "check, made"),
    }
    near = neighbours(real)
    lines = [line for n in args.sizes for line in compare(grow(real, near, n), questions, "size")]
    record.write(
        args.out,
        {
            "dimension": DIMENSION,
            "k": K,
            "questions": len(questions),
            "real passages": len(real),
            "links": approximate.LINKS,
            "build width": approximate.BUILD_WIDTH,
            "check": check,
            "indexes": lines,
            "peak bytes": record.peak(os.getpid()),
        },
        "indexes.py",
        ("faiss-cpu", "numpy", "sentence-transformers"),
        args.note,
    )


if __name__ == "__main__":
    main()
