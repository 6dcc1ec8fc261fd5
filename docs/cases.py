"""Fill the tables of docs/cases.md from the benchmark records: `python docs/cases.py`.

The records are data/benchmarks/rag.json, tone.json and assistant.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3lab.course import pages
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import wilson
from qwen3lab.results import rag, records, tables

PAGE = Path(__file__).with_name("cases.md")
BOOK = {
    "base": "the model alone",
    "fine-tuned": "fine-tuned on its facts",
    "RAG": "retrieval",
    "both": "fine-tuned, with retrieval",
    "first three pages": "the first pages in the prompt, no retrieval",
    "trained to read: distractors and gaps": "trained to read, with retrieval",
}


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; all columns but the first are right-aligned numbers."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def share(count: float, n: int, lowest: float | None = None, highest: float | None = None) -> str:
    """Format a share with its 95 % interval.

    For several training runs `count` is their mean, the interval is that of one run, and the
    extremes are added.
    """
    low, high = wilson(count, n)
    seeds = (
        f"; {lowest / n:.2f} to {highest / n:.2f} by seed"
        if lowest is not None and lowest != highest
        else ""
    )
    return f"{count / n:.2f} ({low:.2f} to {high:.2f}{seeds})"


def knowledge(record: rag.Record) -> str:
    """Tabulate the systems on the handbook's questions."""
    lines = []
    for name, line in record.systems(tuple(BOOK)).iterrows():
        n = int(line.n)
        cited = "" if line.get("cited") != line.get("cited") else f"{line.cited:.2f}"
        lines.append(
            [
                BOOK[name],
                share(line.accuracy * n, n, line.lowest * n, line.highest * n),
                share(line.hallucination * n, n),
                f"{line.answerable:.2f}",
                f"{line.unanswerable:.2f}",
                cited,
            ]
        )
    head = (
        f"{len(record.rows)} questions",
        "right (95 %)",
        "invented (95 %)",
        "right where there is an answer",
        "declined where there is none",
        "citations that tell it",
    )
    return grid(head, lines)


def tone(data: dict[str, Any]) -> str:
    """Tabulate the tone's marks, the answers inside and the old tasks, before and after."""
    table = tables.tone(data)
    ways = list(dict.fromkeys(table.index.get_level_values("way")))

    def cell(way: str, measure: str) -> str:
        line = table.loc[way, measure]
        seeds = (
            f"; {line.lowest:.2f} to {line.highest:.2f} by seed"
            if line.lowest != line.highest
            else ""
        )
        return f"{line.share:.2f} ({line.low:.2f} to {line.high:.2f}{seeds})"

    lines = [
        [f"{measure} ({int(part.n.iloc[0])})", *(cell(way, measure) for way in ways)]
        for measure, part in table.groupby("measure", sort=False)
    ]
    return grid(("replies and questions", *ways), lines)


def assistant(data: dict[str, Any]) -> str:
    """Tabulate the maths and code assistant before and after training, and the sums."""

    def cell(side: str, part: str) -> str:
        line = data[side][part]
        n, seeds = data["before"][part]["n"], line["n"] // data["before"][part]["n"]
        return share(line["correct"] / seeds, n, line["lowest"], line["highest"])

    names = {
        "word problems": "word problems, with thoughts",
        "functions": "Python functions, by their tests",
        "functions, combination trained": "… of operations combined in training",
        "functions, combination new": "… of operations combined anew",
        "sums": "sums of three digits (old task)",
    }
    lines = [
        [f"{text} ({data['before'][part]['n']})", cell("before", part), cell("after", part)]
        for part, text in names.items()
    ]
    return grid(("questions", "before", "after"), lines)


def measured(data: dict[str, Any], seeds: int) -> str:
    """Describe how the numbers were measured: command, seeds, date and machine."""
    about = data["measured"]
    return f"`{about['command']}`, {seeds} seeds, {about['date']}, {about['machine']}."


def fill(text: str, found: dict[str, dict[str, Any]] | None = None) -> str:
    """Regenerate every table of the page between its markers.

    Raises Qwen3labError if a marker is missing.

    Args:
        found: records by name; default: the committed ones.
    """
    found = found or {name: records.read(name) for name in ("rag", "tone", "assistant")}
    record, maths = rag.Record(found["rag"]), found["assistant"]
    seeds = len(next(iter(found["tone"]["runs"].values())))
    tables = {
        "knowledge base": (
            f"{knowledge(record)}\n\n"
            f"{measured(record.data, len(record.data['systems']['both']['codes']))}"
        ),
        "tone": f"{tone(found['tone'])}\n\n{measured(found['tone'], seeds)}",
        "assistant": (
            f"{assistant(maths)}\n\n"
            f"{measured(maths, maths['after']['sums']['n'] // maths['before']['sums']['n'])}"
        ),
    }
    return pages.fill(text, tables)


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Qwen3labError as error:
        sys.exit(str(error))
