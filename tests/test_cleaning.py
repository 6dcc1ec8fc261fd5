"""Cleaning: characters, copies, phone numbers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3lab import paths
from qwen3lab.data import cleaning, formats


@pytest.mark.parametrize(("text", "expected"), [
    ("cafe\u0301", "café"), (" a \r\nb\r", "a\nb"), ("在\u200b吗", "在吗"), ("a\tb\x00\x07", "a\tb"), ("价格：５元（含税）", "价格：５元（含税）"),
    ("👩\u200d🚀", "👩\u200d🚀"), ("", ""), ("a\n\n  b", "a\n\n  b")])
def test_normalize(text, expected):
    assert cleaning.normalize(text) == expected


@given(st.text())
def test_normalize_is_stable_and_nfc(text):
    once = cleaning.normalize(text)
    assert cleaning.normalize(once) == once and unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(("text", "number"), [
    ("请致电13812345678联系", "13812345678"), ("call 13812345678.", "13812345678"), ("（13812345678）", "13812345678"), ("电话：138-1234-5678。", "138-1234-5678"),
    ("打138 1234 5678吧", "138 1234 5678"), ("拨+86 13812345678", "+86 13812345678"), ("8613812345678", "8613812345678"), ("name_13812345678", "13812345678")])
def test_phone_numbers_that_are_found(text, number):
    assert cleaning.PHONE.findall(text) == [number]
    assert cleaning.mask_personal(text) == (text.replace(number, "[PHONE]"), 1)


@pytest.mark.parametrize("text", ["订单138123456789", "213812345678", "12812345678", "0.13812345678", "1381234567", "热线12345", "2024-13812345678901"])
def test_digits_that_are_no_phone_number(text):
    assert cleaning.PHONE.findall(text) == []


def test_the_word_boundary_misses_chinese_neighbours():
    assert cleaning.PHONE_WITH_WORD_BOUNDARY.findall("请致电13812345678联系") == []
    assert cleaning.PHONE_WITH_WORD_BOUNDARY.findall("call 13812345678.") == ["13812345678"]


@pytest.mark.parametrize(("text", "expected"), [
    ("写信到li.wei@example.com就行", "写信到[EMAIL]就行"), ("a+b@mail.example.org, thanks.", "[EMAIL], thanks."), ("user@localhost", "user@localhost"),
    ("@name and 5@3", "@name and 5@3"), ("发到x@example.com。", "发到[EMAIL]。")])
def test_emails(text, expected):
    assert cleaning.mask_personal(text)[0] == expected


def row(*texts):
    return {"id": texts[0], "messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


def test_copies_are_found_after_cleaning():
    rows = [row("cafe\u0301?", "Yes."), row("café?", "Yes. "), row("café?", "No."), row("café?", "Yes.")]
    assert [len(part) for part in cleaning.drop_copies(rows)] == [4, 0]
    kept, copies = cleaning.drop_copies([cleaning.clean(one) for one in rows])
    assert [one["messages"][1]["content"] for one in kept] == ["Yes.", "No."] and len(copies) == 2
    assert rows[0]["messages"][0]["content"] == "cafe\u0301?"  # the original is left alone


def test_found():
    labelled = [{"text": "a13812345678 b", "phones": ["13812345678"]}, {"text": "x 13912345678", "phones": []}, {"text": "y", "phones": ["13712345678"]}]
    assert cleaning.found(cleaning.PHONE, labelled) == {"right": 1, "wrong": 1, "missed": 1, "precision": 0.5, "recall": 0.5}
    probe = formats.read_raw(paths.DATA / "samples" / "phones.jsonl")
    good, bad = cleaning.found(cleaning.PHONE, probe), cleaning.found(cleaning.PHONE_WITH_WORD_BOUNDARY, probe)
    assert good["precision"] == good["recall"] == 1 and bad["recall"] < 0.5 and bad["wrong"] > 0
    partial = [{"text": "+86 13812345678", "phones": ["+86 13812345678"]}]
    assert cleaning.found(cleaning.PHONE_WITH_WORD_BOUNDARY, partial)["right"] == 1  # the digits were found, the country code stays
