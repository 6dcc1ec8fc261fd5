"""Exact match, BLEU-4 and ROUGE-L as metrics of the `evaluate` library, without the hub.

`evaluate.load("bleu")` downloads a script; these classes are here, wrap sacrebleu and rouge-score, know English from
Chinese, and go into `evaluate.combine` like any other.
"""

from __future__ import annotations

import re
from typing import Any

from qwen3lab import evaluation
from qwen3lab.errors import Qwen3labError
from qwen3lab.quiet import quiet

quiet()  # before `evaluate` imports half of the environment

import datasets  # noqa: E402
import evaluate  # noqa: E402

LANGUAGES = ("en", "zh")


class _TextMetric(evaluate.Metric):
    """A metric over predictions and references that are one text each."""

    title = citation = ""
    identity = "text"

    def __init__(self, language: str = "en", **options: Any):
        """`language` ("en" or "zh") says how a text is cut into words: Chinese has no spaces to cut at."""
        if language not in LANGUAGES:
            raise Qwen3labError(f"Unknown language {language!r}. Use one of: {', '.join(LANGUAGES)}.")
        # In memory: the library would else leave files and locks in the user's home.
        super().__init__(config_name=language, keep_in_memory=True, **options)

    @property
    def name(self) -> str:
        """The name that `evaluate.combine` puts before a score that two metrics share."""
        return self.identity

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.title, citation=self.citation, inputs_description="Lists of texts of equal length.",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}))


class ExactMatch(_TextMetric):
    """The share of answers that equal their reference after `evaluation.normalize`, with n."""

    title = "Exact match after normalisation, 0 to 1."
    identity = "exact_match"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        hits = [evaluation.exact_match(p, r) for p, r in zip(predictions, references)]
        return {"exact_match": sum(hits) / len(hits), "n": len(hits)}


class Bleu(_TextMetric):
    """BLEU-4 of the corpus, 0 to 100: sacrebleu with the tokenizer of the language ("13a" or "zh")."""

    title = "Corpus BLEU-4 (sacrebleu), 0 to 100."
    citation = "Papineni et al. 2002, BLEU; Post 2018, A Call for Clarity in Reporting BLEU Scores"
    identity = "bleu"

    def _compute(self, predictions: list[str], references: list[str], tokenize: str | None = None) -> dict[str, float]:
        import sacrebleu

        tokenize = tokenize or {"en": "13a", "zh": "zh"}[self.config_name]
        return {"bleu": sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenize).score}


class RougeL(_TextMetric):
    """ROUGE-L, 0 to 1: the mean F-measure of the longest common subsequence of each pair (rouge-score)."""

    title = "Mean ROUGE-L F-measure (rouge-score), 0 to 1."
    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"
    identity = "rouge_l"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], tokenizer=Characters() if self.config_name == "zh" else None)
        return {"rouge_l": sum(scorer.score(r, p)["rougeL"].fmeasure for p, r in zip(predictions, references)) / len(references)}


class Characters:
    """A tokenizer for rouge-score: every Chinese character is a word, and so is a run of Latin letters or digits."""

    _word = re.compile(r"[a-z0-9]+|[\u3400-\u4dbf\u4e00-\u9fff]")

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text; punctuation is dropped, as rouge-score's own tokenizer does."""
        return self._word.findall(text.lower())


def suite(language: str = "en"):
    """Exact match, BLEU-4 and ROUGE-L as one metric: `suite("zh").compute(predictions=..., references=...)`."""
    return evaluate.combine([ExactMatch(language), Bleu(language), RougeL(language)])
