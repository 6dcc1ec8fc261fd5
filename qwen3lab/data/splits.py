"""Leak-free splits: near-copies are found by shingles and kept on one side of a split.

Near-copies here are texts that share nearly all shingles and all that `marks` lists: signs,
numbers, negations, code. A text of fewer than five words is one shingle, so that its near-copies
have the same words; in a longer one some words may be others, since an exam with one word changed
is not unseen.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from qwen3lab.data.marks import SYMBOL, digest
from qwen3lab.data.rows import course, records

THRESHOLD = 0.9  # Jaccard overlap from which two prompts count as near-copies
SIZE = 5  # units in a shingle
_RUN = re.compile(r"[\u3400-\u9fff]+|[^\W_]+")
_SIGN_TO_SPACE = {i: " " for i in range(128) if not chr(i).isalnum()}
# Not ASCII, Chinese or common punctuation. Of a text without any such character NFKC would change
# punctuation alone, which is no part of a unit; leaving NFKC out makes `units` twice as fast.
_UNUSUAL = re.compile("[^\x00-\x7f\u4e00-\u9fff，。！？；：、（）【】《》“”‘’…—·]")
_SIGNED = re.compile(rf"([\u3400-\u9fff]|[^\W_]+)|[{SYMBOL}]|(?<=\d)[ ]*[-*]|[-*][ ]*(?=\d)")


def prompt(row: dict) -> str:
    """Return the prompt text of a row: all its messages, one per line, or its plain text."""
    return joined(course(row))


def joined(row: dict) -> str:
    """Return the text of a row of the course's schema, as `prompt` does."""
    if "messages" not in row:
        return row["text"]
    return "\n".join([message.get("content") or "" for message in row["messages"]])


def question(row: dict) -> str:
    """Return a row's messages up to its answer, one per line, or its plain text."""
    row = course(row)
    messages = row.get("messages")
    if messages is not None and len(messages) and messages[-1]["role"] == "assistant":
        row = row | {"messages": messages[:-1]}
    return prompt(row)


def is_usual(text: str) -> bool:
    """Tell whether a text holds nothing but ASCII, common Chinese and common punctuation."""
    return text.isascii() or _UNUSUAL.search(text) is None


def units(text: str) -> list[str]:
    """Split a text into lower-case words, each Chinese character a word of its own.

    Punctuation and spacing do not count. In a word that begins with another letter or a digit, as
    in 3月, Chinese characters stay.
    """
    if text.isascii():
        return text.lower().translate(_SIGN_TO_SPACE).split()
    if not is_usual(text):
        text = unicodedata.normalize("NFKC", text)
    return [
        unit
        for run in _RUN.findall(text.lower())
        for unit in (run if "\u3400" <= run[0] <= "\u9fff" else (run,))
    ]


def signed_units(text: str) -> list[str]:
    """Split a text as `units` does, each unit with the operators, signs and emoji behind it."""
    found, before = [], ""
    for match in _SIGNED.finditer(unicodedata.normalize("NFKC", text).lower()):
        if match[1]:
            found.append(before + match[1])
            before = ""
        elif found:
            found[-1] += match[0].strip()
        else:
            before += match[0].strip()
    return found


def shingles(text: str, size: int = SIZE) -> frozenset[tuple[str, ...]]:
    """Compute a text's shingles: all runs of `size` units; a shorter text is one shingle."""
    found = units(text)
    return frozenset(tuple(found[i : i + size]) for i in range(max(1, len(found) - size + 1)))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Compute the Jaccard overlap |a and b| / |a or b|, in [0, 1]; two empty sets give 1."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_copies(
    left: Sequence[dict],
    right: Sequence[dict],
    threshold: float = THRESHOLD,
    text: Callable[[dict], str] = prompt,
) -> list[tuple[int, int, float]]:
    """Find pairs (index in left, index in right, Jaccard) with an overlap of at least `threshold`.

    Exact, and fast where many rows share set phrases: two sets with an overlap of `threshold` share
    at least one of their few rarest shingles, so only these are looked up (prefix filtering;
    Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search"). Punctuation, case and spacing
    are ignored, so prompts that differ only in these have Jaccard 1. Prompts that differ in what
    `marks` lists are none.
    """
    texts = [[text(row) for row in rows] for rows in (left, right)]
    sets = [[shingles(one) for one in side] for side in texts]
    marks = lru_cache(maxsize=None)(digest)

    common = Counter(shingle for side in sets for found in side for shingle in found)

    def rarest(found: frozenset[tuple[str, ...]]) -> list[tuple[str, ...]]:
        # An overlap of that many shingles leaves out at most the others.
        needed = max(1, math.ceil(threshold * len(found) - 1e-9))
        order = sorted(found, key=lambda shingle: (common[shingle], shingle))
        return order[: len(found) - needed + 1]

    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for j, found in enumerate(sets[1]):
        for shingle in rarest(found):
            index[shingle].append(j)
    pairs = []
    for i, found in enumerate(sets[0]):
        for j in sorted({j for shingle in rarest(found) for j in index.get(shingle, ())}):
            overlap = jaccard(found, sets[1][j])
            one, two = texts[0][i], texts[1][j]
            if overlap >= threshold and (one == two or marks(one) == marks(two)):
                pairs.append((i, j, overlap))
    return pairs


def groups(rows: Sequence[dict], threshold: float = THRESHOLD) -> list[list[int]]:
    """Group row indices into near-copies (chains included), in order of first appearance."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j, _ in near_copies(rows, rows, threshold):
        parent[max(root(i), root(j))] = min(root(i), root(j))
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(rows)):
        members[root(i)].append(i)
    return list(members.values())


def split(
    rows: Sequence[dict],
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> dict[str, list[dict]]:
    """Split rows at random into train, validation and test; near-copies stay together.

    `validation` and `test` are shares of the rows in [0, 1); a share may be missed by the size of
    one group. The rows are of any kind that `fine_tune` takes, or plain texts.
    """
    rows = records(rows)
    order = groups(rows, threshold)
    random.Random(seed).shuffle(order)
    wanted = {"test": round(test * len(rows)), "validation": round(validation * len(rows))}
    parts: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for group in order:
        name = next((n for n, size in wanted.items() if len(parts[n]) < size), "train")
        parts[name] += [rows[i] for i in group]
    return parts


def leaks(
    training: Iterable[dict], held_out: Iterable[dict], threshold: float = THRESHOLD
) -> list[str]:
    """Report every held-out row that a training row copies or nearly copies, one line each.

    An empty list means no leak. Rows are of any kind that `fine_tune` takes; where some have their
    answers apart (as in `data/tasks`), the questions alone are compared. A row without an id is
    named by its number.
    """
    training, held_out = records(training), records(held_out)
    apart = any("answer" in row and "messages" in row for row in (*training, *held_out))
    text = question if apart else prompt
    return [
        f"{held_out[i].get('id', f'row {i + 1}')} copies {training[j].get('id', f'row {j + 1}')}"
        f" (overlap {overlap:.2f}): {text(held_out[i])[:80]!r}"
        for i, j, overlap in near_copies(held_out, training, threshold, text)
    ]
