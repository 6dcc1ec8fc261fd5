"""Wrap exact match, token F1, BLEU-4, ROUGE-L and pass@k as offline metrics of `evaluate`.

`evaluate.load("bleu")` downloads a script from the hub; these classes are local, wrap sacrebleu and
rouge-score, distinguish English from Chinese, and go into `evaluate.combine` like any other.
Thoughts are not part of an answer: a think block, even a truncated one, is removed before a text is
scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring
from qwen3lab.from_scratch import text_metrics
from qwen3lab.quiet import quiet

quiet()  # before `evaluate` imports half of the environment

import datasets  # noqa: E402
import evaluate  # noqa: E402

LANGUAGES = ("en", "zh")


class _Metric(evaluate.Metric):
    """The base of all metrics: in memory, and with a name of its own in `evaluate.combine`."""

    title = citation = ""
    identity = "text"

    def __init__(self, config_name: str, **options: Any):
        # In memory: otherwise the library leaves files and locks in the user's home.
        super().__init__(config_name=config_name, keep_in_memory=True, **options)

    @property
    def name(self) -> str:
        """Return the prefix that `evaluate.combine` gives to a score that two metrics share."""
        return self.identity


class _TextMetric(_Metric):
    """A metric over predictions and references that are one text each."""

    def __init__(self, language: str = "en", **options: Any):
        """Choose the word segmentation by `language` ("en" or "zh"): Chinese has no spaces."""
        if language not in LANGUAGES:
            raise Qwen3labError(
                f"Unknown language {language!r}. Use one of: {', '.join(LANGUAGES)}."
            )
        super().__init__(language, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.title,
            citation=self.citation,
            inputs_description="Lists of texts of equal length.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], tests: Any = None, **options: Any
    ) -> dict[str, float]:
        """Score texts; `tests` are for a `PassAtK` in the same `evaluate.combine`."""
        return self._score(
            [chat.split_thinking(text)[1] for text in predictions], references, **options
        )


class ExactMatch(_TextMetric):
    """Exact match: the share of answers equal to their normalised reference, with n.

    Both go through `evaluation.normalize`.
    """

    title = "Exact match after normalisation, 0 to 1."
    identity = "exact_match"

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        hits = [scoring.exact_match(p, r) for p, r in zip(predictions, references)]
        return {"exact_match": sum(hits) / len(hits), "n": len(hits)}


class TokenF1(_TextMetric):
    """Token F1 as in SQuAD, 0 to 1: the mean of `text_metrics.token_f1` over the pairs.

    It scores the words that answer and reference have in common.
    """

    title = "Mean token F1 (SQuAD for English, MLQA for Chinese), 0 to 1."
    citation = "Rajpurkar et al. 2016, SQuAD; Lewis et al. 2020, MLQA"
    identity = "f1"

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {
            "f1": (
                sum(
                    text_metrics.token_f1(p, r, self.config_name)
                    for p, r in zip(predictions, references)
                )
                / len(references)
            )
        }


class Bleu(_TextMetric):
    """Corpus BLEU-4, 0 to 100: sacrebleu with the tokenizer of the language ("13a" or "zh")."""

    title = "Corpus BLEU-4 (sacrebleu), 0 to 100."
    citation = "Papineni et al. 2002, BLEU; Post 2018, A Call for Clarity in Reporting BLEU Scores"
    identity = "bleu"

    def _score(
        self, predictions: list[str], references: list[str], tokenize: str | None = None
    ) -> dict[str, float]:
        import sacrebleu

        tokenize = tokenize or {"en": "13a", "zh": "zh"}[self.config_name]
        return {"bleu": sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenize).score}


class RougeL(_TextMetric):
    """ROUGE-L, 0 to 1: the mean F-measure of the longest common subsequence (rouge-score)."""

    title = "Mean ROUGE-L F-measure (rouge-score), 0 to 1."
    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"
    identity = "rouge_l"

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(
            ["rougeL"], tokenizer=Characters() if self.config_name == "zh" else None
        )
        return {
            "rouge_l": (
                sum(scorer.score(r, p)["rougeL"].fmeasure for p, r in zip(predictions, references))
                / len(references)
            )
        }


class Characters:
    """A Chinese tokenizer for rouge-score.

    Every Chinese character is a word, and so is a run of Latin letters or digits.
    """

    def tokenize(self, text: str) -> list[str]:
        """Tokenize a text; punctuation is dropped, as rouge-score's own tokenizer does."""
        return text_metrics.cut_rouge_zh(text)


class PassAtK(_Metric):
    """pass@k, 0 to 1: the chance that at least one of k programs passes its tests.

    The mean over problems. One row per try: "predictions" is the text of an answer, "tests" its
    `assert` lines; rows with the same tests are tries at one problem. Each answer runs in
    `sandbox.run`, equal ones once. Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code", equation 1 (`statistics.pass_at_k`). As a part of `evaluate.combine` it takes the tests
    beside predictions and references.
    """

    title = "Mean pass@k over problems, 0 to 1."
    citation = "Chen et al. 2021, Evaluating Large Language Models Trained on Code"
    identity = "pass_at_k"

    def __init__(
        self,
        k: int | Sequence[int] = 1,
        *,
        seconds: float = 2.0,
        megabytes: int = 256,
        **options: Any,
    ):
        """Set `k`, one or more values, and the limits of `sandbox.run`.

        Every problem needs at least `k` tries. `seconds` and `megabytes` are the limits.
        """
        self.k = [k] if isinstance(k, int) else list(k)
        self.limits = {"seconds": seconds, "megabytes": megabytes}
        super().__init__("default", **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.title,
            citation=self.citation,
            inputs_description="A program and its lines of tests for each try.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "tests": datasets.List(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[str], tests: list[list[str]]) -> dict[str, float]:
        from qwen3lab.evaluation import answered_code, sandbox
        from qwen3lab.evaluation.statistics import pass_at_k

        known: dict[tuple[str, ...], bool] = {}
        tries: dict[tuple[str, ...], list[bool]] = {}
        for text, lines in zip(predictions, tests):
            code, problem = answered_code.code_of(text, lines), tuple(lines)
            if (code, *problem) not in known:
                known[code, *problem] = sandbox.run(code, problem, **self.limits).passed
            tries.setdefault(problem, []).append(known[code, *problem])
        scores = {
            f"pass@{k}": (
                sum(pass_at_k(len(passed), sum(passed), k) for passed in tries.values())
                / len(tries)
            )
            for k in self.k
        }
        return scores | {"problems": len(tries), "tries": len(predictions)}


def suite(language: str = "en"):
    """Combine exact match, token F1, BLEU-4 and ROUGE-L into one metric.

    Use: `suite("zh").compute(predictions=..., references=...)`.
    """
    return evaluate.combine(
        [ExactMatch(language), TokenF1(language), Bleu(language), RougeL(language)]
    )
