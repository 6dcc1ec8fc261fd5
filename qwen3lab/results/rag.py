"""Tabulate the RAG benchmark: what `benchmarks/rag.py` measured, from `data/benchmarks/rag.json`.

The record keeps one letter per question, so any of these tables can be computed from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.results import records
from qwen3lab.retrieval.grading import marks, table, with_threshold

if TYPE_CHECKING:
    import pandas as pd


FIVE = ("base", "fine-tuned", "RAG", "both", "first three pages")
KINDS = {
    "taught": lambda row: row["answerable"] and row["taught"],
    "not taught": lambda row: row["answerable"] and not row["taught"],
    "gap": lambda row: row.get("reason") == "gap",
    "stranger": lambda row: row.get("reason") == "stranger",
}


class Record:
    """The RAG benchmark record with its questions (`rows`), in the record's order.

    Raises Qwen3labError if a question of the record is not in `data/tasks`: the two then do not
    belong together.
    """

    def __init__(self, data: dict[str, Any] | None = None):
        self.data: dict[str, Any] = data or records.read("rag")
        by_id = {row["id"]: row for row in tasks.load("handbook", "test")}
        if missing := [name for name in self.data["questions"] if name not in by_id]:
            raise Qwen3labError(
                f"The record speaks of {missing[0]}, which data/tasks does not hold. Run `python"
                " benchmarks/rag.py` again."
            )
        self.rows = [by_id[name] for name in self.data["questions"]]
        self.validation = tasks.load("handbook", "validation")[
            : len(self.data["validation"]["scores"])
        ]

    def systems(self, names=FIVE, keep=lambda row: True) -> pd.DataFrame:
        """Tabulate `grading.marks`, one line per system, over the questions selected by `keep`."""
        return table(self.rows, {name: self.data["systems"][name] for name in names}, keep)

    def kinds(self, names=FIVE) -> pd.DataFrame:
        """Tabulate the accuracy of each system by kind of question.

        The kinds: a fact taught in training, one not taught, a gap in what is known of a thing, a
        stranger.
        """
        import pandas as pd

        return pd.DataFrame(
            {kind: self.systems(names, keep).accuracy for kind, keep in KINDS.items()}
        )

    def by_k(self, name: str) -> pd.DataFrame:
        """Tabulate the marks of one system on the test questions for each k."""
        import pandas as pd

        return pd.concat(
            {
                int(k): table(self.rows, {name: systems[name]})
                for k, systems in self.data["by k"].items()
            }
        ).droplevel(1)

    def grid(self) -> pd.DataFrame:
        """Tabulate the grid search over chunk size and k on the validation questions.

        Columns: tokens, k, recall (of all answerable questions), read (chunks that fitted), and the
        marks.
        """
        import pandas as pd

        lines = []
        for line in self.data["grid"]:
            # A fact that chunking split apart cannot be found either, so the search's own recall is
            # scaled to all questions.
            recall = line[f"recall@{line['k']}"] * line["n"] / (line["n"] + line["lost by cutting"])
            lines.append(
                {"tokens": line["tokens"], "k": line["k"], "recall": recall, "read": line["read"]}
                | marks(
                    [row["answerable"] for row in self.validation], [line["codes"]], [line["cited"]]
                )
            )
        return pd.DataFrame(lines)

    def thresholded(self, name: str, threshold: float | None) -> dict[str, list[str]]:
        """Recompute a system's test codes as if it had declined below a threshold."""
        there = [row["answerable"] for row in self.rows]
        return {
            "codes": [
                with_threshold(run, self.data["scores"], there, threshold)
                for run in self.data["systems"][name]["codes"]
            ]
        }

    def before_and_after(self, names: dict[str, str]) -> pd.DataFrame:
        """Tabulate marks with and without the threshold chosen on the validation questions.

        Args:
            names: maps each system of the table to its name among the thresholds of the record.
        """
        lines = {}
        for name, key in names.items():
            lines[name] = {"codes": self.data["systems"][name]["codes"]}
            if (threshold := self.data["chosen"]["thresholds"][key]) is not None:
                lines[f"{name}, below {threshold:.3f} declined"] = self.thresholded(name, threshold)
        return table(self.rows, lines)

    def waiting(self) -> pd.DataFrame:
        """Tabulate latency in milliseconds per way of serving: medians and 95th percentiles.

        From question to answer.
        """
        import pandas as pd

        names = {
            "here": "search and answer, no panel",
            "panel": "panel, model in this process",
            "panel over HTTP": "panel, model over HTTP",
        }
        ways = {names[way]: line for way, line in self.data["waiting"].items()}
        return pd.DataFrame(
            {
                way: (
                    {
                        f"{what}{end}": line[what][p]
                        for what in line
                        if isinstance(line[what], dict)
                        for end, p in (("", "p50"), (" p95", "p95"))
                    }
                    | {"n": line["n"], "share under 300 ms": line["share under 300"]}
                )
                for way, line in ways.items()
            }
        ).T


def curve(run: str, scores: list[float], answerable: list[bool], steps: int = 60) -> pd.DataFrame:
    """Compute accuracy and hallucination rate of a run as a function of the threshold.

    The thresholds are evenly spaced from the lowest score to the highest, `steps` + 1 of them.
    """
    import pandas as pd

    low, high = min(scores), max(scores)
    lines = []
    for step in range(steps + 1):
        threshold = low + (high - low) * step / steps
        found = marks(answerable, [with_threshold(run, scores, answerable, threshold)])
        lines.append(
            {
                "threshold": threshold,
                "accuracy": found["accuracy"],
                "hallucination": found["hallucination"],
            }
        )
    return pd.DataFrame(lines)
