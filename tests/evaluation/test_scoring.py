"""Scores equal those computed by hand and by the libraries."""

from __future__ import annotations

import math

import pytest

from qwen3lab import chat, evaluation, models
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.statistics import bootstrap_groups
from qwen3lab.models import generation

ROWS = [
    {
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "answer": "4",
        "thinking": False,
        "task": "a",
        "language": "en",
    },
    {
        "messages": [{"role": "user", "content": "Name a colour, please."}],
        "answer": "a pale blue",
        "thinking": False,
        "task": "b",
        "language": "en",
    },
    {
        "messages": [{"role": "user", "content": "1 + 1"}],
        "answer": "2",
        "thinking": True,
        "thoughts": "1 and 1 make 2.",
        "task": "a",
        "language": "zh",
    },
]


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ("8 euros", "8 Euros.", True),
        ("８ euros", "8  euros\n", True),
        ("“Tomor Lasfel”", "Tomor Lasfel", True),
        ("灰色。", "灰色", True),
        ("8 euros", "8", False),
        ("1.5 kilograms", "15 kilograms", False),
        ("-3", "3", False),
        ("", "8", False),
        ("9:30", "9：30", True),
    ],
)
def test_exact_match(one, other, equal):
    assert evaluation.exact_match(one, other) is equal


def test_refusal_is_the_sentence_alone():
    assert evaluation.is_refusal("The text does not say.") and evaluation.is_refusal("文中没有提到")
    assert not evaluation.is_refusal("The text does not say. Perhaps 8 euros.")
    assert not evaluation.is_refusal("")


@pytest.mark.parametrize(
    "k, n, low, high",
    [  # statsmodels 0.14, proportion_confint(k, n, method="wilson")
        (0, 10, 0.0, 0.2775327998628892),
        (10, 10, 0.7224672001371106, 1.0),
        (90, 100, 0.8256343384950865, 0.9447708629393249),
        (1, 2, 0.0945312057343, 0.9054687942657),
    ],
)
def test_wilson(k, n, low, high):
    assert evaluation.wilson(k, n) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("k, n", [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(Qwen3labError, match="no share"):
        evaluation.wilson(k, n)


def test_wilson_covers_the_true_share():
    """The 95 % interval holds the true share in about 95 % of experiments, and the textbook one
    does not near 1.
    """
    n, share = 40, 0.97
    chance = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]

    def covered(interval):
        return sum(p for k, p in enumerate(chance) if interval(k)[0] <= share <= interval(k)[1])

    def textbook(k):
        half = 1.96 * math.sqrt(k / n * (1 - k / n) / n)
        return k / n - half, k / n + half

    assert covered(lambda k: evaluation.wilson(k, n)) > 0.93
    assert covered(textbook) < 0.75


@pytest.fixture(scope="module")
def loaded(checkpoint):
    from qwen3lab import models

    return models.load(checkpoint)


def test_perplexity_equals_the_trainers_loss(loaded):
    """One row at a time through transformers' own loss, weighted by tokens, is the same number as
    the padded batches.
    """
    import torch

    from qwen3lab import chat

    model, tokenizer = loaded
    total = count = 0
    for row in ROWS:
        answer = {
            "role": "assistant",
            "content": row["answer"],
            **({"reasoning_content": row["thoughts"]} if row["thinking"] else {}),
        }
        example = chat.example(tokenizer, [*row["messages"], answer], thinking=row["thinking"])
        n = sum(label != -100 for label in example["labels"])
        with torch.no_grad():
            loss = model(
                input_ids=torch.tensor([example["input_ids"]]),
                labels=torch.tensor([example["labels"]]),
            ).loss.item()
        total, count = total + loss * n, count + n
    for size in (1, 2, 16):
        assert evaluation.perplexity(model, tokenizer, ROWS, batch_size=size) == pytest.approx(
            math.exp(total / count), rel=1e-5
        )
    assert evaluation.negative_log_likelihood(model, tokenizer, ROWS)[1] == count


def test_perplexity_counts_the_answer_only(loaded):
    model, tokenizer = loaded
    whole = [{"messages": [*ROWS[0]["messages"], {"role": "assistant", "content": "4"}]}]
    assert evaluation.perplexity(model, tokenizer, whole) == pytest.approx(
        evaluation.perplexity(model, tokenizer, ROWS[:1])
    )
    assert evaluation.negative_log_likelihood(model, tokenizer, whole)[1] == 2  # "4" and <|im_end|>


def test_evaluate_tasks_scores_and_keeps_the_order(loaded, monkeypatch):
    from qwen3lab.models import generation

    model, tokenizer = loaded
    said = {
        "What is 2 + 2?": "4.",
        "Name a colour, please.": "The text does not say.",
        "1 + 1": "<think>\n1 and 1\n</think>\n\n2",
    }

    def fake(model, tokenizer, prompts, **options):
        texts = [tokenizer.decode(prompt) for prompt in prompts]
        return [
            tokenizer(next(a for q, a in said.items() if q in text)).input_ids for text in texts
        ]

    monkeypatch.setattr(generation, "generate_ids", fake)
    answers = evaluation.evaluate_tasks(model, tokenizer, ROWS)
    assert answers.correct.tolist() == [True, False, True]
    assert answers.refused.tolist() == [False, True, False]
    assert answers.prediction.tolist() == ["4.", "The text does not say.", "2"]
    table = evaluation.summary(answers)
    assert table.loc["a", ["n", "correct"]].tolist() == [2, 2] and table.loc["b", "accuracy"] == 0
    assert table.loc["a", "low"] == pytest.approx(evaluation.wilson(2, 2)[0])
    assert evaluation.summary(answers, None).n.tolist() == [3]
    assert evaluation.summary(answers, ["task", "language"]).loc[("a", "zh"), "n"] == 1
    line = evaluation.summary(answers.assign(fact=["x", "x", "y"]), None, unit="fact").loc["all"]
    assert line[["n", "correct", "units"]].tolist() == [3, 2, 2]
    assert (line.low, line.high) == bootstrap_groups([1, 0, 1], ["x", "x", "y"]) == (0.5, 1.0)


def test_no_rows(loaded):
    for function in (evaluation.evaluate_tasks, evaluation.perplexity):
        with pytest.raises(Qwen3labError, match="no rows"):
            function(*loaded, [])


ENGLISH = (
    ["We will send a new lamp today.", "Your order is on its way."],
    ["We will send you a new lamp today.", "Your order is on its way."],
)
CHINESE = (
    ["我会为您办理退款手续。", "灯的价格是八十欧元。"],
    ["我会为您办理退款。", "这盏灯的价格是八十欧元。"],
)


def test_metrics_equal_the_libraries():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    from qwen3lab.evaluation import metrics

    scores = metrics.suite("en").compute(predictions=ENGLISH[0], references=ENGLISH[1])
    assert scores["exact_match"] == 0.5 and scores["n"] == 2
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(ENGLISH[0], [ENGLISH[1]]).score)
    own = RougeScorer(["rougeL"])
    assert scores["rouge_l"] == pytest.approx(
        sum(own.score(r, p)["rougeL"].fmeasure for p, r in zip(*ENGLISH)) / 2
    )


def test_chinese_needs_its_own_tokenizer():
    from qwen3lab.evaluation import metrics

    right = metrics.suite("zh").compute(predictions=CHINESE[0], references=CHINESE[1])
    wrong = metrics.suite("en").compute(predictions=CHINESE[0], references=CHINESE[1])
    assert right["bleu"] > 60 and wrong["bleu"] < 1
    assert right["rouge_l"] > 0.85 and wrong["rouge_l"] == 0
    # By hand for the first pair: 8 of the reference's 8 characters, in order, among the
    # prediction's 10.
    one = metrics.RougeL("zh").compute(predictions=CHINESE[0][:1], references=CHINESE[1][:1])[
        "rouge_l"
    ]
    assert one == pytest.approx(2 * (8 / 10) * 1 / (8 / 10 + 1))


def test_unknown_language():
    from qwen3lab.evaluation import metrics

    with pytest.raises(Qwen3labError, match="en, zh"):
        metrics.Bleu("fr")


def test_read_answers_equals_the_perplexity_and_greedy_writing():
    model, tokenizer = models.load("moe")
    rows = (
        tasks.load("context", "test")[:5]
        + [row for row in tasks.load("addition", "test") if not row["thinking"]][:5]
    )
    rows = [row | {"thinking": False} for row in rows]
    examples = [chat.example(tokenizer, tasks.conversation(row)) for row in rows]
    table = evaluation.read_answers(model, examples, batch_size=4)
    total, count = evaluation.negative_log_likelihood(model, tokenizer, rows)
    assert table.tokens.sum() == count and table.nll.sum() == pytest.approx(total, abs=1e-4)
    written = generation.generate_ids(
        model, tokenizer, [chat.encode(tokenizer, row["messages"]) for row in rows]
    )
    wanted = [
        [label for label in example["labels"] if label != chat.IGNORED][:-1] for example in examples
    ]
    assert (
        table.right.tolist() == [a == b for a, b in zip(written, wanted)]
        and 0 < table.right.sum() < 10
    )
    with pytest.raises(Qwen3labError, match="no examples"):
        evaluation.read_answers(model, [])
