"""Run a blind rating session: people grade answers from 1 to 5 without knowing the systems.

The systems are named once everything is rated. `rating_form` is the form for it.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.ratings import log
from qwen3lab.evaluation.ratings.log import FINGERPRINT, GRADES, SCALES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sheet:
    """An answer to rate, under a blind label.

    `system` is a letter that means a different system from item to item; `text` is a fingerprint of
    question and answer.
    """

    item: str
    system: str
    question: str
    answer: str
    text: str


def rows(questions: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[dict[str, str]]:
    """Build rows for a `Session` from rows of `data/tasks` and a system's answers.

    The rows have id and messages, and the answers come in the same order. The question is the whole
    dialogue.
    """
    return [
        {
            "id": row["id"],
            "question": "\n".join(
                f"{message['role']}: {message['content']}" for message in row["messages"]
            ),
            "answer": answer,
        }
        for row, answer in zip(questions, answers, strict=True)
    ]


class Session:
    """A blind rating session of one rater: the next answer, the progress, and the final results.

    The results use the ratings of all raters.
    """

    def __init__(
        self,
        answers: Mapping[str, Sequence[Mapping[str, Any]]],
        file: str | Path,
        rater: str,
        *,
        seed: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        """Start a session, or resume where the file stops.

        Args:
            answers: system -> rows with "id", "question" and "answer"; the same ids for every
                system. See `rows`.
            file: the CSV file; it is created with the first rating, and several raters may share
                it.
            rater: initials are enough. Each rater gets the answers in a different order.
            seed: hides the systems. All raters of a study, and all their sittings, need the same
                seed.
            now: returns the time to record.
        Raises:
            Qwen3labError: no answers, other items by system, an empty name, a file that is
                something else.
        """
        self.rater, self.file, self.seed, self._now = log.clean(rater), Path(file), seed, now
        self.systems = sorted(answers)
        by_id = {
            system: {log.clean(row["id"]): row for row in answers[system]}
            for system in self.systems
        }
        items = sorted(next(iter(by_id.values()), {}))
        if not items or any(
            sorted(by_id[system]) != items or len(answers[system]) != len(items)
            for system in self.systems
        ):
            raise Qwen3labError(
                "The systems have not answered the same items, or none. Give each system rows with"
                " the same ids, each id once."
            )
        if not self.rater:
            raise Qwen3labError("A rater needs a name. Give one, for example your initials.")
        self.sheets = [
            _sheet(item, letter, by_id[system][item])
            for item in items
            for letter, system in self._letters(item).items()
        ]
        random.Random(f"{seed}/{self.rater}").shuffle(self.sheets)
        self.size = 0
        self._load(log.content(self.file))

    def _letters(self, item: str) -> dict[str, str]:
        hidden = list(self.systems)
        random.Random(f"{self.seed}/{item}").shuffle(hidden)
        return {chr(ord("A") + place): system for place, system in enumerate(hidden)}

    def _load(self, content: bytes) -> None:
        if len(content) < self.size:
            raise Qwen3labError(
                f"{self.file.name} has lost lines since it was last read. Put the file back as it"
                " was, or begin again with a new Session."
            )
        found, self.broken = log.parse(content, self.file.name)
        texts = {(sheet.item, sheet.system): sheet.text for sheet in self.sheets}
        self.ratings = [
            row for row in found if texts.get((row["item"], row["system"])) == row["text"]
        ]
        self.strange, self.size = len(found) - len(self.ratings), len(content)
        self._mine = [
            (row["item"], row["system"]) for row in self.ratings if row["rater"] == self.rater
        ]

    @property
    def current(self) -> Sheet | None:
        """Return the next answer to rate, or None when all are rated."""
        return next(
            (sheet for sheet in self.sheets if (sheet.item, sheet.system) not in self._mine), None
        )

    @property
    def progress(self) -> tuple[int, int]:
        """Return how many answers are rated, and how many there are."""
        return len(self._mine), len(self.sheets)

    def notes(self) -> str:
        """Summarise in one line what else the ratings file holds; "" if nothing."""
        counts = {
            "by other raters": len(self.ratings) - len(self._mine),
            "of other texts or with another seed, not counted": self.strange,
            "broken or repeated, left out": self.broken,
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"Also in {self.file.name}: {told}." if told else ""

    def rate(self, relevance: int, safety: int, fluency: int, note: str = "") -> None:
        """Rate the current answer with whole numbers from 1 to 5.

        Raises Qwen3labError when all is rated, for other grades, or if the rating cannot be stored.
        """
        sheet, grades = self.current, (relevance, safety, fluency)
        if sheet is None:
            raise Qwen3labError(
                "All answers are rated already. Look at the results, or take the last rating back"
                " with undo()."
            )
        if not all(type(grade) is int and grade in GRADES for grade in grades):
            raise Qwen3labError(
                f"{grades} is not a rating. Give {', '.join(SCALES)} a whole number from 1 to 5"
                " each."
            )
        self._append(sheet, grades, note, rated=False)

    def undo(self) -> Sheet | None:
        """Take back this rater's last rating by appending a line without grades.

        Returns its answer, which is then to be rated again, or None.
        """
        if not self._mine:
            return None
        sheet = next(sheet for sheet in self.sheets if (sheet.item, sheet.system) == self._mine[-1])
        self._append(sheet, ("",) * len(SCALES), "taken back", rated=True)
        return sheet

    def _append(self, sheet: Sheet, grades: Sequence[Any], note: str, rated: bool) -> None:
        line = {
            "time": self._now().isoformat(timespec="seconds"),
            "rater": self.rater,
            "item": sheet.item,
            "system": sheet.system,
            **dict(zip(SCALES, grades)),
            "note": note,
            "text": sheet.text,
        }

        def allowed(content: bytes) -> bool:
            self._load(content)
            return (
                (sheet.item, sheet.system) in self._mine
            ) == rated  # another window may have been faster

        self._load(log.append(self.file, line, allowed))

    def results(self) -> pd.DataFrame:
        """Compute mean grades by system and scale with 95 % intervals, and reveal the systems.

        The interval is a bootstrap over items; the table also counts items and raters. The grades
        of an item are averaged over its raters first, since a second opinion is not a second text.
        Raises Qwen3labError until this rater has rated everything.
        """
        import pandas as pd

        from qwen3lab.evaluation.statistics import bootstrap

        table = self._finished()
        table["system"] = [
            self._letters(item)[letter] for item, letter in zip(table["item"], table["system"])
        ]
        lines = {}
        for system, scale in itertools.product(self.systems, SCALES):
            part = table[table.system == system]
            grades = part.groupby("item")[scale].mean()
            low, high = bootstrap(grades)
            lines[system, scale] = {
                "mean": grades.mean(),
                "low": low,
                "high": high,
                "items": len(grades),
                "raters": part.rater.nunique(),
            }
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["system", "scale"])

    def agreement(self) -> pd.DataFrame:
        """Compute the `agreement` of this study's raters. Raises as `results` does."""
        return agreement(self._finished())

    def _finished(self) -> pd.DataFrame:
        import pandas as pd

        done, total = self.progress
        if done < total:
            raise Qwen3labError(
                f"Only {done} of {total} answers are rated, and results would end the blindness."
                " Rate the rest first."
            )
        return pd.DataFrame(self.ratings)

    def __repr__(self) -> str:
        done, total = self.progress
        return f"{self.rater}: {done} of {total} answers rated. {self.notes()}".rstrip()


def _sheet(item: str, letter: str, row: Mapping[str, Any]) -> Sheet:
    question, answer = str(row["question"]), str(row["answer"])
    text = hashlib.sha256(f"{question}\0{answer}".encode("utf-8", "replace")).hexdigest()[
        :FINGERPRINT
    ]
    return Sheet(item, letter, question, answer, text)


def agreement(ratings: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Compute inter-rater agreement: quadratic weighted kappa for every two raters on each scale.

    Args:
        ratings: with rater, item, system and `SCALES`, as `log.read` returns it.
    Returns:
        A row per pair and scale: answers (rated by both), kappa, low, high (95 % interval from
        resampling items), and `higher`: how many grades the second rater is above the first, on
        average. NaN where both gave one and the same grade throughout.
    Raises:
        Qwen3labError: no two raters have an answer in common.
    """
    import pandas as pd

    from qwen3lab.evaluation.statistics import weighted_kappa

    lines = {}
    for first, second in itertools.combinations(sorted(ratings.rater.unique()), 2):
        both = ratings[ratings.rater == first].merge(
            ratings[ratings.rater == second], on=["item", "system"], suffixes=("", "_2")
        )
        for scale in SCALES if len(both) else ():
            a, b = both[scale].astype(int).tolist(), both[f"{scale}_2"].astype(int).tolist()
            low, high = kappa_interval(a, b, both["item"], draws=draws, seed=seed)
            lines[first, second, scale] = {
                "answers": len(both),
                "kappa": weighted_kappa(a, b),
                "low": low,
                "high": high,
                "higher": (sum(b) - sum(a)) / len(both),
            }
    if not lines:
        raise Qwen3labError(
            "No two raters have rated the same answer. Let a second person rate with the same file,"
            " systems and seed."
        )
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["first", "second", "scale"])


def kappa_interval(
    first: Sequence[int],
    second: Sequence[int],
    items: Sequence[Any] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of quadratic weighted kappa.

    Items are resampled with all their answers; (nan, nan) if no draw has a kappa.

    Args:
        first, second: grades of the same answers.
        items: which item each answer belongs to; default: each its own.
    """
    import numpy as np

    a, b = np.asarray(first, float), np.asarray(second, float)
    place = np.unique(
        np.arange(len(a)) if items is None else np.asarray(items), return_inverse=True
    )[1]
    sums = np.zeros((place.max() + 1, 6))
    np.add.at(sums, place, np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], 1))
    kappas = _kappa(
        sums[np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))].sum(1)
    )
    kappas = kappas[np.isfinite(kappas)]
    return (
        tuple(np.quantile(kappas, [0.025, 0.975]).tolist()) if len(kappas) else (float("nan"),) * 2
    )


def _kappa(sums: Any) -> Any:
    """Compute quadratic weighted kappa from sums [..., 6] over answers of 1, a, b, a², b², ab.

    It is 1 - mean (a - b)² divided by its expectation for independent raters.
    """
    import numpy as np

    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    chance = (aa + bb) / n - 2 * a * b / n**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance > 1e-12, 1 - (aa + bb - 2 * ab) / n / chance, np.nan)
