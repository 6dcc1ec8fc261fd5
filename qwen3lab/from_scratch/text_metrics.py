"""BLEU-4, ROUGE-L and token F1 from scratch, equal to sacrebleu, rouge-score and SQuAD's/MLQA's F1.

The three differ in what they count: BLEU counts n-grams, ROUGE-L the longest common subsequence, F1
single words. All of them begin with a decision that changes the score more than any model does: how
a text is tokenised.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen3lab.errors import Qwen3labError

# The tokenisation rules of mteval-v13a, the script of the NIST evaluations, as in sacrebleu:
# punctuation stands alone; a full stop or a comma does, unless digits stand on both sides; a hyphen
# does after a digit.
_SIGN = re.compile(r"([\u0020!\"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])")
_AFTER, _BEFORE, _HYPHEN = (
    re.compile(r"([^0-9])([.,])"),
    re.compile(r"([.,])([^0-9])"),
    re.compile(r"([0-9])(-)"),
)
# What sacrebleu takes for Chinese. Its table means U+20000 to U+2A6D6 and U+2F800 to U+2FA1D too,
# but writes them with four digits, so that curly quotes, dashes and arrows (U+2001 to U+2A6D) are
# cut off, and the rare characters themselves are not.
CHINESE = re.compile(
    r"([\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u2fff\u3000-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u4db5\u4e00-\u9fbb\uf900-\ufa2d"
    r"\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef])"
)
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def _signs_apart(text: str) -> list[str]:
    text = _BEFORE.sub(r" \1 \2", _AFTER.sub(r"\1 \2 ", _SIGN.sub(r" \1 ", text)))
    return _HYPHEN.sub(r"\1 \2 ", text).split()


def cut_13a(text: str) -> list[str]:
    """Tokenise into words and punctuation as sacrebleu's "13a", for languages with spaces."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES.items():
        text = text.replace(entity, sign)
    return _signs_apart(f" {text} ")


def cut_zh(text: str) -> list[str]:
    """Tokenise Chinese text as sacrebleu's "zh": a Chinese character is a token of its own.

    The rest is split into words and punctuation.
    """
    return _signs_apart(CHINESE.sub(r" \1 ", text.strip()))


def cut_characters(text: str) -> list[str]:
    """Tokenise every character by itself, without spaces: sacrebleu's "char"."""
    return list("".join(text.split()))


def cut_rouge(text: str) -> list[str]:
    """Tokenise into lower-case runs of a to z and digits, as rouge-score does; the rest is lost."""
    return re.findall(r"[a-z0-9]+", text.lower())


def cut_rouge_zh(text: str) -> list[str]:
    """Tokenise as `cut_rouge`, with each Chinese character as a word; punctuation is lost."""
    return re.findall(r"[a-z0-9]+|[\u3400-\u4dbf\u4e00-\u9fff]", text.lower())


CUTS: dict[str, Callable[[str], list[str]]] = {
    "13a": cut_13a,
    "zh": cut_zh,
    "char": cut_characters,
    "none": str.split,
}


@dataclass(frozen=True)
class Bleu:
    """BLEU score of a corpus and its parts.

    `score` and `precisions` (of 1- to 4-grams) are 0 to 100, the brevity penalty `brevity` is 0 to
    1.
    """

    score: float
    precisions: tuple[float, ...]
    brevity: float
    words: int  # in the predictions
    reference_words: int


def bleu(
    predictions: Sequence[str], references: Sequence[str], cut: str = "13a", orders: int = 4
) -> Bleu:
    """Compute BLEU-4 of a corpus with one reference per text (Papineni et al. 2002).

    Equals `sacrebleu.corpus_bleu(predictions, [references], tokenize=cut)`. Counts are added over
    all texts before they are divided, so the score is not a mean of per-text scores. An order
    without a match counts half a match, the next one a quarter (Chen & Cherry 2014, method 3).
    Where all texts are too short for an order, the score is 0.

    Args:
        cut: one of `CUTS`: "13a" for languages with spaces, "zh" for Chinese.
        orders: the longest n-gram.
    Raises:
        Qwen3labError: an unknown cut, unequal numbers of texts, or none.
    """
    if cut not in CUTS:
        raise Qwen3labError(f"Unknown way to cut a text {cut!r}. Use one of: {', '.join(CUTS)}.")
    _pairs(predictions, references)
    hits, totals, written, wanted = [0] * orders, [0] * orders, 0, 0
    for prediction, reference in zip(predictions, references):
        ours, theirs = CUTS[cut](prediction), CUTS[cut](reference)
        written, wanted = written + len(ours), wanted + len(theirs)
        for n in range(1, orders + 1):
            groups = grams(ours, n)
            # An n-gram counts at most as often as the reference has it.
            hits[n - 1] += sum((groups & grams(theirs, n)).values())
            totals[n - 1] += sum(groups.values())
    brevity = 1.0 if written >= wanted else math.exp(1 - wanted / written) if written else 0.0
    if not any(hits) or not all(totals):
        return Bleu(
            0.0,
            tuple(100 * hit / total if total else 0.0 for hit, total in zip(hits, totals)),
            brevity,
            written,
            wanted,
        )
    precisions, part = [], 1.0
    for hit, total in zip(hits, totals):
        part = part if hit else part / 2
        precisions.append(100 * (hit or part) / total)
    return Bleu(
        brevity * math.exp(sum(map(math.log, precisions)) / orders),
        tuple(precisions),
        brevity,
        written,
        wanted,
    )


def grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the n-grams of a list of words."""
    return Counter(zip(*(words[start:] for start in range(n))))


def rouge_l(prediction: str, reference: str, language: str = "en") -> float:
    """Compute ROUGE-L: the F-measure of two texts' longest common subsequence, 0 to 1.

    Lin 2004; equals `RougeScorer(["rougeL"])` of rouge-score. For "zh" each character is a word
    (`cut_rouge_zh`); rouge-score alone would find no word in a Chinese text.

    Raises:
        Qwen3labError: an unknown language.
    """
    cut = _by_language({"en": cut_rouge, "zh": cut_rouge_zh}, language)
    ours, theirs = cut(prediction), cut(reference)
    return _f_measure(longest_common(ours, theirs), len(ours), len(theirs))


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Compute the length of the longest common subsequence (gaps allowed).

    Wagner & Fischer 1974, keeping one row of the table.
    """
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0  # the table's cell to the upper left
        for place, other in enumerate(second, start=1):
            before, row[place] = (
                row[place],
                (before + 1 if word == other else max(row[place], row[place - 1])),
            )
    return row[-1]


def answer_words(text: str, language: str = "en") -> list[str]:
    """Normalise an answer to the words that token F1 counts.

    Lower case, without punctuation, English also without "a", "an", "the"; Chinese by character.
    English as in SQuAD's script (Rajpurkar et al. 2016), Chinese as in MLQA's (Lewis et al. 2020).
    """
    text = text.lower()
    if _by_language({"en": False, "zh": True}, language):
        text = "".join(
            sign
            for sign in text
            if not unicodedata.category(sign).startswith("P") and sign not in string.punctuation
        )
        return re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", text)
    return re.sub(
        r"\b(a|an|the)\b", " ", "".join(sign for sign in text if sign not in string.punctuation)
    ).split()


def token_f1(prediction: str, reference: str, language: str = "en") -> float:
    """Compute token F1: the harmonic mean of word precision and recall of an answer, 0 to 1.

    Word order does not count. If either text has no words, the score is 1 only if both have none
    (SQuAD 2.0, Rajpurkar et al. 2018).
    """
    ours, theirs = answer_words(prediction, language), answer_words(reference, language)
    if not ours or not theirs:
        return float(ours == theirs)
    return _f_measure(sum((Counter(ours) & Counter(theirs)).values()), len(ours), len(theirs))


def _f_measure(common: int, first: int, second: int) -> float:
    return 2 * common / (first + second) if common else 0.0


def _by_language(choices: dict, language: str):
    if language not in choices:
        raise Qwen3labError(f"Unknown language {language!r}. Use one of: {', '.join(choices)}.")
    return choices[language]


def _pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not predictions:
        raise Qwen3labError(
            f"{len(predictions)} texts cannot be compared with {len(references)} references. Give"
            " one reference a text, at least one."
        )
