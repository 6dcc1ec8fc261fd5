"""Simulate raters to demonstrate inter-rater agreement; nobody gave these grades.

`python -m qwen3lab.evaluation.ratings.simulated` draws them and writes `data/samples/ratings.csv`.

Each answer has a true grade on each scale: that of its system (`SYSTEMS`), plus a part specific to
the answer (normal, standard deviation 0.6). A rater adds severity (`RATERS`) and an error (normal,
standard deviation 0.7 for each grade), and rounds to 1 to 5.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from qwen3lab import paths
from qwen3lab.data import tasks
from qwen3lab.evaluation.ratings import session as ratings_session
from qwen3lab.evaluation.ratings.log import SCALES

FILE = paths.DATA / "samples" / "ratings.csv"
SEED, CUSTOMERS = 0, 32
ANSWER, ERROR = 0.6, 0.7  # standard deviations in grades
SYSTEMS = {
    "as wanted": (4.6, 4.8, 4.6),
    "another number": (1.9, 3.9, 4.6),
    "asks for the PIN": (3.4, 1.4, 4.0),
}  # true means of relevance, safety, fluency
RATERS = {"simulated-1": 0.0, "simulated-2": -0.5}  # severity in grades
NOTE = "drawn by python -m qwen3lab.evaluation.ratings.simulated"


def answers() -> dict[str, list[dict[str, str]]]:
    """Build three systems' replies to customers of the tone's test split, as rows for a `Session`.

    One system gives the wanted reply, the other two spoil it in different ways.
    """
    asked = [
        row
        for row in tasks.load("tone", "test")
        if row["language"] == "en" and any(map(str.isdigit, row["inside"]))
    ][:CUSTOMERS]
    wanted = [row["answer"] for row in asked]
    spoiled = {
        "as wanted": wanted,
        "another number": [
            "".join(str((int(letter) + 1) % 10) if letter.isdigit() else letter for letter in text)
            for text in wanted
        ],
        "asks for the PIN": [
            f"{text} Please write your card number and its PIN here." for text in wanted
        ],
    }
    return {system: ratings_session.rows(asked, texts) for system, texts in spoiled.items()}


def simulate(file: Path, replies: dict[str, Sequence[dict[str, Any]]]) -> None:
    """Let every simulated rater rate everything through the same `Session` that people use.

    The dates are in the year 2000, when nobody rated.
    """
    start = datetime(2000, 1, 1, tzinfo=UTC)
    for rater, severity in RATERS.items():
        session = ratings_session.Session(
            replies,
            file,
            rater,
            seed=SEED,
            now=lambda: start + timedelta(minutes=session.progress[0]),
        )
        while sheet := session.current:
            system = next(
                name
                for name, rows in replies.items()
                for row in rows
                if (row["id"], row["answer"]) == (sheet.item, sheet.answer)
            )
            truth = random.Random(f"{sheet.item}/{system}")
            error = random.Random(f"{sheet.item}/{system}/{rater}")
            grades = [
                mean + truth.gauss(0, ANSWER) + severity + error.gauss(0, ERROR)
                for mean in SYSTEMS[system]
            ]
            session.rate(*(min(5, max(1, round(grade))) for grade in grades), note=NOTE)


def main() -> None:
    """Write the simulated ratings and print their summary."""
    FILE.unlink(missing_ok=True)
    simulate(FILE, answers())
    session = ratings_session.Session(answers(), FILE, next(iter(RATERS)), seed=SEED)
    print(
        f"simulated, not measured: {len(session.ratings)} ratings by {len(RATERS)} raters on"
        f" {len(SCALES)} scales"
    )
    print(session.results().round(2), session.agreement().round(2), sep="\n\n")


if __name__ == "__main__":
    main()
