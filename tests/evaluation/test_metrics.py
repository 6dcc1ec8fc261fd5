"""F1 and pass@k as metrics of `evaluate`: offline, alone and together; thoughts are not scored."""

from __future__ import annotations

import socket

import evaluate
import pytest

from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import metrics, statistics
from qwen3lab.from_scratch import text_metrics

TESTS = ["assert half(8) == 4", "assert half(10) == 5"]
RIGHT, WRONG, LOOPS = (
    "def half(x): return x // 2",
    "def half(x): return x - 4",
    "def half(x):\n    while True: pass",
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a metric reached for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("language", "written", "wanted"),
    [
        ("en", ["The fee is 8 euros.", "Tomor", "no"], ["8 euros", "Tomor Lasfel", "yes"]),
        ("zh", ["费用是8欧元。", "灰"], ["8欧元", "灰色"]),
    ],
)
def test_f1_is_the_mean_of_the_pairs(language, written, wanted):
    by_hand = [text_metrics.token_f1(one, other, language) for one, other in zip(written, wanted)]
    assert metrics.TokenF1(language).compute(predictions=written, references=wanted)[
        "f1"
    ] == pytest.approx(sum(by_hand) / len(by_hand))
    assert 0.3 < sum(by_hand) / len(by_hand) < 0.8


def test_f1_beside_others_and_in_batches():
    written, wanted = ["The fee is 8 euros.", "8 euros"], ["8 euros", "8 euros"]
    whole = evaluate.combine([metrics.ExactMatch(), metrics.TokenF1()]).compute(
        predictions=written, references=wanted
    )
    assert whole == {"exact_match": 0.5, "n": 2, "f1": pytest.approx((2 / 3 + 1) / 2)}
    metric = metrics.TokenF1()
    for one, other in zip(written, wanted):
        metric.add(prediction=one, reference=other)
    assert (
        metric.compute()["f1"]
        == whole["f1"]
        == metrics.suite("en").compute(predictions=written, references=wanted)["f1"]
    )


def test_pass_at_k_over_two_problems():
    other = ["assert twice(3) == 6"]
    written = [
        RIGHT,
        WRONG,
        RIGHT,
        WRONG,
        "def twice(x): return 2 * x",
        "def twice(x): return x",
        "nonsense",
        "def twice(x) return",
    ]
    problems = [TESTS] * 4 + [other] * 4
    found = metrics.PassAtK(k=(1, 2, 4)).compute(predictions=written, tests=problems)
    for k in (1, 2, 4):
        assert found[f"pass@{k}"] == pytest.approx(
            (statistics.pass_at_k(4, 2, k) + statistics.pass_at_k(4, 1, k)) / 2
        )
    assert (
        found["pass@1"] == pytest.approx(3 / 8)
        and found["pass@4"] == 1
        and (found["problems"], found["tries"]) == (2, 8)
    )
    with pytest.raises(Qwen3labError, match="pass@5 cannot be estimated"):
        metrics.PassAtK(k=5).compute(predictions=written, tests=problems)


def test_pass_at_k_is_limited_and_reads_fences():
    found = metrics.PassAtK(seconds=0.2).compute(
        predictions=[LOOPS, f"Here:\n```python\n{RIGHT}\n```"], tests=[TESTS, TESTS]
    )
    assert found["pass@1"] == 0.5


def test_pass_at_k_beside_exact_match():
    """Rows of the course: two references that pass, then one answer written in another way and one
    that is wrong.
    """
    rows = tasks.load("code", "test")[:4]
    written = [rows[0]["answer"], rows[1]["answer"], rows[2]["answer"] + "\n# done", WRONG]
    arguments = {
        "predictions": written,
        "references": [row["answer"] for row in rows],
        "tests": [row["tests"] for row in rows],
    }
    both = evaluate.combine([metrics.ExactMatch(), metrics.Bleu(), metrics.PassAtK()])
    found = both.compute(**arguments)
    assert (found["exact_match"], found["pass@1"], found["problems"]) == (
        0.5,
        0.75,
        4,
    ) and 0 < found["bleu"] < 100
    both.add_batch(**arguments)
    assert both.compute() == found


@pytest.mark.parametrize(
    "text",
    ["<think>\n4 or 5?\n</think>\n\n8 euros", "4 or 5?</think>8 euros", "<think></think>8 euros"],
)
def test_thoughts_are_not_scored(text):
    for name, best in (("exact_match", 1), ("f1", 1), ("rouge_l", 1)):
        assert metrics.suite("en").compute(predictions=[text], references=["8 euros"])[name] == best
    assert (
        metrics.PassAtK().compute(
            predictions=[f"<think>\ndef half(x): return 0\n</think>\n\n{RIGHT}"], tests=[TESTS]
        )["pass@1"]
        == 1
    )


def test_a_thought_that_never_ends_is_no_answer():
    cut = ["<think>\nIt costs 8 euros"]
    found = metrics.suite("en").compute(predictions=cut, references=["It costs 8 euros"])
    assert (found["exact_match"], found["f1"], found["bleu"], found["rouge_l"]) == (0, 0, 0, 0)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="tokenise"):
        metrics.Bleu().compute(predictions=["a"], references=["a"], tokenise="zh")
