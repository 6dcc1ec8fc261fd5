"""Detect test-set contamination: n-grams of words that test rows share with training rows.

In Chinese every character counts as a word. This is the usual check of the large models' reports,
with its usual settings: 13 words, where one shared run is enough and runs that many training texts
contain do not count (Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C); or 8
words, of which 70 % must be shared (Chowdhery et al. 2022, "PaLM", section 8). `plant` and `trial`
show what each of them finds and misses.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.data import augmentation
from qwen3lab.data.rows import course, records
from qwen3lab.data.splits import prompt, signed_units, units
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd

    Row = dict[str, Any]


RULES: dict[str, dict[str, Any]] = {  # name -> options of `check`
    "13 words, one run": {"n": 13},
    "13 words, one run, none that 10 rows share": {"n": 13, "common": 10},
    "8 words, one run": {"n": 8},
    "8 words, 70 % of the runs": {"n": 8, "least": 0.7},
}


def question_and_answer(row: Row) -> str:
    """Join all messages of a row and its answer, one per line: the text that training reads."""
    return f"{prompt(row)}\n{row.get('answer', '')}"


def check(
    train: Sequence[Row],
    test: Sequence[Row],
    n: int = 13,
    *,
    least: float | None = None,
    common: int | None = None,
    text: Callable[[Row], str] = question_and_answer,
) -> pd.DataFrame:
    """Search every n-gram of each test row in all training rows, ignoring case and punctuation.

    Spaces do not count either, and a Chinese character is a word; operators, other signs and emoji
    do (`splits.signed_units`), so that "12 - 30" is no part of "12 + 30". A text of fewer
    than n words is one run, and is also searched as a part of longer texts.

    Args:
        train, test: rows of `data/tasks`, or of any kind that `text` can read.
        n: words in a run.
        least: minimum share of shared runs for a hit, in (0, 1]; None: one run is enough.
        common: a run that more training rows than this contain is boilerplate and is left out on
            both sides; None: all count.
        text: the part of a row to compare; `splits.prompt` compares only the questions.
    Returns:
        One row per test row, in order: id, task, language, runs (that count), shared, share, hit,
        source (id of the training row that shares most), stretch (the longest stretch of the test
        row whose runs are all shared).
    Raises:
        Qwen3labError: no rows on a side, n below 1, or a share outside (0, 1].
    """
    import pandas as pd

    train, test = records(train), records(test)
    if not train or not test:
        raise Qwen3labError(
            "There is nothing to compare. Give at least one training row and one test row."
        )
    if n < 1 or (least is not None and not 0 < least <= 1):
        raise Qwen3labError(
            f"A check of {n} words and a share of {least} is none. Give n of at least 1 and a share"
            " above 0 and up to 1."
        )
    words = [signed_units(text(row)) for row in train]
    holders: dict[int, dict[tuple, list[int]]] = {}
    lines = []
    for place, row in enumerate(test):
        said = text(row)
        ours = signed_units(said)
        size = min(n, len(ours))
        if size and size not in holders:
            holders[size] = _holders(words, size)
        known = holders.get(size, {})
        runs = (
            [tuple(ours[start : start + size]) for start in range(len(ours) - size + 1)]
            if size
            else []
        )
        counted = [run for run in runs if common is None or len(known.get(run, ())) <= common]
        shared = [run in known and (common is None or len(known[run]) <= common) for run in runs]
        share = sum(shared) / len(counted) if counted else 0.0
        sources = Counter(
            holder for run, found in zip(runs, shared) if found for holder in known[run]
        )
        source = min(sources, key=lambda holder: (-sources[holder], holder)) if sources else None
        lines.append(
            {
                "id": row.get("id", place),
                "task": row.get("task", ""),
                "language": row.get("language", ""),
                "runs": len(counted),
                "shared": sum(shared),
                "share": share,
                "hit": any(shared) if least is None else share >= least,
                "source": "" if source is None else train[source].get("id", source),
                "stretch": _stretch(units(said), shared, size),
            }
        )
    return pd.DataFrame(lines)


def _holders(words: Sequence[Sequence[str]], size: int) -> dict[tuple, list[int]]:
    """Index the runs of words: run -> the texts that contain it."""
    found: dict[tuple, list[int]] = defaultdict(list)
    for place, text in enumerate(words):
        for run in {tuple(text[start : start + size]) for start in range(len(text) - size + 1)}:
            found[run].append(place)
    return found


def _stretch(words: Sequence[str], shared: Sequence[bool], size: int) -> str:
    best = (0, 0)
    start = None
    for place, found in enumerate([*shared, False]):
        if found and start is None:
            start = place
        elif not found and start is not None:
            best, start = (
                max(best, (start, place - 1 + size), key=lambda span: span[1] - span[0]),
                None,
            )
    return re.sub(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])", "", " ".join(words[slice(*best)]))


def _signs(row: Row, rng: random.Random) -> Row:
    return _edit(row, lambda text: re.sub(r"[.,?!;:。，？！；：、]", " ", text).upper())


def _words(number: int) -> Callable[[Row, random.Random], Row]:
    def change(row: Row, rng: random.Random) -> Row:
        """Replace words at `number` positions of the last message."""

        def edit(text: str) -> str:
            places = list(re.finditer(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", text))
            for found in sorted(
                rng.sample(places, min(number, len(places))), key=lambda found: -found.start()
            ):
                text = (
                    text[: found.start()]
                    + ("某" if "\u3400" <= found[0][0] <= "\u9fff" else "something")
                    + text[found.end() :]
                )
            return text

        return row | {
            "messages": [
                *row["messages"][:-1],
                row["messages"][-1] | {"content": edit(row["messages"][-1]["content"])},
            ]
        }

    return change


def _sentences(row: Row, rng: random.Random) -> Row:
    def edit(text: str) -> str:
        parts = re.findall(r"[^.?!。？！\n]+(?:[.?!。？！\n]+|$)", text)
        rng.shuffle(parts)
        return "".join(parts)

    return _edit(row, edit)


def _reworded(row: Row, rng: random.Random) -> Row:
    """Rephrase the question: by a template if the row names its fact, else by synonyms.

    Synonyms replace a third of the words of the last message.
    """
    if row.get("fact"):
        question = augmentation.rephrase(row, rng)
    else:
        question = augmentation.replace_synonyms(
            row["messages"][-1]["content"], rng, row["language"], share=1 / 3
        )
    return row | {"messages": [*row["messages"][:-1], {"role": "user", "content": question}]}


def _edit(row: Row, change: Callable[[str], str]) -> Row:
    return row | {
        "messages": [
            message | {"content": change(message["content"])} for message in row["messages"]
        ],
        "answer": change(row["answer"]),
    }


PLANTS: dict[str, Callable[[Row, random.Random], Row]] = {
    "exact": lambda row, rng: row,
    "case and signs": _signs,
    "one word": _words(1),
    "three words": _words(3),
    "sentences shuffled": _sentences,
    "reworded": _reworded,
}


def plant(rows: Sequence[Row], kind: str, seed: int = 0) -> list[Row]:
    """Copy test rows as they might leak into training data, changed by one of `PLANTS`.

    The kind is appended to the ids. Raises Qwen3labError for an unknown kind.
    """
    if kind not in PLANTS:
        raise Qwen3labError(f"Unknown kind of copy {kind!r}. Use one of: {', '.join(PLANTS)}.")
    rng = random.Random(f"{kind}-{seed}")
    return [PLANTS[kind](course(row), rng) | {"id": f"{row['id']}.{kind}"} for row in rows]


def trial(
    train: Sequence[Row],
    test: Sequence[Row],
    kinds: Sequence[str] = tuple(PLANTS),
    rules: dict[str, dict[str, Any]] | None = None,
    *,
    seed: int = 0,
    text: Callable[[Row], str] = question_and_answer,
) -> pd.DataFrame:
    """Measure recall and precision of each rule on planted copies of half the test rows.

    The copies go into clean training rows.

    Args:
        train: rows that contain no copy of a test row.
        rules: name -> options of `check`; default `RULES`.
    Returns:
        One row per kind and rule: planted, found (planted rows that are hits), recall, alarms (hits
        that were not planted), precision (NaN without a hit).
    """
    import pandas as pd

    chosen = sorted(random.Random(seed).sample(range(len(test)), len(test) // 2))
    lines = []
    for kind in kinds:
        mixed = [*train, *plant([test[place] for place in chosen], kind, seed)]
        for name, options in (rules or RULES).items():
            hit = check(mixed, test, text=text, **options).hit
            found, alarms = int(hit.iloc[chosen].sum()), int(hit.drop(index=chosen).sum())
            lines.append(
                {
                    "kind": kind,
                    "rule": name,
                    "planted": len(chosen),
                    "found": found,
                    "recall": found / len(chosen),
                    "alarms": alarms,
                    "precision": found / (found + alarms) if found + alarms else float("nan"),
                }
            )
    return pd.DataFrame(lines)
