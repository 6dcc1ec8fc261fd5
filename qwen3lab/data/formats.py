"""Convert rows of public forms to one schema, each row to its own kind, or refuse it by name.

A conversation becomes `{"id", "source", "task", "language", "messages"}`, with "tools" where it has
some. A text that answers no question becomes `{"id", "source", "task", "language", "text"}`, for
continued pre-training. Pairs of a better and a worse answer, and answers labelled good or bad, are
kept apart as well.
A row that cannot be used is never dropped silently: it comes back with its number and the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import paths
from qwen3lab.chat import ROLES
from qwen3lab.data import columns as names
from qwen3lab.data import forms, sources
from qwen3lab.data.rows import each, spelled
from qwen3lab.data.sources import read_raw
from qwen3lab.data.tables import Broken, Ragged
from qwen3lab.data.turns import ALIASES, Unusable
from qwen3lab.data.validation import check, check_coding, check_text, check_weight, fault, short
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ALIASES",
    "HUB",
    "ROLES",
    "SAMPLES",
    "Converted",
    "Report",
    "convert",
    "converting",
    "fault",
    "language",
    "load",
    "read_raw",
    "stream",
    "table",
    "to_messages",
]

SAMPLES = {
    "sharegpt": "sharegpt.jsonl",
    "alpaca": "alpaca.json",
    "medqa": "medqa.jsonl",
    "codeparrot": "codeparrot.jsonl",
    "mathinstruct": "mathinstruct.json",
    "tools": "tools.jsonl",
}
# Public sets in the same formats. `load` takes these names, or any other of the hub; read a set's
# licence first.
HUB = {
    "sharegpt": "liyucheng/ShareGPT90K",
    "alpaca": "tatsu-lab/alpaca",
    "medqa": "GBaker/MedQA-USMLE-4-options",
    "codeparrot": "codeparrot/codeparrot-clean-valid",
    "mathinstruct": "TIGER-Lab/MathInstruct",
}
# The lists of `Converted`, with what one row of each is called.
KINDS = {
    "rows": "conversation",
    "preferences": "preference",
    "labelled": "labelled answer",
    "texts": "plain text",
    "rejected": "refused row",
}
_SHORT = "with fewer cells than the header has columns; the missing ones are taken as empty"


@dataclass
class Report:
    """Report of what was read: rows by kind, columns, reasons of refusals.

    counts: rows by `KINDS`. columns: see `columns.Seen`. reasons: of refused rows. notes: what was
    read in another way than it is spelled. unread: files of a folder that are no data.
    """

    source: str
    counts: Counter[str] = field(default_factory=Counter)
    columns: names.Seen = field(default_factory=names.Seen)
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    advice: str = ""  # how to map columns of which some row is in no known form

    def __str__(self) -> str:
        total = self.counts.total()
        counted = [
            f"{count:,} {KINDS[kind]}{'s' * (count != 1)}"
            for kind in KINDS
            if (count := self.counts[kind])
        ]
        lines = [f"{self.source}: {total:,} row{'s' * (total != 1)}: {', '.join(counted)}"]
        lines += self.columns.lines()
        lines += [
            f"{count:,} row{'s' * (count != 1)}: {note}" for note, count in self.notes.items()
        ]
        if self.reasons:
            refused = [f"{reason} ({count:,})" for reason, count in self.reasons.most_common()]
            lines.append(f"refused: {', '.join(refused)}")
        if self.advice:
            lines.append(f"{self.advice}.")
        if self.unread:
            lines.append(f"files not read: {', '.join(self.unread)}")
        return "\n".join(lines)


@dataclass
class Converted:
    """Converted rows of one source.

    rows: conversations in the course's schema. texts: plain texts in it. preferences: "prompt",
    "chosen" and "rejected" as messages. labelled: "prompt" and "completion" as messages, and
    "label", whether the completion is good. rejected: all other rows, as {"row": number from 1,
    "reason": a fixed sentence, "detail": what is wrong in this row, "raw": the original row}.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    preferences: list[dict[str, Any]] = field(default_factory=list)
    labelled: list[dict[str, Any]] = field(default_factory=list)
    report: Report = field(default_factory=lambda: Report("rows"))

    def said(self) -> str:
        """Say in a few lines what was read: rows by kind, columns, refusals and why."""
        return str(self.report)

    def refused(self) -> pd.DataFrame:
        """Tabulate the rejected rows: row, reason, detail, and how the row begins."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "row": bad["row"],
                    "reason": bad["reason"],
                    "detail": bad["detail"],
                    "begins": short(bad["raw"], 60),
                }
                for bad in self.rejected
            ],
            columns=["row", "reason", "detail", "begins"],
        )


def to_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Convert one raw row in any known format to messages.

    Alpaca's `input` follows its instruction after a blank line; `system` and `history` (pairs) are
    used where given. Only names are changed, nothing is repaired: `fault` says whether the result
    can be trained on.

    Raises:
        Qwen3labError: a row in no known format, or one that is no conversation.
    """
    kind, read = forms.read(row, _plan(row, ()), Counter(), set())
    if kind != "rows":
        raise Unusable("no conversation", f"a {KINDS[kind]}")
    return read["messages"]


def language(text: str) -> str:
    """Detect a text's language: "zh" if at least a fifth of its letters are Chinese, else "en"."""
    letters = sum(map(str.isalpha, text))
    return "zh" if letters and len(_CHINESE.findall(text)) / letters >= 0.2 else "en"


_CHINESE = re.compile("[\u3400-\u9fff]")


def converting(
    raw: Iterable[Any],
    source: str,
    *,
    strict: bool = False,
    columns: Mapping[str, str | None] | None = None,
    report: Report | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Convert raw rows one by one; arguments and errors as in `convert`.

    Yields:
        Pairs of the row's kind, one of `KINDS`, and the row, as the lists of `Converted` hold it.
        `report`, if given, is filled on the way.
    """
    mapped = names.checked(columns)
    report = Report(source) if report is None else report
    for number, row in enumerate(each(spelled(raw)), start=1):
        head = {"id": f"{source}.{number:04d}", "source": source, "task": source, "language": "en"}
        try:
            kind, made = _converted(row, mapped, report)
        except Unusable as error:
            if strict:
                raise Qwen3labError(
                    f"{source}, row {number}: {error.reason} ({error.detail}). "
                    "Mend the row, or convert with strict=False to sort such rows out."
                ) from None
            report.reasons[error.reason] += 1
            report.counts["rejected"] += 1
            yield (
                "rejected",
                {"row": number, "reason": error.reason, "detail": error.detail, "raw": row},
            )
            continue
        report.counts[kind] += 1
        yield kind, head | {"language": language(_said(made))} | made
    missing = [column for column, _ in mapped if column not in report.columns.named]
    if missing and report.columns.named:
        there = ", ".join(map(repr, sorted(map(str, report.columns.named)))) or "none"
        raise Qwen3labError(
            f"{source} has no column {missing[0]!r}. Map one of those that it has: {there}."
        )


def _converted(
    row: Any, mapped: tuple[tuple[str, str | None], ...], report: Report
) -> tuple[str, dict[str, Any]]:
    """Convert one row and check it; raises Unusable."""
    if not isinstance(row, dict):
        if isinstance(row, Broken):
            raise Unusable(row.reason, row.why)
        raise Unusable("no JSON object", f"of type {type(row).__name__}")
    if isinstance(row, Ragged):
        report.notes[_SHORT] += 1
    row = names.tidy(row)
    found = _plan(row, mapped)
    if not found.kind and not report.advice:
        report.advice = names.advice(tuple(row), found)
    left: names.Left = set()
    try:
        kind, made = forms.read(row, found, report.notes, left)
    except Unusable:
        left.clear()  # a row that was read half tells nothing of its other half
        raise
    finally:
        report.columns.note(row, found, left)
    fault_found = _fault(kind, made)
    if fault_found:
        raise Unusable(*fault_found)
    return kind, made


def _plan(row: dict[str, Any], mapped: tuple[tuple[str, str | None], ...]) -> names.Plan:
    """Tell what a row's columns are, by their names and whether they hold something."""
    filled = tuple(column for column, value in row.items() if value is not None)
    found = names.plan(filled, mapped)
    if not found.kind:
        found = names.plan(tuple(row), mapped)
    # Columns of a known name that hold something else: a class, or whether the row thinks.
    others = [
        found.names[part]
        for part, fits in (("label", forms.truth), ("thoughts", forms.thoughts))
        if part in found.names and fits(row[found.names[part]]) is None
    ]
    if others:
        kept = tuple(pair for pair in mapped if pair[0] not in others)
        found = names.plan(tuple(row), (*kept, *((column, None) for column in others)))
    return found


def _fault(kind: str, made: dict[str, Any]) -> tuple[str, str] | None:
    """Find what is wrong with a converted row as (reason, detail), or None."""
    tools = made.get("tools")
    if kind == "rows":
        return check(made["messages"], tools) or check_weight(made["messages"][-1])
    if kind == "texts":
        return check_text(made["text"]) or check_coding(made)
    answers = ("chosen", "rejected") if kind == "preferences" else ("completion",)
    for answer in answers:
        found = check([*made["prompt"], *made[answer]], tools)
        if found:
            return found[0], f"{answer}, {found[1]}"
    return None


def _said(made: dict[str, Any]) -> str:
    """Join what a row's user and assistant say."""
    if "text" in made:
        return made["text"]
    parts = ("messages", "prompt", "completion", "chosen")
    return " ".join(
        message["content"] or ""
        for part in parts
        for message in made.get(part, ())
        if message["role"] in ("user", "assistant")
    )


def convert(
    raw: Iterable[Any],
    source: str,
    *,
    strict: bool = False,
    columns: Mapping[str, str | None] | None = None,
) -> Converted:
    """Convert raw rows to one schema; reject those that cannot be trained on, with the reason.

    Args:
        raw: rows as `read_raw` or `datasets` return them, or a data frame.
        source: a name that is written into every row; its "task" is the same, unless the format
            distinguishes several tasks.
        strict: raise a Qwen3labError that names the first unusable row, instead of collecting them.
        columns: what columns are, for example {"frage": "prompt", "antwort": "completion"}; None
            leaves a column out. Those that are not named here are told by `columns.NAMES`.
    Raises:
        Qwen3labError: with strict, an unusable row; a column that is not there, or mapped to
            something unknown.
    """
    done = Converted(report=Report(source))
    for kind, row in converting(raw, source, strict=strict, columns=columns, report=done.report):
        getattr(done, kind).append(row)
    return done


def load(
    name: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    strict: bool = False,
    columns: Mapping[str, str | None] | None = None,
    **options: Any,
) -> Converted:
    """Load and convert a data set by name.

    Args:
        name: one of `SAMPLES` (small files of this course); a file of JSON, JSON lines, CSV, TSV or
            Parquet, also packed with gzip; a folder of such files; or the id of a set on the
            Hugging Face hub, such as those in `HUB`, read by `datasets.load_dataset`.
        split: split of a folder (`sources.files`) or hub set.
        limit: maximum number of rows; a hub set is then streamed, not downloaded.
        strict, columns: as in `convert`.
        options: passed to `load_dataset`, for example name="config" or cache_dir; with some, a
            folder is read by it as well.
    Raises:
        Qwen3labError: there is no such file or set, no network to fetch it, a file that cannot be
            read, columns of which no row can be made, or (with strict) an unusable row.
    """
    done = Converted()
    for kind, row in stream(
        name,
        split=split,
        limit=limit,
        strict=strict,
        columns=columns,
        report=done.report,
        **options,
    ):
        getattr(done, kind).append(row)
    if done.report.counts.keys() == {"rejected"} and done.report.advice:
        first = done.rejected[0]
        raise Qwen3labError(
            f"{Path(name).name} has no row that can be used: {first['reason']}"
            f" ({first['detail']}). {done.report.advice}."
        )
    return done


def stream(
    name: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    strict: bool = False,
    columns: Mapping[str, str | None] | None = None,
    report: Report | None = None,
    **options: Any,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Load and convert a data set row by row, without holding it; arguments as in `load`.

    Yields:
        Pairs as `converting` gives them.
    """
    report = Report(Path(name).stem) if report is None else report
    raw, source = _raw(str(name), split, limit, options, report)
    report.source = source
    yield from converting(islice(raw, limit), source, strict=strict, columns=columns, report=report)


def _raw(
    name: str, split: str, limit: int | None, options: dict[str, Any], report: Report
) -> tuple[Iterable[Any], str]:
    """Find a data set as (its raw rows, what it is called)."""
    if name in SAMPLES:
        return sources.stream(paths.DATA / "samples" / SAMPLES[name]), name
    path = Path(name)
    if not path.is_dir() and (path.is_file() or sources.is_data(path)):
        return sources.stream(path), sources.stem(path)
    if path.is_dir() and not options:
        found, others = sources.files(path, split)
        report.unread += [str(other.relative_to(path)) for other in others]
        return chain.from_iterable(map(sources.stream, found)), path.resolve().name
    return _from_library(name, split, limit, options), path.name


def _from_library(
    name: str, split: str, limit: int | None, options: dict[str, Any]
) -> Iterator[Any]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split, streaming=limit is not None, **options)
    except Exception as error:  # `datasets` and the libraries below it raise dozens of kinds
        why = f"{type(error).__name__}: {short(str(error).strip().split(chr(10))[0], 160)}"
        raise Qwen3labError(
            f"The data set {name!r} could not be loaded ({why}). Check its name, split and the"
            f" network, or use a file of yours or one of the samples: {', '.join(SAMPLES)}."
        ) from error


def table(done: Mapping[str, Converted]) -> pd.DataFrame:
    """Count conversations (by language), plain texts and refused rows of each source."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "source": name,
                "raw": len(one.rows) + len(one.texts) + len(one.rejected),
                "conversations": len(one.rows),
                "en": sum(row["language"] == "en" for row in one.rows),
                "zh": sum(row["language"] == "zh" for row in one.rows),
                "with tools": sum("tools" in row for row in one.rows),
                "plain texts": len(one.texts),
                "refused": len(one.rejected),
            }
            for name, one in done.items()
        ]
    ).set_index("source")
