"""Examine a model on rows that were held out, and on a few skills that it had before.

Every row's loss is read with teacher forcing. As many rows as wanted are also answered: a short
answer or a tool call is right or wrong, a longer text is scored by ROUGE-L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, profiles
from qwen3lab.data import rows as kinds
from qwen3lab.data import tasks
from qwen3lab.data.formats import language
from qwen3lab.data.splits import units
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring, statistics
from qwen3lab.models.generation import generate_ids, split_answer

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHORT = 12  # words, or Chinese characters, up to which an answer is right or wrong
KINDS = {
    "short": "exact match",  # one line of at most SHORT words
    "call": "same calls",
    "text": "ROUGE-L",
}
# Rows of data/tasks that stand for what a chat model can do before it is fine-tuned.
OLD = {"context": 20, "unanswerable": 10, "addition": 20, "chat": 10}


def kind(reference: str) -> str:
    """Classify a reference: "call" (a tool call), "short" (right or wrong), "text" (ROUGE-L)."""
    if chat.extract_tool_calls(reference):
        return "call"
    one_line = "\n" not in reference.strip()
    return "short" if one_line and len(units(reference)) <= SHORT else "text"


def old_skills() -> list[dict[str, Any]]:
    """List rows of skills from before: reading a text, refusing, adding with thoughts, repeating.

    They are the first of the course's test splits, which no model of the course was trained on.
    """
    found = []
    for task, count in OLD.items():
        rows = tasks.load(task, "test")
        if task == "addition":
            rows = [row for row in rows if row["digits"] == 3 and row.get("thoughts")]
        found += rows[:count]
    return found


def answer_limit(tokenizer: PreTrainedTokenizerBase, exams: Sequence[dict[str, Any]]) -> int:
    """Choose how many tokens an answer may have: twice the longest reference and a margin.

    An answer of that length did not stop by itself. Rows that think get 256 more.
    """
    longest = max(len(chat.plain_ids(tokenizer, row["answer"])) for row in exams)
    thinks = 256 if any(row.get("thinking") for row in exams) else 0
    return profiles.smoke_tokens(min(2 * longest + 16 + thinks, profiles.get().max_length))


def examine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Any],
    answered: int | None = None,
    *,
    max_new_tokens: int | None = None,
) -> pd.DataFrame:
    """Examine a model on rows of any kind that `fine_tune` takes.

    Args:
        answered: how many rows, the first, are answered too; default: all. Loss is read of all.
        max_new_tokens: of an answer; default: `answer_limit`.
    Returns:
        One line a row: id, task, language, kind (of `KINDS`), tokens and nll (sum of -ln p of the
        answer's tokens, its end included), and, where it was answered, asked (the last message),
        reference, prediction, thoughts, score (0 to 1) and stopped (ended before its limit).
    Raises:
        Qwen3labError: no rows.
    """
    import pandas as pd

    rows = kinds.records(rows)
    if not rows:
        raise Qwen3labError("There are no rows to examine with. Hold back at least one.")
    read = scoring.read_answers(model, kinds.encoded(tokenizer, rows))
    exams = kinds.as_exams(rows)
    lines = [
        {
            "id": str(row.get("id", place)),
            "task": row.get("task", ""),
            "language": row.get("language") or language(row["answer"]),
            "kind": kind(row["answer"]),
            "tokens": int(read.tokens[place]),
            "nll": float(read.nll[place]),
        }
        for place, row in enumerate(exams)
    ]
    asked = exams[:answered]
    limit = max_new_tokens or (answer_limit(tokenizer, asked) if asked else 0)
    prompts = [kinds.ask(tokenizer, row) for row in asked]
    written = generate_ids(model, tokenizer, prompts, max_new_tokens=limit) if asked else []
    for line, row, ids in zip(lines, asked, written):
        thoughts, prediction = split_answer(tokenizer, ids, bool(row.get("thinking")))
        line |= {
            "asked": asked_text(row),
            "reference": row["answer"],
            "prediction": prediction.strip(),
            "thoughts": thoughts,
            "score": score(line["kind"], prediction, row["answer"], line["language"]),
            "stopped": len(ids) < limit,
        }
    return pd.DataFrame(lines)


def asked_text(row: dict[str, Any]) -> str:
    """Return the text of an exam's last message, which is what is asked."""
    return str(row["messages"][-1].get("content") or "")


def score(kind_: str, prediction: str, reference: str, language_: str = "en") -> float:
    """Score one answer, 0 to 1, as its kind is scored (`KINDS`)."""
    if kind_ == "call":
        wanted = chat.extract_tool_calls(reference)
        return float(chat.extract_tool_calls(prediction) == wanted)
    if kind_ == "short":
        return float(scoring.exact_match(prediction, reference))
    from qwen3lab.evaluation.metrics import RougeL

    metric = RougeL("zh" if language_ == "zh" else "en")
    return metric.compute(predictions=[prediction], references=[reference])["rouge_l"]


@dataclass(frozen=True)
class Score:
    """Mean of a score before and after, with 95 % intervals; the difference is paired.

    Intervals resample the questions. Of scores that are right or wrong, `before` and `after` have
    Wilson's, which does not shrink to nothing where all are right.
    """

    name: str
    n: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    difference: float
    interval: tuple[float, float]

    def cells(self) -> list[str]:
        """Write the score as cells of a table: name, n, before, after, difference."""
        low, high = self.interval
        told = [
            f"{mean:.3f} ({a:.3f} to {b:.3f})"
            for mean, (a, b) in (
                (self.before, self.before_interval),
                (self.after, self.after_interval),
            )
        ]
        change = f"{self.difference:+.3f} ({low:+.3f} to {high:+.3f})"
        return [self.name, f"{self.n}", *told, change]


COLUMNS = ["score", "n", "before", "after", "difference, paired (95 % interval)"]


def compare(before: pd.DataFrame, after: pd.DataFrame, label: str = "") -> list[Score]:
    """Compare two exams on the same rows: the loss of all rows, and each kind's score.

    The loss is -ln p a token, a mean over rows, so that the row is the unit of the interval.
    Raises Qwen3labError if the exams are of other rows.
    """
    if list(before.id) != list(after.id):
        raise Qwen3labError("Two exams have other rows. Give both models the same questions.")
    found = [_score(f"{label}loss a token", before.nll / before.tokens, after.nll / after.tokens)]
    if "score" not in before:
        return found
    for name, metric in KINDS.items():
        chosen = (before.kind == name) & before.score.notna()
        if chosen.any():
            first, second = before.score[chosen].tolist(), after.score[chosen].tolist()
            found.append(_score(f"{label}{metric}", first, second, binary=name != "text"))
    return found


def _score(name: str, first: Any, second: Any, binary: bool = False) -> Score:
    first, second = list(map(float, first)), list(map(float, second))
    n = len(first)

    def interval(values: list[float]) -> tuple[float, float]:
        return statistics.wilson(sum(values), n) if binary else statistics.bootstrap(values)

    return Score(
        name,
        n,
        sum(first) / n,
        interval(first),
        sum(second) / n,
        interval(second),
        (sum(second) - sum(first)) / n,
        statistics.bootstrap(first, second),
    )
