"""Measure robustness to prompt wording: ask the same questions in wordings that mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring, statistics

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Row = dict[str, Any]


AS_WRITTEN = "as written"
# Name -> change of the question, by language. All of them keep the meaning and the names.
WORDINGS: dict[str, dict[str, Callable[[str], str]]] = {
    "en": {
        AS_WRITTEN: lambda q: q,
        "Please answer:": lambda q: f"Please answer: {q}",
        "Hello!": lambda q: f"Hello! {q}",
        "polite": lambda q: f"Could you help me with a question? {q}",
        "Thank you.": lambda q: f"{q} Thank you.",
        "no mark": lambda q: q.rstrip("?. "),
        "spaces": lambda q: f"{q}  ",
        "lower case": str.lower,
    },
    "zh": {
        AS_WRITTEN: lambda q: q,
        "Please answer:": lambda q: f"请回答：{q}",
        "Hello!": lambda q: f"你好！{q}",
        "polite": lambda q: f"麻烦您，我想问一下：{q}",
        "Thank you.": lambda q: f"{q}谢谢。",
        "no mark": lambda q: q.rstrip("？。? "),
        "spaces": lambda q: f"{q}  ",
        "other mark": lambda q: q.replace("？", "?"),
    },
}
_MARKS = {
    "en": "\n\nQuestion: ",
    "zh": "\n\n问题：",
}  # precedes the question in a prompt with a text (`prompts.context_prompt`)


def reword(row: Row, change: Callable[[str], str]) -> Row:
    """Reword the last question of a row; the text that it asks about stays as it is."""
    *before, last = row["messages"]
    start, mark, question = last["content"].rpartition(_MARKS.get(row["language"], "\0"))
    return row | {"messages": [*before, last | {"content": start + mark + change(question)}]}


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    wordings: Mapping[str, Mapping[str, Callable[[str], str]]] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Ask every row in every wording of its language with greedy decoding.

    Args:
        wordings: language -> name -> change of the question, the first of which leaves it as it is;
            default `WORDINGS`.
        options: of `evaluation.evaluate_tasks`, for example max_new_tokens.
    Returns:
        Its columns, and wording; one row per question and wording, one wording after the other.
    Raises:
        Qwen3labError: no rows, or a language without wordings.
    """
    wordings = wordings or WORDINGS
    strange = {row["language"] for row in rows} - set(wordings)
    if strange or not rows:
        raise Qwen3labError(
            f"There are no wordings for the language {min(strange)!r}. Add some."
            if strange
            else "There are no rows to ask. Give at least one."
        )
    names = list(dict.fromkeys(name for language in wordings.values() for name in language))
    asked = [
        (name, reword(row, wordings[row["language"]][name]))
        for name in names
        for row in rows
        if name in wordings[row["language"]]
    ]
    answers = scoring.evaluate_tasks(model, tokenizer, [row for _, row in asked], **options)
    return answers.assign(wording=[name for name, _ in asked])


def table(answers: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the effect of each wording, in the order of `ask`.

    Returns:
        Index wording; n, correct, accuracy, low, high (Wilson, 95 %); against the first wording on
        the same questions: changed (share of answers that differ after `evaluation.normalize`),
        lost and won (answers that are no longer right, and newly right), p (McNemar's exact test,
        uncorrected: multiply it by the number of wordings that you look at).
    """
    import pandas as pd

    names = list(dict.fromkeys(answers.wording))
    first = answers[answers.wording == names[0]].set_index("id")
    lines = {}
    for name in names:
        rows = answers[answers.wording == name].set_index("id")
        base = first.loc[rows.index]
        n, right = len(rows), int(rows.correct.sum())
        low, high = statistics.wilson(right, n)
        lost, won = (
            int((base.correct & ~rows.correct).sum()),
            int((~base.correct & rows.correct).sum()),
        )
        lines[name] = {
            "n": n,
            "correct": right,
            "accuracy": right / n,
            "low": low,
            "high": high,
            "changed": sum(map(_differ, base.prediction, rows.prediction)) / n,
            "lost": lost,
            "won": won,
            "p": statistics.mcnemar(lost, won),
        }
    return pd.DataFrame(lines.values(), index=pd.Index(lines, name="wording"))


@dataclass(frozen=True)
class Spread:
    """A summary of how much a score depends on the wording of `questions`.

    Each question is asked in several wordings. lowest, mean, highest: accuracy of the worst
    wording, of all, of the best; wordings that not all questions have (those of one language only)
    enter only the mean. low, high: 95 % interval of the mean, from resampling questions with all
    their wordings, since answers to one question are not independent trials. changed: share of
    questions with more than one answer. always, ever: share right in every wording, in at least
    one.
    """

    questions: int
    wordings: int
    lowest: float
    mean: float
    highest: float
    low: float
    high: float
    changed: float
    always: float
    ever: float

    def __str__(self) -> str:
        return (
            f"{self.wordings} wordings of {self.questions} questions: accuracy {self.lowest:.3f} to"
            f" {self.highest:.3f}, mean {self.mean:.3f} ({self.low:.3f} to {self.high:.3f}); the"
            f" answer changes for {self.changed:.1%}, right always {self.always:.1%}, at least once"
            f" {self.ever:.1%}"
        )


def spread(answers: pd.DataFrame, seed: int = 0) -> Spread:
    """Summarise the answers that `ask` returned.

    The lowest and highest of many wordings also differ by chance: see p in `table`.
    """
    by_question = answers.groupby("id", sort=True)
    means = by_question.correct.mean()
    low, high = statistics.bootstrap(means.tolist(), seed=seed)
    by_wording = answers.groupby("wording").correct.agg(["mean", "size"])
    accuracy = by_wording["mean"][by_wording["size"] == by_wording["size"].max()]
    changed = by_question.prediction.agg(
        lambda texts: len({scoring.normalize(text) for text in texts}) > 1
    )
    return Spread(
        len(means),
        len(by_wording),
        float(accuracy.min()),
        float(means.mean()),
        float(accuracy.max()),
        low,
        high,
        float(changed.mean()),
        float((means == 1).mean()),
        float((means > 0).mean()),
    )


def _differ(one: str, other: str) -> bool:
    return scoring.normalize(one) != scoring.normalize(other)
