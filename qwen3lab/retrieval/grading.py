"""Grade RAG answers: accuracy, refusals, hallucinations and citations."""

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
    """Label each answer with a letter: R right, D declined although answerable, H hallucinated.

    H means wrong and not declined.

    Args:
        rows: with "answer" and "answerable"; for an unanswerable question any refusal of the course
            is right.
    """
    from qwen3lab.evaluation.scoring import exact_match, is_refusal

    def code(row: dict[str, Any], text: str) -> str:
        if is_refusal(text):
            return DECLINED if row["answerable"] else RIGHT
        return RIGHT if row["answerable"] and exact_match(text, row["answer"]) else INVENTED

    return "".join(code(row, text) for row, text in zip(rows, answers, strict=True))


def tells(row: dict[str, Any], answer: Answer) -> bool:
    """Check whether the cited passage supports the answer to a row.

    It does if the page is one of the fact's pages and the paragraph contains both the name of the
    thing and its value. False for an answer without a citation and for an unanswerable question.
    """
    if not row["answerable"] or answer.page not in row["pages"]:
        return False
    squeezed = re.sub(r"\s+", "", answer.quote).lower()
    return all(
        re.sub(r"\s+", "", part).lower() in squeezed
        for part in (row["answer"], row["fact"].split("/")[1])
    )


def cited(rows: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> str:
    """Label each answer's citation: 1 where the passage supports it, 0 where not, - where declined.

    See `tells`.
    """
    return "".join(
        "-" if answer.refused else str(int(tells(row, answer)))
        for row, answer in zip(rows, answers, strict=True)
    )


def with_threshold(
    run: str, scores: Sequence[float], answerable: Sequence[bool], threshold: float | None
) -> str:
    """Recompute the codes of a run as if questions scoring below the threshold had been declined.

    None declines nothing.
    """
    if threshold is None:
        return run
    return "".join(
        (DECLINED if there else RIGHT) if score < threshold else code
        for code, score, there in zip(run, scores, answerable, strict=True)
    )


def choose_threshold(run: str, scores: Sequence[float], answerable: Sequence[bool]) -> float | None:
    """Choose the score threshold for declining that maximises accuracy.

    The score is that of the best hit. Ties go to the threshold with the fewest hallucinations, then
    to the lowest. Candidates are the midpoints between neighbouring scores; None means that
    declining gains nothing. Choose it on validation questions: chosen on the test questions it
    would overfit them.
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
    """Compute accuracy and hallucination rate, with intervals, over one or more training runs.

    Args:
        answerable: one bool per question.
        runs: the `codes` of each training run.
        citations: their `cited` letters, in the same order.
    Returns:
        n (questions); accuracy and hallucination, the mean over the training runs, with " low" and
        " high", the ends of Wilson's 95 % interval for n questions (more runs do not make more
        questions); "lowest" and "highest", the accuracies of single runs; answerable and
        unanswerable, accuracy on each kind; with citations also "cited", the share of the given
        (not declined) answers whose citation supports them.
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
    """Grade one system's answers (texts) to rows with "answer" and "answerable"; see `marks`."""
    return marks([row["answerable"] for row in rows], [codes(rows, answers)])


def table(
    rows: Sequence[dict[str, Any]], systems: dict[str, dict[str, list[str]]], keep=lambda row: True
) -> pd.DataFrame:
    """Tabulate `marks`, one line per system.

    Args:
        rows: the questions.
        systems: by name {"codes": one text per training run, "cited": the same, or absent for a
            system that cites nothing}.
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
    """Format a `table` for reading: shares with three digits, no empty columns.

    Accuracy and hallucination have their interval in brackets.
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
