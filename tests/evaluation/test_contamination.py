"""Which copies of test rows the n-gram checks find, and which they cannot find."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab.data import tasks
from qwen3lab.data.splits import prompt, units
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import contamination


def _row(number, question, answer="", **extras):
    return {
        "id": f"row.{number}",
        "task": "t",
        "language": "en",
        "messages": [{"role": "user", "content": question}],
        "answer": answer,
        **extras,
    }


LONG = (
    "The Flaxdran mixer has the order code AG-430. It comes from Wiswon. We build it from rubber in"
    " spring."
)


def test_counts_by_pencil():
    train = [_row(1, "Nothing of the kind, really nothing."), _row(2, f"Read this: {LONG.upper()}")]
    test = [
        _row(3, LONG.replace("Wiswon", "Danato")),
        _row(4, "We build it from wood."),
        _row(5, "it comes FROM Wiswon"),
    ]
    found = contamination.check(train, test, n=4, text=prompt)
    # 20 words: 17 runs of four, of which the four that hold the changed word are new.
    assert found.loc[0, ["runs", "shared", "hit", "source"]].tolist() == [17, 13, True, "row.2"]
    assert found.loc[0, "stretch"] == "the flaxdran mixer has the order code ag 430 it comes from"
    assert (
        found.loc[1, ["runs", "shared", "hit"]].tolist() == [2, 1, True]
        and found.loc[1, "stretch"] == "we build it from"
    )
    assert found.loc[2, ["runs", "shared", "share"]].tolist() == [1, 1, 1]
    assert contamination.check(train, test, n=4, least=0.77, text=prompt).hit.tolist() == [
        False,
        False,
        True,
    ]
    assert contamination.check(train, test, n=4, least=1.0, text=prompt).hit.tolist() == [
        False,
        False,
        True,
    ]
    assert contamination.check(train, test, n=4, least=0.76, text=prompt).hit.tolist() == [
        True,
        False,
        True,
    ]


def test_a_short_text_is_found_within_a_longer_one():
    train = [_row(1, "Please tell me who runs the Galkrum museum today.")]
    assert contamination.check(
        train, [_row(2, "Who runs the Galkrum museum?")], n=13
    ).hit.tolist() == [True]
    assert (
        contamination.check(
            train, [_row(2, "Who runs the Suzar museum?"), _row(3, "..."), _row(4, "")], n=13
        ).hit.tolist()
        == [False] * 3
    )


def test_chinese_by_character():
    train, test = (
        [_row(1, "请问维西卡背包是哪种颜色？")],
        [_row(2, "维西卡背包，是哪种颜色"), _row(3, "维西卡背包是哪种材料")],
    )
    found = contamination.check(train, test, n=8)
    assert found.hit.tolist() == [True, True] and found.stretch.tolist() == [
        "维西卡背包是哪种颜色",
        "维西卡背包是哪种",
    ]
    assert contamination.check(train, test, n=9).hit.tolist() == [True, False]


def test_boilerplate_is_left_out_and_so_are_many_copies():
    frame = "Answer briefly from the text and write nothing else: {}"
    train = [_row(i, frame.format(f"thing number {i} costs {i} euros")) for i in range(12)]
    test = [
        _row(20, frame.format("who is the head of the station")),
        _row(21, frame.format("thing number 3 costs 3 euros")),
    ]
    assert contamination.check(train, test, n=5).hit.tolist() == [True, True]
    found = contamination.check(train, test, n=5, common=10)
    assert found.hit.tolist() == [False, True] and found.runs.tolist() == [
        7,
        4,
    ]  # of 12 and 11: five lie in the frame, two more reach into "thing number"
    # The rule's price: a test row that training holds more than ten times is taken for boilerplate.
    assert contamination.check(
        [_row(i, LONG) for i in range(11)], [_row(20, LONG)], common=10
    ).hit.tolist() == [False]
    assert contamination.check(
        [_row(i, LONG) for i in range(10)], [_row(20, LONG)], common=10
    ).hit.tolist() == [True]


WORDS = st.lists(st.sampled_from(["a", "b", "c", "灯", "D"]), max_size=9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    train=st.lists(WORDS, min_size=1, max_size=4),
    test=st.lists(WORDS, min_size=1, max_size=3),
    n=st.integers(1, 5),
)
def test_equals_a_plain_search(train, test, n):
    """A run is shared when its words, with bars between, stand somewhere in a training text."""
    joined = ["|" + "|".join(map(str.lower, text)) + "|" for text in train]
    found = contamination.check(
        [_row(i, " ".join(text)) for i, text in enumerate(train)],
        [_row(i, " ".join(text)) for i, text in enumerate(test)],
        n,
        text=prompt,
    )
    for words, line in zip(test, found.itertuples()):
        words = [word.lower() for word in words]
        size = min(n, len(words))
        runs = (
            ["|" + "|".join(words[i : i + size]) + "|" for i in range(len(words) - size + 1)]
            if words
            else []
        )
        assert line.runs == len(runs) and line.shared == sum(
            any(run in text for text in joined) for run in runs
        )
        assert line.hit == (line.shared > 0)


@pytest.fixture(scope="module")
def recalls():
    table = contamination.trial(
        tasks.load("knowledge", "validation"), tasks.load("knowledge", "test")
    )
    return table.set_index(["kind", "rule"])


def test_short_questions_hide_behind_one_word(recalls):
    """Exact copies of questions are all found; one changed word or another wording hides nearly all
    from runs of 13 words.
    """
    assert (recalls.loc["exact"].recall == 1).all() and (
        recalls.loc["case and signs"].recall == 1
    ).all()
    assert (
        recalls.loc["one word", "13 words, one run"].recall
        < 0.05
        < 0.3
        < recalls.loc["one word", "8 words, one run"].recall
        < 0.5
    )
    assert recalls.loc["reworded", "13 words, one run"].recall < 0.02
    assert (recalls.planted == 117).all() and (recalls.recall == recalls.found / 117).all()


def test_long_texts_are_found_and_boilerplate_is_an_alarm():
    table = contamination.trial(
        tasks.load("context", "validation"),
        tasks.load("context", "test")[:120],
        ("one word", "sentences shuffled"),
    )
    table = table.set_index(["kind", "rule"])
    assert table.loc["one word"].recall.min() == 1
    assert table.loc["one word", "13 words, one run"].precision == pytest.approx(
        0.5
    )  # the instruction stands in every row
    assert table.loc["one word", "8 words, 70 % of the runs"].precision == 1
    assert table.loc["sentences shuffled", "8 words, 70 % of the runs"].recall < 0.1


def test_plants_are_what_they_say():
    rows = tasks.load("context", "test")[:40] + tasks.load("knowledge", "test")[:40]
    for row, exact, loud, one, moved, other in zip(
        rows,
        *(
            contamination.plant(rows, kind)
            for kind in ("exact", "case and signs", "one word", "sentences shuffled", "reworded")
        ),
    ):
        before = units(prompt(row))
        assert units(prompt(exact)) == before == units(prompt(loud)) or "." in prompt(
            row
        )  # 3.6 becomes 3 and 6 either way
        after = units(prompt(one))
        assert len(after) == len(before) and sum(a != b for a, b in zip(before, after)) == 1
        assert sorted(units(prompt(moved))) == sorted(before)
        assert other["answer"] == row["answer"] and exact["id"] == row["id"] + ".exact"
        assert not row.get("fact") or prompt(other) != prompt(row)
    assert (
        contamination.plant(rows, "three words")
        == contamination.plant(rows, "three words")
        != contamination.plant(rows, "three words", seed=1)
    )


def test_the_courses_own_splits():
    """No row of the sums shares a run; of the 235 questions on facts some contain a whole training
    question, as facts are the same by design.
    """
    hits = {
        task: int(
            contamination.check(tasks.load(task, "train"), tasks.load(task, "test"), n=13).hit.sum()
        )
        for task in ("addition", "knowledge")
    }
    assert hits["addition"] == 0 and hits["knowledge"] <= 5
    assert (
        int(
            contamination.check(
                tasks.load("tone", "train"), tasks.load("tone", "test"), n=8, least=0.7
            ).hit.sum()
        )
        <= 10
    )


def test_mistakes_get_a_sentence():
    with pytest.raises(Qwen3labError, match="nothing to compare"):
        contamination.check([], [_row(1, "a")])
    for options in ({"n": 0}, {"least": 0}, {"least": 1.1}):
        with pytest.raises(Qwen3labError, match="is none"):
            contamination.check([_row(1, "a")], [_row(1, "a")], **options)
    with pytest.raises(Qwen3labError, match="exact, case and signs"):
        contamination.plant([], "copied")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Is 3 < 5 ?", "Is 3 > 5 ?"),
        ("What is 12 - 30?", "What is 12 + 30?"),
        ("Write it in C.", "Write it in C#."),
        ("I liked it 👍", "I liked it 👎"),
    ],
)
def test_another_sign_is_another_question(one, two):
    rows = [
        {"messages": [{"role": "user", "content": text}], "answer": "Yes"} for text in (one, two)
    ]
    assert contamination.check(rows[:1], rows[:1]).hit.tolist() == [True]
    assert contamination.check(rows[:1], rows[1:]).hit.tolist() == [False]
    spaced = {
        "messages": [{"role": "user", "content": one.replace(" ", "  ").upper()}],
        "answer": "yes",
    }
    found = contamination.check(rows[:1], [spaced])
    assert found.hit.tolist() == [True]
    assert found.stretch.tolist() == [" ".join(units(f"{one} yes"))]
