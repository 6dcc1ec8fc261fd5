"""What notebook 06 says of the two recorded models and of the metrics follows from the record."""

from __future__ import annotations

import pytest

from qwen3lab.data import tasks
from qwen3lab.evaluation import metrics, statistics
from qwen3lab.results import records
from qwen3lab.world import tone

WAYS = ("tone rows alone", "with rehearsal")


@pytest.fixture(scope="module")
def runs():
    return records.read("tone")["runs"]


def pair(first: str, second: str) -> statistics.Comparison:
    return statistics.compare([*map(int, first)], [*map(int, second)])


def test_the_tone_cannot_tell_them_apart_and_old_tasks_can(runs):
    old, new = (runs[way][0] for way in WAYS)
    inside, kept = (pair(old[key], new[key]) for key in ("inside", "old"))
    assert (inside.n, inside.only_first, inside.only_second) == (216, 6, 11)
    assert inside.low < 0 < inside.high and inside.difference == pytest.approx(0.023, abs=5e-4)
    assert (kept.n, kept.only_first, kept.only_second) == (240, 0, 193) and kept.low > 0.7
    by_seed = [pair(a["inside"], b["inside"]).difference for a, b in zip(*(runs[w] for w in WAYS))]
    assert [round(100 * gain, 1) for gain in by_seed] == [2.3, 3.2, 0.0]


def test_intervals_overlap_where_pairs_differ():
    quick, slow = (
        line["runs"][0]["test"]["old"]
        for line in records.read("recipe")["lines"]
        if line["rehearsal"] and line["rate"] != 0.004
    )
    assert statistics.wilson(quick.count("1"), 240)[1] > statistics.wilson(slow.count("1"), 240)[0]
    assert pair(quick, slow).low > 0 and pair(quick, slow).p < 0.01


def test_bleu_sees_the_frame(runs):
    english = [row for row in tasks.load("tone", "test") if row["language"] == "en"]
    wanted = [row["answer"] for row in english]

    def bleu(written, references):
        found = metrics.suite("en").compute(predictions=written, references=references)
        return found["bleu"]

    shifted = [
        tone.reply("en", other["inside"], row["customer"])
        for row, other in zip(english, english[1:] + english[:1])
    ]
    assert sum(map(str.__eq__, shifted, wanted)) == 9 and len(english) == 144
    assert bleu(shifted, wanted) == pytest.approx(83, abs=0.5)
    spoil = str.maketrans("0123456789", "1234567890")
    numbers = [row["answer"] for row in english if any(map(str.isdigit, row["inside"]))]
    assert bleu([text.translate(spoil) for text in numbers], numbers) == pytest.approx(90, abs=0.5)
    texts = ([row["replies"] for row in (runs[way][0] for way in WAYS)], tasks.load("tone", "test"))
    old, new = (
        bleu([text for text, row in zip(replies, texts[1]) if row["language"] == "en"], wanted)
        for replies in texts[0]
    )
    assert abs(old - new) < 0.1 and old > 97
