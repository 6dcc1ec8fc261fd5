"""The exam on held-out rows and old skills."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from planted import conversations

from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import evaluate_tasks, scoring, statistics
from qwen3lab.models import loading
from qwen3lab.tuning import questions


@pytest.fixture(scope="module")
def tiny():
    return loading.load("qwen3-tiny")


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("8 euros", "short"),
        ("one two three four five six seven eight nine ten eleven twelve", "short"),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", "text"),
        ("a\nb", "text"),
        ("这是十二个汉字的一个答案句", "text"),
        ("灰色", "short"),
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "call"),
        ("", "short"),
    ],
)
def test_kind_of_a_reference(reference, wanted):
    assert questions.kind(reference) == wanted


def test_old_skills_are_the_first_rows_of_test_splits():
    rows = questions.old_skills()
    assert {t: sum(r["id"].startswith(f"{t}.test") for r in rows) for t in questions.OLD} == (
        questions.OLD
    )
    assert all(row["digits"] == 3 and row["thinking"] for row in rows if row["task"] == "addition")


def test_examine_equals_the_libraries_parts(tiny):
    rows = tasks.load("context", "test")[:6] + tasks.load("addition", "test")[:2]
    found = questions.examine(*tiny, rows)
    answers = evaluate_tasks(*tiny, rows)
    assert found.prediction.tolist() == answers.prediction.tolist()
    assert found.score.tolist() == answers.correct.astype(float).tolist()
    total, tokens = scoring.negative_log_likelihood(*tiny, rows)
    assert found.nll.sum() == pytest.approx(total) and found.tokens.sum() == tokens
    assert found.stopped.all()


def test_only_the_first_are_answered_and_the_limit_counts(tiny):
    rows = conversations("context", "validation", 4)
    found = questions.examine(*tiny, rows, answered=2)
    assert found.score.notna().tolist() == [True, True, False, False]
    assert len(found.nll) == 4
    short = questions.examine(*tiny, rows, answered=2, max_new_tokens=1)
    assert not short.stopped[:2].any()
    assert "score" not in questions.examine(*tiny, rows, answered=0)
    with pytest.raises(Qwen3labError, match="no rows to examine"):
        questions.examine(*tiny, [])


def test_scores_by_kind():
    call = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    other = call.replace("1", "2")
    assert questions.score("call", call, call) == 1 and questions.score("call", other, call) == 0
    assert questions.score("short", "8 Euros.", "8 euros") == 1
    # ROUGE-L by hand: 2 of 3 words in common in order, both ways.
    assert questions.score("text", "a b x", "a b c") == pytest.approx(2 / 3)
    assert questions.score("text", "灰色的", "灰色", "zh") == pytest.approx(0.8)


def frame(scores, kind="short", nll=None):
    n = len(scores)
    return pd.DataFrame(
        {
            "id": [str(i) for i in range(n)],
            "kind": kind,
            "tokens": 2,
            "nll": nll or [1.0] * n,
            "score": scores,
        }
    )


def test_comparison_is_paired_and_by_question():
    first = frame([0, 0, 1, 0, 0, 1, 0, 0], nll=[4.0] * 8)
    second = frame([1, 1, 1, 0, 1, 0, 1, 1], nll=[1.0, 2, 1, 3, 1, 2, 1, 1])
    loss, exact = questions.compare(first, second, "x: ")
    assert (loss.name, exact.name, exact.n) == ("x: loss a token", "x: exact match", 8)
    assert (exact.before, exact.after, exact.difference) == (0.25, 0.75, 0.5)
    assert exact.before_interval == statistics.wilson(2, 8)
    assert exact.interval == statistics.bootstrap(first.score, second.score)
    assert loss.difference == pytest.approx(12 / 16 - 2) and math.isclose(loss.before, 2)
    assert exact.cells()[:2] == ["x: exact match", "8"]
    assert exact.cells()[2] == "0.250 ({:.3f} to {:.3f})".format(*statistics.wilson(2, 8))
    with pytest.raises(Qwen3labError, match="other rows"):
        questions.compare(first, second[:4])
