"""Fill the tables of docs/workshop.md from the measured section times: `python docs/workshop.py`.

The times are those of data/section_times.json (`make times`).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3lab import exercises
from qwen3lab.course import checkpoints, pages, section_times
from qwen3lab.errors import Qwen3labError

PAGE = Path(__file__).with_name("workshop.md")
WORDS_A_MINUTE = 120  # estimated, not measured: text read aloud or with a look at code and chart
EXERCISE_MINUTES = 6  # assumed, not measured: reading, trying, one hint
STEP = 5  # blocks begin at multiples of five minutes


@dataclass(frozen=True)
class Block:
    """An agenda entry: sections of one notebook, or something else that takes `minutes`."""

    what: str
    notebook: str = ""
    sections: str = ""  # their ids; "": all
    exercises: int | None = None  # how many of the sections' exercises; None: all
    minutes: int = 0


WELCOME, CLOSE = (
    Block("welcome, `qwen3lab doctor`", minutes=10),
    Block("what you will do on Monday", minutes=15),
)
BREAK, LUNCH = Block("break", minutes=15), Block("lunch", minutes=60)
AGENDAS: dict[str, tuple[int, tuple[Block, ...]]] = {  # name: (minutes available, its blocks)
    "half a day": (
        240,
        (
            WELCOME,
            Block(
                "a first fine-tuning, the chat format, thinking",
                "01",
                "title open-text load-text chat-text think-text picture-text",
                1,
            ),
            Block("the loss mask", "02", "token-text share-text", 1),
            Block(
                "teach it facts, and see what it forgets",
                "03",
                "title open-text task-text before-text idea check-text use-text watch-text"
                " measure-text forget-text off-text keep-text",
                2,
            ),
            BREAK,
            Block("what goes wrong: the failure museum, notebook 03's companion", minutes=20),
            Block(
                "how sure are you?", "06", "title open-text pair-text interval-text blind-text", 2
            ),
            Block(
                "smaller, and served",
                "07",
                "title adapter-text merge-idea merge-use-text ruler-text gguf-text ladder-text"
                " serve-client-text commands-text choose own",
                1,
            ),
            Block("look it up instead", "08", exercises=1),
            CLOSE,
        ),
    ),
    "one day": (
        480,
        (
            WELCOME,
            Block(
                "the model, its experts, the planner",
                "01",
                "title open-text load-text family-text chat-text think-text picture-text"
                " router-text routing-text memory-text",
                3,
            ),
            Block(
                "rows, the loss mask, leaks",
                "02",
                "title file-text library-text token-text share-text clinic-text schema-text"
                " phone-text split-text",
                3,
            ),
            BREAK,
            Block(
                "LoRA",
                "03",
                "title open-text task-text before-text idea check-text use-text watch-text"
                " measure-text forget-text recipe-text tone-text off-text keep-text own-text",
                2,
            ),
            Block(
                "four bits",
                "04",
                "title why-text idea use-text cost-text train-text exam-text moe-text merge-text",
                2,
            ),
            LUNCH,
            Block(
                "all weights, and what they forget",
                "05",
                "title open-text adam-text formats-text memory-text train-text exam-text"
                " forget-text survive-text own-text",
                2,
            ),
            Block(
                "measuring",
                "06",
                "title open-text pair-text interval-text marks-text ppl-idea bleu-idea blind-text"
                " own-text contamination-text judge-text",
                3,
            ),
            BREAK,
            Block(
                "smaller, and served",
                "07",
                "title adapter-text merge-idea merge-use-text ruler-text traps-text rtn-text"
                " gptq-text cliff-text gguf-text ladder-text serve-client-text commands-text choose"
                " own",
                2,
            ),
            Block("the knowledge base", "08", exercises=2),
            CLOSE,
        ),
    ),
    "first of two days": (
        480,
        (
            WELCOME,
            Block("the model", "01"),
            BREAK,
            Block("the rows", "02"),
            LUNCH,
            Block("LoRA", "03"),
            BREAK,
            Block("four bits", "04"),
            BREAK,
            Block("all weights", "05"),
        ),
    ),
    "second of two days": (
        480,
        (
            Block("measuring", "06"),
            BREAK,
            Block("smaller, and served", "07"),
            LUNCH,
            Block("the knowledge base", "08"),
            BREAK,
            Block("going deeper: each a companion of choice", minutes=60),
            CLOSE,
        ),
    ),
}


def sections(block: Block, times: dict[str, Any]) -> list[dict[str, Any]]:
    """Look up the measured sections of a block.

    Raises Qwen3labError for a notebook or section without measured times.
    """
    name = next((name for name in times if name.startswith(block.notebook)), None)
    if name is None:
        raise Qwen3labError(f"There are no times of notebook {block.notebook}. Run `make times`.")
    known = {section["id"]: section for section in times[name]["sections"]}
    strange = [one for one in block.sections.split() if one not in known]
    if strange:
        raise Qwen3labError(
            f"Notebook {block.notebook} has no section {strange[0]!r} for the block {block.what!r}."
            f" Choose from: {', '.join(known)}."
        )
    return [known[one] for one in block.sections.split() or known]


def minutes(block: Block, times: dict[str, Any]) -> tuple[float, float, float, float]:
    """Compute the minutes of a block: (run, read, exercises, other).

    Running its cells is measured, reading an estimate, exercises an assumption, anything else
    planned.
    """
    if not block.notebook:
        return 0.0, 0.0, 0.0, float(block.minutes)
    chosen = sections(block, times)
    there = sum(section["exercises"] for section in chosen)
    return (
        sum(section["seconds"] for section in chosen) / 60,
        sum(section["words"] for section in chosen) / WORDS_A_MINUTE,
        EXERCISE_MINUTES * (there if block.exercises is None else min(there, block.exercises)),
        float(block.minutes),
    )


def length(block: Block, times: dict[str, Any]) -> int:
    """Compute the total minutes of a block, rounded up to the next five."""
    return STEP * math.ceil(sum(minutes(block, times)) / STEP)


def agenda(name: str, times: dict[str, Any]) -> str:
    """Format an agenda as a Markdown table, with the time left over."""
    room, blocks = AGENDAS[name]
    lines = [
        (
            "| begins | what | notebook | cells, measured | reading, estimated | exercises, assumed"
            " | min |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    clock = 0
    for block in blocks:
        run, read, work, _ = minutes(block, times)
        cells = f"| {run:.1f} | {read:.0f} | {work:.0f} |" if block.notebook else "| | | |"
        lines.append(
            f"| {clock // 60}:{clock % 60:02d} | {block.what} | {block.notebook} {cells}"
            f" {length(block, times)} |"
        )
        clock += length(block, times)
    return "\n".join(
        [
            *lines,
            "",
            (
                f"It ends after {clock // 60}:{clock % 60:02d} hours; {room - clock} of {room}"
                " minutes are left for questions."
            ),
        ]
    )


def section_table(times: dict[str, Any]) -> str:
    """Tabulate every section: seconds of its cells, words, exercises."""
    lines = ["| notebook | section | seconds | words | exercises |", "|---|---|---|---|---|"]
    for name, entry in times.items():
        lines += [
            f"| {name[:2]} | {one['title']} | {one['seconds']:.1f} | {one['words']} |"
            f" {one['exercises'] or ''} |"
            for one in entry["sections"]
        ]
    return "\n".join(lines)


def totals(times: dict[str, Any]) -> str:
    """Tabulate totals per notebook: when and where measured, seconds, words and exercises."""
    lines = [
        "| notebook | seconds in all | of them in cells | words | exercises | measured |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in times.items():
        total = {
            key: sum(section[key] for section in entry["sections"])
            for key in ("seconds", "words", "exercises")
        }
        told = entry["measured"]
        lines.append(
            f"| {name[:2]} | {entry['seconds']:.1f} | {total['seconds']:.1f} | {total['words']:,} |"
            f" {total['exercises']} | {told['date']}, {told['machine']}, profile {told['profile']},"
            f" {told['notebooks at a time']} at a time |"
        )
    return "\n".join(lines)


def late() -> str:
    """Tabulate the checkpoints: where to join late, and the line that replaces the cell."""
    lines = ["| join in notebook | instead of the cell | write | it is |", "|---|---|---|---|"]
    return "\n".join(
        [
            *lines,
            *(
                f"| {one.notebook} | `{one.cell}` | `{one.line}` | {one.what} |"
                for one in checkpoints.CHECKPOINTS.values()
            ),
        ]
    )


def exercise_table() -> str:
    """Tabulate the number of exercises and known wrong answers per notebook."""
    found = exercises.every()
    lines = ["| notebook | exercises | wrong answers that are recognised |", "|---|---|---|"]
    for number in sorted({one.notebook for one in found}):
        ones = [one for one in found if one.notebook == number]
        lines.append(f"| {number} | {len(ones)} | {sum(len(one.mistakes) for one in ones)} |")
    return "\n".join(
        [*lines, f"| all | {len(found)} | {sum(len(one.mistakes) for one in found)} |"]
    )


def fill(text: str, times: dict[str, Any]) -> str:
    """Regenerate every table of the page between its markers.

    Raises Qwen3labError if a marker is missing.
    """
    tables = {
        "totals": totals(times),
        "sections": section_table(times),
        "checkpoints": late(),
        "exercises": exercise_table(),
    }
    tables |= {name: agenda(name, times) for name in AGENDAS}
    tables["assumptions"] = (
        f"Reading is estimated at {WORDS_A_MINUTE} words a minute, an exercise is assumed to take"
        f" {EXERCISE_MINUTES} minutes, and every block is\nrounded up to {STEP} minutes. Nobody"
        " measured these three; the seconds of the cells were measured."
    )
    return pages.fill(text, tables)


def main() -> int:
    """Rewrite the page; returns the exit code."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), section_times.load()), encoding="utf-8")
    for line in section_times.stale():
        print(line)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
