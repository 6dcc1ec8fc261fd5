"""BLEU, ROUGE-L and F1 by hand equal the libraries, over made-up texts and over the tone's
replies.
"""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import metrics
from qwen3lab.from_scratch import text_metrics

WORDS = [
    "lamp",
    "Lamp",
    "the",
    "order",
    "12.5",
    "3,000",
    "70-80",
    "a.b",
    "U.S.",
    "don't",
    "&amp;",
    "&quot;x&quot;",
    "<skipped>",
    "-\n",
    "(x)",
    "e-mail",
    "…",
    "—",
    "“",
    "”",
    "灯",
    "我会",
    "办理",
    "。",
    "，",
    "ＡＢ",
    "订单",
    "𠀀",
    "☃",
    "⺀",
    "\t",
    "\n",
    "\u3000",
    "\u00a0",
    "Straße",
    "$5",
    "x..y",
    ",,",
    "1,a",
    "b,2",
    "İ",
]
PIECES = st.lists(st.sampled_from(WORDS), max_size=12).map(
    lambda words: " ".join(words)
) | st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
TEXTS = PIECES | st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


def _changed(text, place):
    """A text with every fifth word or character changed or lost, as a bad model might."""
    parts = text.split() if " " in text else list(text)
    kept = [part if i % 5 != place % 5 else "lamp" if i % 2 else "" for i, part in enumerate(parts)]
    return (" " if " " in text else "").join(part for part in kept if part)


@pytest.mark.parametrize("cut", ["13a", "zh", "char", "none"])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs=PAIRS)
def test_bleu_equals_sacrebleu(cut, pairs):
    ours, theirs = map(list, zip(*pairs))
    found, wanted = (
        text_metrics.bleu(ours, theirs, cut),
        sacrebleu.corpus_bleu(ours, [theirs], tokenize=cut, force=True),
    )
    assert found.score == pytest.approx(wanted.score, abs=1e-9)
    assert (found.words, found.reference_words) == (wanted.sys_len, wanted.ref_len)
    assert found.brevity == pytest.approx(wanted.bp, abs=1e-12)


@pytest.mark.parametrize("cut", ["13a", "zh", "char"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS)
def test_cuts_equal_sacrebleus(cut, text):
    tokenizer = sacrebleu.metrics.BLEU(tokenize=cut).tokenizer
    assert text_metrics.CUTS[cut](text) == tokenizer(text.rstrip()).split()


def test_chinese_characters_are_sacrebleus():
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    known = TokenizerZh._is_chinese_char.__wrapped__
    signs = [chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    assert [
        sign for sign in signs if bool(text_metrics.CHINESE.fullmatch(sign)) != known(sign)
    ] == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(one=TEXTS, other=TEXTS)
def test_rouge_equals_rouge_score(one, other):
    assert text_metrics.rouge_l(one, other) == pytest.approx(
        RougeScorer(["rougeL"]).score(other, one)["rougeL"].fmeasure, abs=1e-12
    )
    scorer = RougeScorer(["rougeL"], tokenizer=metrics.Characters())
    assert text_metrics.rouge_l(one, other, "zh") == pytest.approx(
        scorer.score(other, one)["rougeL"].fmeasure, abs=1e-12
    )


def test_all_three_over_the_tones_replies():
    """216 replies, each spoiled in another place: the largest difference from the libraries."""
    rows = tasks.load("tone", "test")
    differences = []
    for language, cut in (("en", "13a"), ("zh", "zh")):
        wanted = [row["answer"] for row in rows if row["language"] == language]
        written = [_changed(text, place) for place, text in enumerate(wanted)]
        by_library = sacrebleu.corpus_bleu(written, [wanted], tokenize=cut).score
        assert 20 < by_library < 70
        differences.append(abs(text_metrics.bleu(written, wanted, cut).score - by_library))
        differences.append(
            abs(
                metrics.Bleu(language).compute(predictions=written, references=wanted)["bleu"]
                - by_library
            )
        )
        differences += [
            abs(
                text_metrics.bleu([one], [other], cut).score
                - sacrebleu.corpus_bleu([one], [[other]], tokenize=cut).score
            )
            for one, other in zip(written, wanted)
        ]
        scorer = RougeScorer(
            ["rougeL"], tokenizer=metrics.Characters() if language == "zh" else None
        )
        differences += [
            abs(
                text_metrics.rouge_l(one, other, language)
                - scorer.score(other, one)["rougeL"].fmeasure
            )
            for one, other in zip(written, wanted)
        ]
    assert len(differences) == 2 * 216 + 4 and max(differences) < 1e-9


def test_chinese_cut_at_spaces_scores_nothing():
    one, other = ["我会为您办理退款手续，请放心。"], ["我会为您办理退款，请放心。"]
    assert text_metrics.bleu(one, other).score == sacrebleu.corpus_bleu(one, [other]).score == 0
    assert text_metrics.rouge_l(one[0], other[0]) == 0
    assert text_metrics.bleu(one, other, "zh").score == pytest.approx(
        sacrebleu.corpus_bleu(one, [other], tokenize="zh").score
    )
    assert 72 < text_metrics.bleu(one, other, "zh").score < 73
    assert text_metrics.rouge_l(one[0], other[0], "zh") == pytest.approx(2 * 11 / (13 + 11))


def test_bleu_by_pencil():
    """Three of four words, one of three pairs; no triple counts a half, no quadruple a quarter; the
    reference is a word longer.
    """
    found = text_metrics.bleu(["a b x d"], ["a b c d e"])
    assert found.precisions == pytest.approx((75, 100 / 3, 100 * 0.5 / 2, 100 * 0.25 / 1))
    assert found.brevity == pytest.approx(2.718281828459045 ** (1 - 5 / 4))
    assert found.score == pytest.approx(found.brevity * (75 * 100 / 3 * 25 * 25) ** 0.25)
    assert text_metrics.bleu(["a a a a a"], ["a a b c d"]).precisions[:2] == pytest.approx(
        (40, 25)
    )  # no credit for saying it more often


def _squad(prediction, reference):
    """SQuAD's published rule in other words: lower, no punctuation, no articles, bags of words."""

    def bag(text):
        kept = "".join(
            " " if sign in string.whitespace else sign
            for sign in text.lower()
            if sign not in set(string.punctuation)
        )
        return Counter(
            word for word in re.split(r"\s+", re.sub(r"\b(?:a|an|the)\b", " ", kept)) if word
        )

    one, other = bag(prediction), bag(reference)
    if not one or not other:
        return float(one == other)
    common = sum(min(one[word], other[word]) for word in one)
    precision, recall = common / sum(one.values()), common / sum(other.values())
    return 2 * precision * recall / (precision + recall) if common else 0.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one=TEXTS, other=TEXTS)
def test_f1_is_squads(one, other):
    assert text_metrics.token_f1(one, other) == pytest.approx(_squad(one, other), abs=1e-12)
    assert text_metrics.token_f1(one, other, "zh") == pytest.approx(
        text_metrics.token_f1(other, one, "zh"), abs=1e-12
    )


@pytest.mark.parametrize(
    ("language", "one", "other", "f1"),
    [
        ("en", "The fee is 8 euros.", "8 euros", 2 * 2 / (4 + 2)),
        ("en", "an 8-euro fee", "8 euros", 0),
        ("en", "The", "a", 1),
        ("en", "", "8", 0),
        ("en", "euros 8", "8 Euros!", 1),
        ("zh", "费用是8欧元。", "8欧元", 2 * 3 / (6 + 3)),
        ("zh", "八欧元", "8 欧元", 2 * 2 / (3 + 3)),
        ("zh", "iPhone手机", "手机 iPhone", 1),
        ("zh", "《说明》", "说明", 1),
    ],
)
def test_f1_by_pencil(language, one, other, f1):
    assert text_metrics.token_f1(one, other, language) == pytest.approx(f1)


def test_mistakes_get_a_sentence():
    with pytest.raises(Qwen3labError, match="13a, zh, char, none"):
        text_metrics.bleu(["a"], ["a"], "intl")
    with pytest.raises(Qwen3labError, match="1 texts cannot be compared with 2"):
        text_metrics.bleu(["a"], ["a", "b"])
    for function in (text_metrics.rouge_l, text_metrics.token_f1):
        with pytest.raises(Qwen3labError, match="'fr'"):
            function("a", "b", "fr")
