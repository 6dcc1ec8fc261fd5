"""Marks for answers to questions of which some have no answer: right, declined, invented, and
whether the citation tells it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd

    from qwen3lab.retrieval.answering import Answer


RIGHT, DECLINED, INVENTED = "R", "D", "H"


def codes(rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> str:
    """A letter for each answer: R right, D declined although there is an answer, H wrong and not
    declined (a hallucination).

    rows: with "answer" and "answerable"; where there is none, any refusal of the course is right.
    """
    from qwen3lab.evaluation.scoring import exact_match, is_refusal

    def code(row: dict[str, Any], text: str) -> str:
        if is_refusal(text):
            return DECLINED if row["answerable"] else RIGHT
        return RIGHT if row["answerable"] and exact_match(text, row["answer"]) else INVENTED

    return "".join(code(row, text) for row, text in zip(rows, answers, strict=True))


def tells(row: dict[str, Any], answer: Answer) -> bool:
    """Whether the place that an answer cites tells what was asked: a page of the fact, and a
    paragraph with its thing and its value.

    An answer without a citation, and one to a question that has no answer, cites nothing that tells
    it.
    """
    if not row["answerable"] or answer.page not in row["pages"]:
        return False
    squeezed = re.sub(r"\s+", "", answer.quote).lower()
    return all(
        re.sub(r"\s+", "", part).lower() in squeezed
        for part in (row["answer"], row["fact"].split("/")[1])
    )


def cited(rows: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> str:
    """A letter for each answer: 1 where the cited place `tells` it, 0 where not, - where the answer
    declined.
    """
    return "".join(
        "-" if answer.refused else str(int(tells(row, answer)))
        for row, answer in zip(rows, answers, strict=True)
    )


def with_threshold(
    run: str, scores: Sequence[float], answerable: Sequence[bool], threshold: float | None
) -> str:
    """What the codes of a run would have been, had the questions with a score below the threshold
    been declined. None declines nothing.
    """
    if threshold is None:
        return run
    return "".join(
        (DECLINED if there else RIGHT) if score < threshold else code
        for code, score, there in zip(run, scores, answerable, strict=True)
    )


def choose_threshold(run: str, scores: Sequence[float], answerable: Sequence[bool]) -> float | None:
    """The threshold on the best hit's score with the highest accuracy; of equal ones the one that
    invents least, then the lowest.

    Tried are the middles between neighbouring scores. None where declining gains nothing. Choose it
    on validation
    questions: on the test questions it would know what it is meant to find out.
    """
    levels = sorted(set(scores))
    tried: list[float | None] = [None, *((low + high) / 2 for low, high in zip(levels, levels[1:]))]

    def worth(threshold: float | None) -> tuple[int, int]:
        found = with_threshold(run, scores, answerable, threshold)
        return found.count(RIGHT), -found.count(INVENTED)

    return max(tried, key=worth)  # of equal ones max takes the first


def marks(
    answerable: Sequence[bool], runs: Sequence[str], citations: Sequence[str] = ()
) -> dict[str, float]:
    """Shares of a system's codes over all questions, for one or more trainings of it.

    Args:
        answerable: of each question.
        runs: the `codes` of each training.
        citations: their `cited` letters, in the same order.
    Returns:
        n (questions); accuracy and hallucination, the mean over the trainings, with " low" and "
        high", the ends of Wilson's 95 % interval for n questions (more trainings do not make more
        questions); "lowest" and "highest", the accuracies of single trainings; answerable and
        unanswerable, accuracy on each kind; with citations "cited", the share of the answers given
        (not declined) whose place tells them.
    Raises:
        Qwen3labError: no questions, or codes that do not match them.
    """
    from qwen3lab.evaluation.statistics import wilson

    n = len(answerable)
    if not n or not runs or any(len(run) != n for run in [*runs, *citations]):
        raise Qwen3labError(
            f"There are {n} questions, but codes for"
            f" {', '.join(str(len(run)) for run in runs) or 'none'}. Give a letter for each"
            " question."
        )
    found: dict[str, float] = {"n": n}
    for name, letter in (("accuracy", RIGHT), ("hallucination", INVENTED)):
        mean = sum(run.count(letter) for run in runs) / len(runs)
        low, high = wilson(mean, n)
        found |= {name: mean / n, f"{name} low": low, f"{name} high": high}
    single = [run.count(RIGHT) / n for run in runs]
    found |= {"lowest": min(single), "highest": max(single)}
    for name, kind in (("answerable", True), ("unanswerable", False)):
        places = [place for place, there in enumerate(answerable) if there == kind]
        right = sum(run[place] == RIGHT for run in runs for place in places)
        found[name] = right / (len(places) * len(runs)) if places else float("nan")
    given = "".join(citations).replace("-", "")
    if citations:
        found["cited"] = given.count("1") / len(given) if given else float("nan")
    return found


def grade(rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> dict[str, float]:
    """The `marks` of one system's answers (texts) to rows with "answer" and "answerable"."""
    return marks([row["answerable"] for row in rows], [codes(rows, answers)])


def table(
    rows: Sequence[dict[str, Any]], systems: dict[str, dict[str, list[str]]], keep=lambda row: True
) -> pd.DataFrame:
    """One line of `marks` a system.

    Args:
        rows: the questions.
        systems: by name {"codes": a text a training, "cited": the same, or nothing for a system
            that cites nothing}.
        keep: which questions count.
    """
    import pandas as pd

    places = [place for place, row in enumerate(rows) if keep(row)]
    only = lambda runs: ["".join(run[place] for place in places) for run in runs]
    there = [rows[place]["answerable"] for place in places]
    return pd.DataFrame(
        {
            name: marks(there, only(system["codes"]), only(system.get("cited", ())))
            for name, system in systems.items()
        }
    ).T


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The same marks for the eye: shares with three digits, accuracy and hallucination with their
    interval in brackets, no empty columns.
    """
    import pandas as pd

    shown = pd.DataFrame(index=table.index)
    shown["n"] = table.n.astype(int)
    for name in ("accuracy", "hallucination"):
        shown[name] = [
            f"{row[name]:.3f} ({row[name + ' low']:.3f}–{row[name + ' high']:.3f})"
            for _, row in table.iterrows()
        ]
    for name in ("answerable", "unanswerable", "cited"):
        if name in table and table[name].notna().any():
            shown[name] = [f"{value:.3f}" if value == value else "" for value in table[name]]
    if (table.lowest != table.highest).any():
        shown["by seed"] = [
            f"{low:.3f}–{high:.3f}" if low != high else ""
            for low, high in zip(table.lowest, table.highest)
        ]
    return shown
