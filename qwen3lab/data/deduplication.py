"""Near-deduplication at scale: MinHash signatures, LSH bands, exact Jaccard to decide.

MinHash (Broder 1997): under a random order of all shingles, two sets have the same smallest one
with a probability equal to their Jaccard overlap. The signature is the smallest under each of many
orders. The signatures equal those of `datasketch`, but are computed for all rows in one numpy
operation per order instead of one Python object per row. Signatures are cut into bands; rows that
agree in a whole band are compared exactly, so nothing is dropped by chance.

A near-copy is a text that may go because an earlier one says the same: nearly all shingles are
shared, all that `marks` lists (signs, numbers, negations, code) is the same, and one of the two is
the other with some words left out. So a short row is a near-copy of another only where punctuation,
spaces or the case of words differ, a long one also where words were added, and never where one word
stands for another; code where spaces, empty lines, the width of an indent or words of a comment
differ.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from qwen3lab.data.marks import digest, holds
from qwen3lab.data.splits import SIZE, units

if TYPE_CHECKING:
    import numpy as np


# A pair with an overlap of 0.8 shares a band with a probability of 1 - (1 - 0.8**6)**20 = 0.998.
BANDS, WIDTH = 20, 6
THRESHOLD = 0.8
MOST = 16  # rows of a band that a row is compared with: thousands may differ in a word alone


def shingle_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash the shingles of `splits.shingles` for many texts at once.

    A text of fewer than five units is one shingle; a text without any unit (only punctuation)
    stands for itself.

    Returns:
        hashes: uint64, all shingles of the first text, then of the second, ...
        starts: int64 [len(texts) + 1], where each text's hashes begin and the last one's end.
    """
    import numpy as np

    known = _UnitHashes()
    flat: list[int] = []
    lengths = []
    for text in texts:
        found = units(text) or [" " + text]  # a unit holds no space
        flat += map(known.__getitem__, found)
        if len(found) < SIZE:
            flat += [0] * (SIZE - len(found))
        lengths.append(max(SIZE, len(found)))
    values = np.array(flat, dtype=np.uint64)
    ends = np.cumsum(np.array(lengths, dtype=np.int64))
    factors = np.random.default_rng(0).integers(0, 1 << 63, SIZE, dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    count = max(0, len(values) - SIZE + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(factors):
        hashes += values[place : place + count] * factor  # wraps around 2**64, as intended
    within = np.ones(count, dtype=bool)
    for back in range(1, SIZE):
        crossing = ends - back
        within[crossing[crossing < count]] = False
    starts = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.int64) - SIZE + 1)]).astype(
        np.int64
    )
    return (
        _mix(hashes[within], np.uint64, (33, 0xFF51AFD7ED558CCD, 33, 0xC4CEB9FE1A85EC53, 33)),
        starts,
    )


class _UnitHashes(dict):
    """The first 8 bytes of a unit's MD5 sum as a number, by unit, computed when first asked for."""

    def __missing__(self, unit: str) -> int:
        sum_of = hashlib.md5(unit.encode("utf-8", "surrogatepass"), usedforsecurity=False)
        self[unit] = value = int.from_bytes(sum_of.digest()[:8], "big")
        return value


def _mix(values: np.ndarray, kind: type, constants: tuple[int, int, int, int, int]) -> np.ndarray:
    """Apply MurmurHash3's finalizer, which spreads each bit of a number over all others."""
    first, factor, second, other, third = (kind(constant) for constant in constants)
    values = (values ^ (values >> first)) * factor
    values = (values ^ (values >> second)) * other
    return values ^ (values >> third)


def signatures(
    hashes: np.ndarray, starts: np.ndarray, permutations: int = BANDS * WIDTH, seed: int = 1
) -> np.ndarray:
    """Compute MinHash signatures, uint32 [texts, permutations].

    They equal `datasketch.MinHash(permutations, seed)` after each text's shingles (the lower 32
    bits of their hashes) were added.
    """
    import numpy as np
    from datasketch import MinHash

    factors, offsets = MinHash(num_perm=permutations, seed=seed).permutations
    values = _mix(hashes.astype(np.uint32), np.uint32, (16, 0x85EBCA6B, 13, 0xC2B2AE35, 16))
    result = np.empty((len(starts) - 1, permutations), dtype=np.uint32)
    if len(result):
        for place, (factor, offset) in enumerate(zip(factors, offsets)):
            result[:, place] = np.minimum.reduceat(values * factor + offset, starts[:-1])
    return result


def bands(signature: np.ndarray) -> np.ndarray:
    """Hash each band of each signature to one number, uint64 [texts, BANDS]."""
    import numpy as np

    factors = np.random.default_rng(1).integers(0, 1 << 63, WIDTH, dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    return (signature.reshape(len(signature), BANDS, WIDTH).astype(np.uint64) * factors).sum(
        axis=2, dtype=np.uint64
    )


def index(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute what `find` needs: hashes and starts of shingles, and band keys."""
    hashes, starts = shingle_hashes(texts)
    return hashes, starts, bands(signatures(hashes, starts))


def find(
    hashes: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    threshold: float = THRESHOLD,
    text: Callable[[int], str] | None = None,
) -> list[tuple[int, int, float]]:
    """Find texts that nearly copy an earlier one: (index, earlier index, Jaccard), in order.

    An earlier text counts only if it is no near-copy itself, so each pair says what stays and what
    goes. Each row is compared with the first `MOST` of each of its bands.

    Args:
        hashes, starts: as `shingle_hashes` returns them.
        keys: as `bands` returns them.
        text: gives a text by its index, to compare marks and words; None: the overlap alone counts.
    """
    return pairs(
        keys.T, lambda place: hashes[starts[place] : starts[place + 1]].tolist(), threshold, text
    )


def pairs(
    columns: Iterable[np.ndarray],
    shingles: Callable[[int], Iterable[int]],
    threshold: float = THRESHOLD,
    text: Callable[[int], str] | None = None,
) -> list[tuple[int, int, float]]:
    """Find near-copies as `find` does, from one column of band keys after the other.

    Args:
        columns: the keys of all rows in one band, band after band.
        shingles: gives the shingle hashes of a row by its index.
    """
    import numpy as np

    near: list[np.ndarray] = []
    crowded: dict[int, list[tuple[int, int]]] = {}
    for band, column in enumerate(columns):
        few, crowds = _together(column)
        near.append(few)
        for number, crowd in enumerate(crowds):
            for place in crowd.tolist():
                crowded.setdefault(place, []).append((band, number))
    codes = np.unique(np.concatenate(near)) if near else np.zeros(0, dtype=np.int64)
    later, earlier = (codes >> 32).tolist(), (codes & 0xFFFFFFFF).tolist()

    # Few texts are looked at more than a few times, and then soon again.
    remembered = lru_cache(maxsize=4096)
    sets = remembered(lambda place: frozenset(shingles(place)))
    words = remembered(lambda place: units(text(place)))
    marked = remembered(lambda place: digest(text(place)) if text else 0)

    buckets: dict[tuple[int, int, int], list[int]] = {}
    dropped: set[int] = set()
    found = []
    for place in sorted({*later, *crowded}):
        others = {*earlier[bisect_left(later, place) : bisect_right(later, place)]} - dropped
        # Texts with other marks never meet in a crowd.
        mine = [(*crowd, marked(place)) for crowd in crowded.get(place, ())]
        others.update(*(buckets.get(key, ()) for key in mine))
        one = sets(place) if others else frozenset()
        for other in sorted(others):
            two = sets(other)
            if min(len(one), len(two)) < threshold * max(len(one), len(two)):
                continue
            common = len(one & two)
            overlap = common / (len(one) + len(two) - common)
            if overlap < threshold:
                continue
            if text is None or (
                holds(*sorted((words(place), words(other)), key=len, reverse=True))
                and marked(place) == marked(other)
            ):
                found.append((place, other, overlap))
                dropped.add(place)
                break
        else:
            for key in mine:
                bucket = buckets.setdefault(key, [])
                if len(bucket) < MOST:
                    bucket.append(place)
    return found


def _together(column: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Find which rows have the same key in a band.

    Returns:
        The pairs within groups of at most `MOST` + 1 rows, each as later * 2**32 + earlier, int64;
        and the rows of each larger group, where a row meets only the first `MOST`.
    """
    import numpy as np

    ordered = np.sort(column)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return np.zeros(0, dtype=np.int64), []
    at = np.minimum(np.searchsorted(again, column), len(again) - 1)
    order = np.flatnonzero(again[at] == column)  # most rows are alone
    order = order[np.argsort(column[order], kind="stable")]
    column = column[order]
    starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
    sizes = np.diff(np.append(starts, len(column)))
    large = sizes > MOST + 1
    crowds = [order[at : at + size] for at, size in zip(starts[large], sizes[large])]
    small = np.repeat(~large, sizes)
    order, column = order[small], column[small]
    codes = [np.zeros(0, dtype=np.int64)]
    for ahead in range(1, MOST + 1):
        same = column[ahead:] == column[:-ahead]
        if not same.any():
            break
        codes.append((order[ahead:][same] << 32) | order[:-ahead][same])
    return np.concatenate(codes), crowds


def near_copies(texts: Sequence[str], threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Find texts that nearly copy an earlier one, as `find` returns them."""
    return find(*index(texts), threshold, texts.__getitem__)
