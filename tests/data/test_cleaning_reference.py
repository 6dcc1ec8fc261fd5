"""Cleaning that is fast gives the rows, counts and reasons of the simplest right version.

The simplest version takes one step after the other, each over all rows, with nothing left out.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import models
from qwen3lab.data import cleaning, deduplication, marks, pii, splits
from qwen3lab.data.rows import course
from qwen3lab.errors import Qwen3labError

COPIES = [
    {"text": pair[side]}
    for pair in map(json.loads, (Path(__file__).parent / "copies.jsonl").open("rb"))
    for side in "ab"
]


def talk(question, answer, **more):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer} | more,
        ]
    }


LONG = "The blue kettle with the long handle was sold in the shop beside the old station on Monday"
CALL = [{"id": "c", "function": {"name": "send", "arguments": '{"to": "16412345678"}'}}]
HOSTILE = [
    talk("\u200b", "Empty?"),
    talk("cafe\u0301?", "Yes."),
    talk("café?", "Yes. \r\n"),
    talk("A think block?", "<think>\nHm. 16412345678\n</think>\n\nYes."),
    talk("Hidden?", "<think>\nHm.\n</think>\n\nYes."),
    talk("Hidden?", "<think>\nHm.\n<\u200b/think>\n\nYes."),
    talk("Two?", "<think>\n</think><think>a</think>b"),
    talk("Two?", "<\u200bthink></think><think></\u200bthink><think>x</think>y"),
    talk("Thoughts?", "Yes.", reasoning_content="ask u1@mail.example.org \u200b"),
    talk("Other name?", "Yes.", thoughts="Well."),
    talk("Text 16412345678.", None, tool_calls=CALL),
    talk("Text 16412345678.", "", tool_calls=[CALL[0] | {"id": "d"}]),
    talk("Parts?", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
    talk("in the caſino", "Kaſino, casino"),
    talk("IN THE CASİNO", "CASıNO KA\u212aINO"),
    talk("打开赌场大门", "好"),
    talk("nothing", ""),
    talk("１６４１２３４５６７８ ＠ ：：１", "u1＠mail.example.org 203.0.113.7 ::1 2001:db8::1"),
    talk("<|im_end|>", "a control token ٣ \u0e01 한글 \u3099"),
    talk("３月3月a中", "㍿ ½ ﬁ"),
    talk(LONG, "Thank you."),
    talk(LONG.upper() + "!", "Thank you"),
    talk(LONG + " now", "Thank you."),
    talk("?!", "..."),
    talk("...", "?!"),
    {"prompt": "Code of the blue box?", "completion": "1 <think>"},
    {"id": 7, "text": "def f(x):\n    return x  # 16412345678\n"},
    {"text": "def f(x):\n    return x\n"},
    {"text": "  def f(x):\n    return  x\n"},
    {"text": ""},
]
HALF = talk("\ud800", "half a character")


def generated(script, count, seed):
    return script("cleaning").make_rows(count, seed)[0]


def simplest(rows, words, tokenizer, low, high):
    """Clean step by step: the rows left, what the report says of each step, the rows dropped."""
    rows = list(map(course, rows))
    left, steps, dropped = dict(enumerate(rows)), [], []

    def take(name, gone, changed=(), counts=None, look=str):
        examples = [gone[place] for place in gone][:3] or [look(place) for place in changed[:3]]
        named = [*gone][:3] or changed[:3]
        shown = [f"row {place + 1}: {text}" for place, text in zip(named, examples)]
        steps.append((name, len(changed), len(gone), shown, counts or Counter()))
        for place, why in gone.items():
            row = {"row": place + 1, "id": rows[place].get("id"), "step": name, "why": why}
            dropped.append(row)
            del left[place]

    gone, changed = {}, []
    for place, row in enumerate(rows):
        left[place] = tidy = cleaning.clean(row)
        said = [tidy.get("text")]
        if "messages" in tidy:
            said = [one.get("content") or one.get("tool_calls") for one in tidy["messages"]]
        if not all(said):
            gone[place] = "nothing but invisible characters in a message"
        elif tidy != row:
            changed.append(place)
    # How a difference is shown is tested elsewhere; here the report's own words are taken.
    take("normalise", gone, changed, look=lambda place: None)

    found = {}
    for place, row in left.items():
        left[place], counts = cleaning.mask_row(row)
        if counts:
            found[place] = counts
    order = sorted(found, key=lambda place: (-len(found[place]), place))
    take("mask personal data", {}, order, sum(found.values(), Counter()), lambda place: None)

    gone, pattern = {}, cleaning.word_pattern(words)
    for place, row in left.items():
        match = pattern.search(splits.prompt(row))
        if match:
            gone[place] = match[0]
    take("word list", gone)

    gone = {}
    for place, row in left.items():
        row = course(row)
        texts = [row["text"]] if "messages" not in row else []
        texts += [one["content"] for one in row.get("messages", ()) if one.get("content")]
        count = sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)
        if not low <= count <= high:
            gone[place] = count
    take("lengths", gone)

    gone, seen = {}, {}
    for place, row in left.items():
        first = seen.setdefault(cleaning.key(row), place)
        if first != place:
            gone[place] = f"copies row {first + 1}"
    take("exact copies", gone)

    places = list(left)
    texts = [splits.prompt(left[place]) for place in places]
    gone = {
        places[at]: f"overlap {overlap:.2f} with row {places[other] + 1}:"
        for at, other, overlap in deduplication.near_copies(texts)
    }
    take("near-copies", gone)
    return list(left.values()), steps, dropped


WORDS = ("casino", "赌场", "kasino")


def compare(rows, got, low, high):
    """Compare rows and reports with the simplest version's, but for the wording of examples."""
    kept, report, dropped = got
    tokenizer = models.load_tokenizer("qwen3-tiny")
    wanted, steps, gone = simplest(rows, WORDS, tokenizer, low, high)
    assert kept == wanted
    assert len(report.steps) == len(steps)
    for step, (_, changed, count, examples, counts) in zip(report.steps, steps):
        assert (step.changed, step.dropped, step.counts) == (changed, count, counts)
        named = [example.split(":")[0] for example in examples]
        assert [example.split(":")[0] for example in step.examples] == named
    assert [(row["row"], row["id"]) for row in dropped] == [(row["row"], row["id"]) for row in gone]
    for row, other in zip(dropped, gone):
        why = other["why"]
        begin = {"word list": f"holds {why}: ", "lengths": f"{why} tokens: "}
        assert row["why"].startswith(begin.get(other["step"], why))


@pytest.mark.parametrize("name", ["generated", "hostile", "all of one text"])
def test_rows_counts_and_reasons_are_those_of_the_simplest_version(name, script):
    rng = random.Random(5)
    rows = {
        "generated": lambda: generated(script, 800, 3),
        "hostile": lambda: HOSTILE * 2 + COPIES,
        "all of one text": lambda: [
            {"text": LONG.replace("old", rng.choice(["old", "new", "not", "3", "+"])) + tail}
            for tail in rng.choices(["", ".", "!", " so", " #"], k=300)
        ],
    }[name]()
    tokenizer = models.load_tokenizer("qwen3-tiny")
    low, high = {"generated": (60, 150)}.get(name, (1, 40))
    kept, report = cleaning.clean_rows(
        rows, words=WORDS, tokenizer=tokenizer, min_tokens=low, max_tokens=high
    )
    compare(rows, (kept, report, report.dropped), low, high)


def test_half_a_character_is_cleaned_where_nothing_is_counted():
    kept, report = cleaning.clean_rows([HALF, HALF, HOSTILE[0]], words=WORDS)
    assert kept == [HALF]
    assert [row["step"] for row in report.dropped] == ["normalise", "exact copies"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_is_cleaned_as_its_rows_are(processes, script, tmp_path):
    rows = [*generated(script, 4500, 5), *HOSTILE, HALF]
    source, target, gone = (tmp_path / name for name in ("rows.jsonl", "kept.jsonl", "gone.jsonl"))
    lines = [json.dumps(row, ensure_ascii=row is HALF) for row in rows]
    source.write_text("\n" + "\n\n".join(lines), encoding="utf-8")
    kept, report = cleaning.clean_rows(rows, words=WORDS)
    told = cleaning.clean_file(source, target, gone, words=WORDS, processes=processes)
    written = [[json.loads(line) for line in path.open("rb")] for path in (target, gone)]
    assert written == [kept, report.dropped]
    assert (told.rows, told.steps, told.dropped) == (report.rows, report.steps, [])


def test_what_cannot_be_cleaned_as_a_file(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(Qwen3labError, match="Row 2 is no JSON"):
        cleaning.clean_file(source, tmp_path / "kept", tmp_path / "gone")
    with pytest.raises(Qwen3labError, match="three different ones"):
        cleaning.clean_file(source, tmp_path / "kept", tmp_path / "." / "rows.jsonl")


def test_units_are_the_words_of_the_normalised_text():
    """By the definition, each character beside a letter, a digit and a Chinese character."""
    unit = re.compile(r"[\u3400-\u9fff]|[^\W_]+")
    for character in map(chr, range(0x110000)):
        text = f"a{character}中{character}1 "
        wanted = unit.findall(unicodedata.normalize("NFKC", text).lower())
        assert splits.units(text) == wanted, text


PERSONAL = st.lists(
    st.sampled_from([*"0123456789-. :@()+一，：＠１xF\n"])
    | st.sampled_from(
        ["16412345678", "u1@mail.example.org", "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1"]
        + ["4111 1111 1111 1111", "11010519491231002X", "(0086) 164-1234-5678", "164.1234.5678"]
    ),
    max_size=9,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(PERSONAL)
def test_personal_data_is_found_wherever_the_patterns_find_it(text):
    found = pii.find_personal(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pii, "WORTH_A_LOOK", re.compile(""))
        patch.setattr(pii, "may_hold", lambda text: True)
        everywhere = tuple((kind, lambda text: 0, *rest) for kind, _, *rest in pii.FINDERS)
        patch.setattr(pii, "FINDERS", everywhere)
        assert pii.find_personal(text) == found


MARKED = st.lists(
    st.sampled_from([*"不没别非否特区人的常则一二三中文 \n12.-*!()[]aAbC+=%'’:;#{}"])
    | st.sampled_from(
        ["not", "IT", "return", "def ", "n't", "```", "别人", "1,000", "pass", "from "]
    ),
    max_size=25,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(MARKED)
def test_marks_lose_nothing_by_what_is_left_out(text):
    found = marks.marks(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "SILENT", re.compile(r"(?!)"))
        patch.setattr(marks, "may_be_code", lambda text: True)
        assert marks.marks(text) == found


def first_of_each_band(hashes, starts, keys, threshold, texts):
    """Near-copies by buckets: a row is compared with the first `MOST` rows of each of its bands
    that have its marks and are no near-copies."""
    buckets, pairs = {}, []
    for place, text in enumerate(texts):
        mine = [(band, key, marks.marks(text)) for band, key in enumerate(keys[place].tolist())]
        for other in sorted({other for key in mine for other in buckets.get(key, ())}):
            one, two = (
                frozenset(hashes[starts[at] : starts[at + 1]].tolist()) for at in (place, other)
            )
            overlap = len(one & two) / len(one | two)
            words = sorted((splits.units(texts[place]), splits.units(texts[other])), key=len)
            if overlap >= threshold and marks.holds(words[1], words[0]):
                pairs.append((place, other, overlap))
                break
        else:
            for key in mine:
                if len(buckets.setdefault(key, [])) < deduplication.MOST:
                    buckets[key].append(place)
    return pairs


@pytest.mark.parametrize("seed", range(6))
def test_near_copies_in_crowded_bands(seed):
    """Bands of one to some hundred rows, so that rows meet as pairs and in crowds."""
    rng = random.Random(seed)
    words = "red blue green 红 蓝 dog cat 狗 . ! A + 3 not 不 X".split()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(80)]
    texts += [f"red blue green dog {rng.choice('!.?+3X')}" for _ in range(70)]
    for _ in range(200):
        text = LONG.split()
        for _ in range(rng.randint(0, 2)):
            text[rng.randrange(len(text))] = rng.choice(["", f"x{rng.randint(0, 9)}", "3", "not"])
        texts.append(" ".join(filter(None, text)) + rng.choice(["", "!", " so", " +"]))
    rng.shuffle(texts)
    index = deduplication.index(texts)
    for threshold in (0.5, 0.8, 1.0):
        wanted = first_of_each_band(*index, threshold, texts)
        assert deduplication.near_copies(texts, threshold) == wanted
        assert len(wanted) > 20
