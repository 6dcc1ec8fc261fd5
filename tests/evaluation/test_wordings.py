"""Rewording leaves texts and names whole; the spread counts what a made-up model does."""

from __future__ import annotations

import pandas as pd
import pytest

from qwen3lab import evaluation, models
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring, statistics, wordings
from qwen3lab.results import records


def test_only_the_question_changes():
    for row in tasks.load("context", "test")[::40] + tasks.load("knowledge", "test")[::40]:
        text, mark, question = row["messages"][-1]["content"].rpartition(
            {"en": "\n\nQuestion: ", "zh": "\n\n问题："}[row["language"]]
        )
        assert bool(mark) == (row["task"] == "context")
        for name, change in wordings.WORDINGS[row["language"]].items():
            new = wordings.reword(row, change)
            assert (
                new["messages"][-1]["content"] == text + mark + change(question)
                and new["messages"][:-1] == row["messages"][:-1]
            )
            assert {key: value for key, value in new.items() if key != "messages"} == {
                key: value for key, value in row.items() if key != "messages"
            }
            assert (new == row) == (name == wordings.AS_WRITTEN)
            assert question.rstrip("?？。. ").lower() in change(question).lower()


ROWS = [
    {
        "id": f"q{i}",
        "task": "t",
        "language": language,
        "messages": [{"role": "user", "content": f"Thing {i}?"}],
        "answer": str(i),
        "thinking": False,
    }
    for i, language in enumerate(["en"] * 6 + ["zh"] * 4)
]


@pytest.fixture
def answers(monkeypatch):
    """A model that is right, except on 0 always, on 1 when the mark is missing, and on 2 (in other
    words) when greeted.
    """

    def fake(model, tokenizer, rows, **options):
        lines = []
        for row in rows:
            question = row["messages"][-1]["content"].lower()
            said = row["answer"]
            said = (
                "no"
                if "thing 0" in question or ("thing 1" in question and "?" not in question)
                else said
            )
            said = "two" if "thing 2" in question and "hello" in question else said
            lines.append(
                {
                    "id": row["id"],
                    "language": row["language"],
                    "prediction": said,
                    "correct": said == row["answer"],
                }
            )
        return pd.DataFrame(lines)

    monkeypatch.setattr(scoring, "evaluate_tasks", fake)
    return wordings.ask(None, None, ROWS)


def test_table(answers):
    table = wordings.table(answers)
    assert list(table.index) == [*wordings.WORDINGS["en"], "other mark"]
    assert table.loc["as written", ["n", "correct", "changed", "lost", "won", "p"]].tolist() == [
        10,
        9,
        0,
        0,
        0,
        1,
    ]
    assert (
        table.loc["no mark", ["n", "correct", "lost", "won"]].tolist() == [10, 8, 1, 0]
        and table.changed["no mark"] == 0.1
    )
    assert table.loc["lower case", ["n", "correct"]].tolist() == [6, 5] and table.loc[
        "other mark", ["n", "correct"]
    ].tolist() == [4, 4]
    assert (table.low["Hello!"], table.high["Hello!"]) == evaluation.wilson(8, 10) and table.p[
        "Hello!"
    ] == statistics.mcnemar(1, 0) == 1


def test_spread(answers):
    found = wordings.spread(answers)
    assert (found.questions, found.wordings) == (10, 9)
    assert (found.lowest, found.highest) == (
        0.8,
        0.9,
    )  # "other mark" has 4 of 4, but was asked of the last four alone
    assert found.mean == pytest.approx(
        (0 + 7 / 8 + 7 / 8 + 7) / 10
    )  # of questions, each over its eight wordings
    assert (found.changed, found.always, found.ever) == (0.2, 0.7, 0.9)
    assert (found.low, found.high) == statistics.bootstrap(
        [0, 7 / 8, 7 / 8, *[1.0] * 7]
    ) and found.low < found.mean < found.high
    assert str(found).startswith("9 wordings of 10 questions: accuracy 0.800 to 0.900, mean 0.875")


def test_a_real_model_depends_on_the_wording():
    model, tokenizer = models.load("chat")
    rows = tasks.load("context", "test")[:4]
    two = {
        language: {
            name: wordings.WORDINGS[language][name] for name in (wordings.AS_WRITTEN, "Thank you.")
        }
        for language in ("en", "zh")
    }
    answers = wordings.ask(model, tokenizer, rows, two, max_new_tokens=12)
    assert (
        len(answers) == 8
        and answers.wording.tolist() == [wordings.AS_WRITTEN] * 4 + ["Thank you."] * 4
    )
    plain = evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=12)
    assert answers.prediction[:4].tolist() == plain.prediction.tolist() and plain.correct.sum() >= 3


def test_mistakes_get_a_sentence():
    with pytest.raises(Qwen3labError, match="no wordings for the language 'fr'"):
        wordings.ask(None, None, [ROWS[0] | {"language": "fr"}])
    with pytest.raises(Qwen3labError, match="no rows"):
        wordings.ask(None, None, [])


def test_the_committed_record():
    """Every line of `data/benchmarks/wordings.json` follows from its counts."""
    record = records.read("wordings")
    assert {name: found["table"][0]["n"] for name, found in record["tasks"].items()} == {
        "knowledge": 235,
        "context": 500,
    }
    for found in record["tasks"].values():
        first = found["table"][0]["correct"]
        for line in found["table"]:
            assert (line["accuracy"], line["low"], line["high"]) == pytest.approx(
                (line["correct"] / line["n"], *evaluation.wilson(line["correct"], line["n"])),
                abs=1e-4,
            )
            assert line["p"] == pytest.approx(
                statistics.mcnemar(line["lost"], line["won"]), abs=1e-4
            )
            assert (
                line["n"] < found["table"][0]["n"]
                or line["correct"] == first - line["lost"] + line["won"]
            )
        spread = found["spread"]["all"]
        assert (
            spread["always"]
            <= spread["lowest"]
            <= spread["mean"]
            <= spread["highest"]
            <= spread["ever"]
            and spread["low"] < spread["mean"] < spread["high"]
        )
        assert spread["mean"] * found["table"][0]["n"] * 8 == pytest.approx(
            sum(line["correct"] for line in found["table"]), rel=1e-3
        )
