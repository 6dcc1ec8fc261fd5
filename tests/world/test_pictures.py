"""Generated pictures: the same for a seed, answered rightly, and split without overlap."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest

from qwen3lab.errors import Qwen3labError
from qwen3lab.world import pictures


def drawn(split, kind, many=150):
    return list(islice(pictures.stream("test", split, kind), many))


def test_a_seed_gives_the_same_picture():
    for kind in pictures.KINDS:
        one, again, other = (pictures.draw(seed, "train", kind) for seed in (3, 3, 4))
        assert np.array_equal(one.pixels, again.pixels) and one.questions == again.questions
        assert not np.array_equal(one.pixels, other.pixels)
        assert one.pixels.shape == (64, 64, 3) and one.pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", pictures.KINDS)
def test_the_splits_share_nothing_that_is_held_out(kind):
    shown = {}
    for split in pictures.SPLITS:
        shown[split] = {what for p in drawn(split, kind) for what in p.shows}
        assert len(shown[split]) > 10
    for one, other in combinations(pictures.SPLITS, 2):
        assert not shown[one] & shown[other]


def test_no_training_picture_shows_a_held_out_combination_price_font_or_position():
    for kind in pictures.KINDS:
        for picture in drawn("train", kind):
            for what in picture.shows:
                if what.startswith("font "):
                    assert what.removeprefix("font ") in pictures.FONTS["train"]
                else:
                    assert pictures.split_of(what) == "train", what


def test_each_thing_stands_beside_many_others_in_training_and_is_tested():
    sizes = {split: len(pictures.combinations(split)) for split in pictures.SPLITS}
    assert sizes == {"train": 1124, "validation": 208, "test": 348}  # of 48 x 35
    for split, least in (("train", 18), ("test", 1)):
        found = Counter(one for one, _ in pictures.combinations(split))
        assert len(found) == 48 and min(found.values()) >= least


@pytest.mark.parametrize("split", pictures.SPLITS)
def test_no_answer_can_be_told_from_the_rest_of_a_scene(split):
    """A thing that is never seen three times, or never red, would teach that it cannot be."""
    counts, things, each = {}, set(), {}
    for picture in drawn(split, "scene", 3000):
        told = {q.kind: q.answer for q in picture.questions if q.language == "en"}
        things.add((told["colour"], told["shape"]))
        counts.setdefault(told["shape"], set()).add(told["count"])
        each.setdefault((told["colour"], told["shape"]), set()).add(told["count"])
    assert len(things) == 48 and all(len(found) == 4 for found in counts.values())
    if split == "train":
        assert all(len(found) == 4 for found in each.values())


def test_answers_are_what_was_drawn():
    for picture in drawn("test", "scene"):
        told = {(q.kind, q.language): q.answer for q in picture.questions}
        colour, shape = told["colour", "en"], told["shape", "en"]
        assert set(picture.shows[0].split(" beside ")) == {word for word, _, _ in picture.marks}
        placed = [(x, y) for word, x, y in picture.marks if word == f"{colour} {shape}"]
        assert told["count", "en"] == told["count", "zh"] == str(len(placed))
        assert f"{colour} {shape}" in picture.shows[0]
        assert told["colour", "zh"] == pictures.COLOURS[colour][0]
        for x, y in placed:  # the middle has the colour, but for a ring, which is open
            if shape != "ring":
                near = picture.pixels[int(y), int(x)].astype(int) - pictures.COLOURS[colour][1]
                assert abs(near).max() < 40, (picture.shows, x, y)
        if ("place", "en") in told:
            (x, y) = placed[0]
            words = ("bottom" if y >= 32 else "top", "right" if x >= 32 else "left")
            assert told["place", "en"] == " ".join(words)
            assert told["place", "zh"] == ("右" if x >= 32 else "左") + ("下" if y >= 32 else "上")
    for kind, asked in (("tag", "price"), ("receipt", "total")):
        for picture in drawn("test", kind):
            price = picture.shows[0].removeprefix("price ")
            told = {(q.kind, q.language): q.answer for q in picture.questions}
            assert told == {(asked, "en"): f"{price} euros", (asked, "zh"): f"{price}欧元"}
            assert "".join(digit for digit, _, _ in picture.marks) == price


def test_tags_of_the_company_ask_for_the_new_price():
    for picture in drawn("test", "company"):
        new, old = (int(what.removeprefix("price ")) for what in picture.shows[:2])
        assert old > new
        english, chinese = (question.answer for question in picture.questions)
        assert english == f"Wildon price: {new} euros"
        assert chinese == f"维多内的价格：{new}欧元"
        assert "".join(digit for digit, _, _ in picture.marks) == str(new)


def test_digits_lie_where_they_are_said_to():
    """Ink is darker or redder than its paper: around each digit's centre there is some."""
    for picture in drawn("train", "tag", 40):
        for _, x, y in picture.marks:
            assert 0 < x < 64 and 0 < y < 64
            around = picture.pixels[int(y) - 4 : int(y) + 4, max(int(x) - 3, 0) : int(x) + 4]
            assert np.ptp(around.min(-1).astype(int)) > 60


def test_an_unknown_split_or_kind_is_refused():
    for given in ({"split": "exam"}, {"kind": "photo"}):
        with pytest.raises(Qwen3labError, match="Splits are train, validation, test; kinds are"):
            pictures.draw(0, **given)
