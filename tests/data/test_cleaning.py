"""Cleaning: characters, copies, word lists, lengths, and the report that leaves nothing out."""

from __future__ import annotations

import copy
import hashlib
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import models
from qwen3lab.data import cleaning, formats, splits
from qwen3lab.errors import Qwen3labError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "café"),
        (" a \r\nb\r", "a\nb"),
        ("在\u200b吗", "在吗"),
        ("a\tb\x00\x07", "a\tb"),
        ("价格：５元（含税）", "价格：５元（含税）"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("", ""),
        ("a\n\n  b", "a\n\n  b"),
    ],
)
def test_normalize(text, expected):
    assert cleaning.normalize(text) == expected


@given(st.text() | st.text(alphabet="e\u0301\u200b \n\r\ud800é", max_size=12))
def test_normalize_is_stable_and_nfc(text):
    once = cleaning.normalize(text)
    assert cleaning.normalize(once) == once and unicodedata.is_normalized("NFC", once)


def row(*texts, **more):
    return {
        "id": texts[0],
        "messages": [
            {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
        ],
    } | more


def calling(phone, number="c1"):
    return row(f"Text {phone}.", "") | {
        "messages": [
            {"role": "user", "content": f"Text {phone}."},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": f"To {phone}.",
                "tool_calls": [
                    {
                        "id": number,
                        "function": {"name": "send", "arguments": f'{{"to": "{phone}"}}'},
                    }
                ],
            },
        ]
    }


def test_copies_are_found_after_cleaning():
    rows = [
        row("cafe\u0301?", "Yes."),
        row("café?", "Yes. "),
        row("café?", "No."),
        row("café?", "Yes."),
    ]
    assert [len(part) for part in cleaning.drop_copies(rows)] == [4, 0]
    kept, copies = cleaning.drop_copies([cleaning.clean(one) for one in rows])
    assert [one["messages"][1]["content"] for one in kept] == ["Yes.", "No."] and len(copies) == 2
    assert rows[0]["messages"][0]["content"] == "cafe\u0301?"  # the original is left alone


def test_the_key_is_md5_and_holds_all_that_is_trained_or_read():
    assert (
        cleaning.key(row("Hi", "Yes")) == hashlib.md5(b"4:user2:Hi0:9:assistant3:Yes0:").hexdigest()
    )
    different = [
        row("a", "b"),
        row("ab", ""),
        row("a", "b") | {"tools": [{"function": {"name": "f"}}]},
        {"text": "a"},
        {"text": "b"},
        calling("16412345678"),
        calling("16412345679"),
        row("\ud800", "b"),
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "reasoning_content": "c"},
            ]
        },
    ]
    assert len({cleaning.key(one) for one in different}) == len(different)
    assert cleaning.key(calling("1", "c1")) == cleaning.key(
        calling("1", "c2")
    )  # the number of a call is no content


def test_masks_are_the_same_in_text_thoughts_and_calls():
    before = calling("16412345678")
    original = copy.deepcopy(before)
    masked, counts = cleaning.mask_row(before)
    assert before == original and counts == {"phone": 3}
    assert (
        masked["messages"][0]["content"] == "Text [PHONE]."
        and masked["messages"][1]["reasoning_content"] == "To [PHONE]."
    )
    assert masked["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"to": "[PHONE]"}'


def test_words_are_whole_in_english_and_parts_in_chinese():
    pattern = cleaning.word_pattern(["ass", "casino", "毒品"])
    hits = {
        text: bool(pattern.search(text))
        for text in (
            "A class passes.",
            "An ass!",
            "CASINO",
            "casinos",
            "出售毒品",
            "消毒品牌",
            "消毒",
        )
    }
    assert hits == {
        "A class passes.": False,
        "An ass!": True,
        "CASINO": True,
        "casinos": False,
        "出售毒品": True,
        "消毒品牌": True,
        "消毒": False,
    }
    assert cleaning.word_pattern([]) is None and cleaning.word_pattern(["a+b"]).search("a+b")


def test_token_lengths_equal_one_by_one():
    tokenizer = models.load_tokenizer("qwen3-tiny")
    rows = [row("The lamp flickers.", "We send a new one."), {"text": "x = 1"}, calling("1")]
    single = [
        [len(tokenizer(text).input_ids) for text in texts]
        for texts in (["The lamp flickers.", "We send a new one."], ["x = 1"], ["Text 1."])
    ]
    assert cleaning.token_lengths(rows, tokenizer) == [sum(part) for part in single]
    assert cleaning.token_lengths(rows, tokenizer, answers_only=True) == [
        single[0][1],
        single[1][0],
        0,
    ]
    assert cleaning.token_lengths([], tokenizer) == []


LONG = "The blue kettle with the long handle was sold in the shop beside the old station on Monday"
ROWS = [
    row("cafe\u0301?", "Yes."),
    row("\u200b", "Empty?"),
    row("打16412345678吧", "好。"),
    row("caf\u00e9?", "Yes. "),
    row("Where is the casino?", "There."),
    row(LONG, "Thank you."),
    row(LONG.upper() + "!", "Thank you"),
    row("打16912345678吧", "好。"),
    row(LONG.replace("blue", "white"), "Thank you."),
    {"id": "code", "text": "x = 1\n"},
]


def test_clean_rows_and_its_report():
    rows = copy.deepcopy(ROWS)
    kept, report = cleaning.clean_rows(rows, words=["casino"])
    assert rows == ROWS  # the rows that came in are left alone
    assert [one["id"] for one in kept] == [
        "cafe\u0301?",
        "打16412345678吧",
        LONG,
        LONG.replace("blue", "white"),
        "code",
    ]
    assert (
        kept[0]["messages"][0]["content"] == "café?"
        and kept[1]["messages"][0]["content"] == "打[PHONE]吧"
        and kept[4]["text"] == "x = 1"
    )
    table = report.table()
    assert list(table.index) == [
        "normalise",
        "mask personal data",
        "word list",
        "exact copies",
        "near-copies",
    ]
    assert (
        list(table["changed"]) == [3, 2, 0, 0, 0]
        and list(table["dropped"]) == [1, 0, 1, 2, 1]
        and list(table["left"]) == [9, 9, 8, 6, 5]
    )
    assert (
        table.loc["mask personal data", "found"] == "2 phone"
        and "16412345678" not in table.to_string()
    )
    assert (
        table.loc["normalise", "example"] == "row 2: nothing but invisible characters in a message"
        and "[PHONE]" in table.loc["mask personal data", "example"]
    )
    assert [(bad["row"], bad["step"], bad["why"][:28]) for bad in report.dropped] == [
        (2, "normalise", "nothing but invisible charac"),
        (5, "word list", "holds casino: 'Where is the "),
        (4, "exact copies", "copies row 1"),
        (8, "exact copies", "copies row 3"),
        (7, "near-copies", "overlap 1.00 with row 6: 'TH"),
    ]


def test_steps_can_be_left_out_and_limits_added():
    tokenizer = models.load_tokenizer("qwen3-tiny")
    kept, report = cleaning.clean_rows(ROWS, mask=False, near_threshold=None)
    assert (
        [step.name for step in report.steps] == ["normalise", "exact copies"]
        and len(kept) == 8
        and kept[1]["messages"][0]["content"] == "打16412345678吧"
    )
    lengths = cleaning.token_lengths([cleaning.clean(one) for one in ROWS], tokenizer)
    kept, report = cleaning.clean_rows(
        ROWS, mask=False, near_threshold=None, tokenizer=tokenizer, min_tokens=50
    )
    step = report.steps[1]
    assert step.name == "fewer than 50 tokens" and step.dropped == sum(
        length < 50 for place, length in enumerate(lengths) if place != 1
    )
    kept, report = cleaning.clean_rows(ROWS, tokenizer=tokenizer, min_tokens=1, max_tokens=0)
    assert report.steps[2].name == "fewer than 1 or more than 0 tokens"
    assert kept == [] and len(report.dropped) == 10


def test_no_example_shows_a_number():
    _, report = cleaning.clean_rows(
        [row("打16412345678\u200b吧", "好。"), row("打1641234\u200b5678吧", "好")]
    )
    assert report.steps[0].examples == [
        "row 1: '打###########\\u200b吧' -> '打###########吧'",
        "row 2: '打#######\\u200b####吧' -> '打###########吧'",
    ]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"a": 1}], {}, "Row 1 has neither good messages nor text"),
        ([{"messages": ["a"]}], {}, "Row 1"),
        ([{"messages": [{"role": "user", "content": 5}]}], {}, "Row 1"),
        ([{"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}], {}, "Row 1"),
        ([row("a", "b"), "text"], {}, "Row 2 has neither"),
        ([row("a", "b")], {"min_tokens": 5}, "A limit on tokens needs a tokenizer"),
    ],
)
def test_what_cannot_be_cleaned(rows, options, message):
    with pytest.raises(Qwen3labError, match=message):
        cleaning.clean_rows(rows, **options)


def test_two_processes_give_the_same_rows_and_report():
    rows = [
        row(
            f"Question {n}: where does train {n} leave on day {n % 7}?",
            f"At gate {n}. Call 164{n:08d}.",
        )
        for n in (n % 1900 for n in range(2400))
    ]
    one, two = (cleaning.clean_rows(rows, processes=count) for count in (1, 2))
    assert one == two and len(one[0]) == 1900


texts = st.sampled_from(
    [
        "Hi",
        "hi!",
        "请打16412345678",
        "请打16912345678",
        "\u200b",
        "cafe\u0301",
        "café",
        "casino",
        "a " * 30,
        LONG,
        LONG + " now",
        "\ud800",
        "👍",
        "👎",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=12))
def test_every_row_is_kept_or_named_and_cleaning_again_changes_nothing(pairs):
    rows = [row(*pair) | {"id": str(place)} for place, pair in enumerate(pairs)]
    kept, report = cleaning.clean_rows(rows, words=["casino"])
    gone = [bad["id"] for bad in report.dropped]
    assert sorted(gone + [one["id"] for one in kept], key=int) == [
        str(place) for place in range(len(rows))
    ]
    assert report.rows == len(rows) and sum(step.dropped for step in report.steps) == len(gone)
    again, second = cleaning.clean_rows(kept, words=["casino"])
    assert again == kept and all(step.changed == step.dropped == 0 for step in second.steps)


def test_no_near_copy_crosses_a_split_of_cleaned_samples():
    rows = [one for name in formats.SAMPLES for one in formats.load(name).rows]
    kept, _ = cleaning.clean_rows(rows)
    parts = splits.split(kept, validation=0.1, test=0)
    assert (
        splits.leaks(parts["train"], parts["validation"]) == []
        and len(parts["validation"]) >= len(kept) // 11
    )
