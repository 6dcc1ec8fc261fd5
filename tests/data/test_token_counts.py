"""Tokens counted by pieces: as many as the tokenizer gives, for every text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from qwen3lab import models
from qwen3lab.data import token_counts

TEXTS = ["", "a", "Don't  stop.\n\n 12\u3000中文，3月", "<|im_end|> text", "cafe\u0301", "한글 ٣"]


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("qwen3-tiny")


def encoded(tokenizer, texts):
    return list(map(len, tokenizer(texts, add_special_tokens=False).input_ids))


def test_every_known_character_is_split_as_the_tokenizer_splits_it(tokenizer):
    """Beside letters, numbers, spaces, a quote and itself."""
    count = token_counts.by_pieces(tokenizer.backend_tokenizer)
    letters = list(map(chr, range(0x10000)))
    texts = [f"a{c}1{c} {c}'s\n{c}中 {c}{c}'{c}" for c in letters if not "\ud800" <= c <= "\udfff"]
    counts = list(map(count, texts))
    known = [text for text, found in zip(texts, counts) if found is not None]
    assert len(known) == 28_196
    assert [found for found in counts if found is not None] == encoded(tokenizer, known)


@settings(max_examples=400, deadline=None)
@given(
    st.text(
        alphabet=" \n\t\r'sSdDlLtTreVE.,!?1２中文あア，。_-é\u3000\xa0٣\u0301\u200b<|", max_size=25
    )
    | st.sampled_from(TEXTS)
)
def test_counts_are_the_tokenizers(tokenizer, text):
    assert token_counts.count_tokens([text], tokenizer) == encoded(tokenizer, [text])


def test_what_is_not_known_is_left_to_the_tokenizer(tokenizer):
    count = token_counts.by_pieces(tokenizer.backend_tokenizer)
    assert [count(text) is None for text in TEXTS] == [False, False, True, True, True, True]
    assert token_counts.count_tokens(TEXTS, tokenizer) == encoded(tokenizer, TEXTS)
    assert token_counts.count_tokens([], tokenizer) == []


def test_another_tokenizer_is_not_taken_for_qwens(tokenizer):
    def changed(**parts):
        other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        for name, part in parts.items():
            setattr(other, name, part)
        return token_counts.by_pieces(other)

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert changed() is not None
    assert changed(normalizer=normalizers.NFKC()) is None
    assert changed(pre_tokenizer=pre_tokenizers.ByteLevel()) is None
    assert changed(pre_tokenizer=pre_tokenizers.Sequence([level])) is None
    assert token_counts.by_pieces(None) is None


def test_pieces_are_forgotten_before_they_are_too_many(tokenizer, monkeypatch):
    monkeypatch.setattr(token_counts, "MOST", 3)
    texts = [f"a{number} word{number}" for number in range(9)]
    assert token_counts.count_tokens(texts, tokenizer) == encoded(tokenizer, texts)
