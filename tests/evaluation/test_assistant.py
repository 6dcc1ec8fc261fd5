"""The maths and code assistant: how answers are scored, the mixture, and the committed
measurement."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from qwen3lab import chat, evaluation, models, paths
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import assistant, scoring

MEASURED = paths.DATA / "benchmarks" / "assistant.json"
ROW = {
    "id": "c",
    "task": "code",
    "language": "en",
    "messages": [
        {"role": "user", "content": "Write a Python function half(x) that returns x divided by 2."}
    ],
    "answer": "def half(x): return x / 2",
    "thinking": False,
    "tests": ["assert half(8) == 4", "assert half(3) == 1.5", "assert half(0) == 0"],
}


def test_every_validation_reference_passes_and_a_changed_one_does_not():
    for row in tasks.load("code", "validation"):
        assert assistant.passes(row, row["answer"]).passed, row["id"]
    for row in tasks.load("code", "validation")[:10]:
        result = assistant.passes(row, row["answer"].replace("return ", "return [] or not "))
        assert result.status in ("failed", "error"), row["id"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f(x): return x", "def f(x): return x"),
        (
            "Here it is:\n```python\ndef f(x): return x\n```\nand\n```\nno\n```",
            "def f(x): return x\n",
        ),
        ("```\ndef f(x): return x\n```", "def f(x): return x\n"),
        ("```py\ndef f(x): return x", "def f(x): return x"),
    ],
)
def test_the_code_of_an_answer(answer, code):
    assert assistant.code_of(answer) == code


HALF = "def half(x): return x / 2"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (f"So:\r\n\r\n```Python\r\n{HALF}\r\n```\r\nIt prints:\r\n```\r\n4\r\n```", "passed"),
        (f"```python\nprint(half(8))\n```\nwith\n~~~py\n{HALF}\n~~~", "passed"),
        (f"<think>\n```python\n{HALF} + 1\n```\n</think>\n\n```python\n{HALF}\n```", "passed"),
        (f"```python\n{HALF}\nimport sys\nsys.exit(0)\n```", "error"),
        ("```python\nimport os\nprint('passed')\nos._exit(0)\n```", "error"),
        ("```python\ndef half(x):\n    import sys\n    sys.exit(0)\n```", "error"),
        (f"```python\n{HALF} + 1\n```\nor\n```python\n{HALF}\n```", "failed"),
        ("passed", "error"),
    ],
)  # fmt: skip
def test_an_answer_passes_by_its_program_alone(answer, status):
    assert assistant.passes(ROW, answer).status == status


def test_answers_are_right_when_their_tests_pass(monkeypatch):
    said = [
        "def half(x): return x / 2",
        "def half(x):\n    return 0.5 * x",
        "def half(x): return x // 2",
        "half",
        "7",
    ]
    rows = [
        *[ROW] * 4,
        {
            "id": "w",
            "task": "word-problem",
            "answer": "7",
            "messages": ROW["messages"],
            "thinking": True,
        },
    ]
    monkeypatch.setattr(
        scoring,
        "evaluate_tasks",
        lambda model, tokenizer, rows, max_new_tokens: pd.DataFrame(
            {
                "prediction": said,
                "correct": [evaluation.exact_match(a, row["answer"]) for a, row in zip(said, rows)],
                "asked": max_new_tokens,
            }
        ),
    )
    found = assistant.evaluate(None, None, rows)
    assert found.correct.tolist() == [True, True, False, False, True]
    assert found.exact.tolist() == [True, False, False, False, True]
    assert found.status.tolist() == ["passed", "passed", "failed", "error", ""]
    assert found.message[2] == "half(3) gives 1, not 1.5" and found.asked[0] == 64
    assert assistant.examine(None, None, {"both": rows}) == {"both": [1, 1, 0, 0, 1]}


def test_the_longest_right_answers_fit():
    tokenizer = models.load_tokenizer("qwen3-tiny")
    for task, longest in assistant.LONGEST.items():
        rows = [row for row in tasks.load(task, "test") if row.get("digits", 3) == 3]
        wanted = [
            chat.example(tokenizer, tasks.conversation(row), thinking=row["thinking"])["labels"]
            for row in rows
        ]
        assert (
            max(sum(label != chat.IGNORED for label in labels) for labels in wanted)
            <= longest / 1.4
        ), task


def test_the_model_before_training_fails_and_scores_as_counted():
    model, tokenizer = models.load("qwen3-tiny")
    rows = (
        tasks.load("code", "validation")[:3]
        + [row for row in tasks.load("addition", "test") if row["digits"] == 2][:3]
    )
    assert assistant.evaluate(model, tokenizer, rows).correct.tolist() == [False] * 3 + [True] * 3


def test_the_mixture_has_every_row_once():
    problems, code = tasks.load("word-problem", "train"), tasks.load("code", "train")
    rows = assistant.mixture(problems, code, seed=1)
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in problems + code)
    assert (
        rows
        == assistant.mixture(problems, code, seed=1)
        != assistant.mixture(problems, code, seed=2)
    )
    assert (
        250 < sum(row["task"] == "code" for row in rows[: len(rows) // 2]) * 2 < 350
    )  # both kinds all along
    assert all(row["thinking"] == (row["task"] == "word-problem") for row in rows)


def test_summary_puts_seeds_together():
    table = assistant.summary([{"a": [1, 0, 1, 1]}, {"a": [0, 0, 1, 0]}])
    low, high = evaluation.wilson(4, 8)
    assert table.loc["a"].to_dict() == {
        "n": 8,
        "correct": 4,
        "accuracy": 0.5,
        "low": low,
        "high": high,
        "lowest": 1,
        "highest": 3,
    }


def test_mistakes_get_a_sentence():
    with pytest.raises(Qwen3labError, match="'w' has no tests"):
        assistant.passes({"id": "w", "answer": "7"}, "7")
    with pytest.raises(Qwen3labError, match="needs word problems and functions"):
        assistant.mixture([], [ROW])
    with pytest.raises(Qwen3labError, match="no runs"):
        assistant.summary([])
    with pytest.raises(Qwen3labError, match="no rows"):
        assistant.evaluate(None, None, [])


def test_the_exam():
    exam = assistant.exam("test", old=60)
    assert {part: len(rows) for part, rows in exam.items()} == {
        "word problems": 200,
        "functions": 200,
        "sums": 60,
    }
    assert {row["digits"] for row in exam["sums"]} == {3}
    trained = {
        row["id"]
        for row in assistant.mixture(
            tasks.load("word-problem", "train"), tasks.load("code", "train")
        )
    }
    assert not trained & {row["id"] for rows in exam.values() for row in rows}


def test_the_measurement_adds_up():
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    exam = assistant.exam("test", found["n"]["sums"])
    assert found["n"] == {part: len(rows) for part, rows in exam.items()}
    assert found["recipe"]["rows"]["code"] == 300 and len(found["runs"]) == 3
    assert {run["steps"] for run in found["runs"]} == {found["recipe"]["steps"]}
    for when, seeds in (("before", 1), ("after", 3)):
        for line in found[when].values():
            low, high = evaluation.wilson(line["correct"], line["n"])
            assert [line["accuracy"], line["low"], line["high"]] == pytest.approx(
                [line["correct"] / line["n"], low, high], abs=1e-4
            )
            assert seeds * line["lowest"] <= line["correct"] <= seeds * line["highest"]
        for part, n in found["n"].items():
            assert found[when][part]["n"] == seeds * n
        split = [found[when][f"functions, combination {which}"] for which in ("trained", "new")]
        assert sum(line["correct"] for line in split) == found[when]["functions"]["correct"]
        assert [line["n"] for line in split] == [
            seeds * sum(row["unseen"] == new for row in exam["functions"]) for new in (False, True)
        ]
    for part in found["n"]:
        counts = [run[part] for run in found["runs"]]
        assert (sum(counts), min(counts), max(counts)) == tuple(
            found["after"][part][key] for key in ("correct", "lowest", "highest")
        )
    tried = found["ways on validation"][1:]
    best = max(tried, key=lambda way: way["word problems"] + way["functions"])
    assert [best["method"], best["rate"], best["problems"]] == [
        found["recipe"]["method"],
        found["recipe"]["learning_rate"],
        found["recipe"]["rows"]["word-problem"],
    ]


def test_the_measurement_says_what_the_notebook_says():
    """Functions were learned, new combinations less well; word problems hardly moved; a part of the
    sums was forgotten.
    """
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    before, after = found["before"], found["after"]
    assert before["functions"]["correct"] == 0 and after["functions"]["low"] > 0.7
    assert before["functions, combination new"]["high"] < after["functions, combination new"]["low"]
    assert (
        after["functions, combination new"]["high"] < after["functions, combination trained"]["low"]
    )
    assert (
        after["word problems"]["low"] < before["word problems"]["high"]
        and before["word problems"]["low"] < after["word problems"]["high"]
    )
    assert after["sums"]["high"] < before["sums"]["low"]
    with_sums = [sum(way[part] for part in found["n"]) for way in found["ways on validation"][1:]]
    assert (
        found["ways on validation"][1:][with_sums.index(max(with_sums))]["problems"]
        != found["recipe"]["rows"]["word-problem"]
    )
