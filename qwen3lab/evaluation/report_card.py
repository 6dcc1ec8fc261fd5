"""Write a report card for a model: one page as HTML and Markdown, every number with its count.

The page is self-contained: no script, no outside request, charts embedded. Questions, answers and
names come from users and models and stay text: they are never interpreted as HTML or Markdown.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.data.rows import as_exams, records
from qwen3lab.data.splits import prompt
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import contamination, perplexities, scoring, slices, statistics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHOWN = 240  # characters of a question or an answer
STYLE = (
    ".report-card{font:14px/1.45 system-ui,sans-serif;color:#222;background:#fff;"
    "max-width:50rem;margin:1rem auto;padding:0 1rem}\n"
    ".report-card h1{font-size:1.5rem;margin:.2rem 0}.report-card h2{font-size:1.05rem;"
    "margin:1rem 0 .3rem;border-bottom:1px solid #1f4e79}\n"
    ".report-card table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    ".report-card th,.report-card td{padding:.1rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd}\n"
    ".report-card th:first-child,.report-card td:first-child{text-align:left}"
    ".report-card pre{white-space:pre-wrap;\n"
    "overflow-wrap:anywhere;unicode-bidi:isolate;margin:.1rem 0;padding:.2rem .5rem;"
    "background:#f4f4f4}\n"
    ".report-card dt{font-weight:600}.report-card dd{margin:0 0 .3rem 0}"
    ".report-card img{max-width:100%}@media print{.report-card{font-size:11px;margin:0}}"
)
POLICY = (  # a browser refuses all else, should anything slip through
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
)


@dataclass
class Section:
    """A report section: heading, sentences, and optionally a table, examples and a chart.

    The table's cells are text, the examples (label, text) pairs; the chart has a description.
    """

    heading: str
    sentences: list[str] = field(default_factory=list)
    table: pd.DataFrame | None = None
    examples: list[tuple[str, str]] = field(default_factory=list)
    chart: Figure | None = None
    description: str = ""

    def to_html(self) -> str:
        """Render the section as HTML, all text escaped."""
        parts = [
            f"<h2>{_escape(self.heading)}</h2>",
            *(f"<p>{_escape(text)}</p>" for text in self.sentences),
        ]
        if self.table is not None:
            head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in self.table.columns)
            rows = "".join(
                "<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>"
                for row in self.table.itertuples(index=False)
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
        if self.examples:
            parts.append(
                "<dl>"
                + "".join(
                    f"<dt>{_escape(label)}</dt><dd><pre>{_escape(text)}</pre></dd>"
                    for label, text in self.examples
                )
                + "</dl>"
            )
        if self.chart is not None:
            image = base64.b64encode(self.chart._repr_png_()).decode()
            parts.append(
                f'<img alt="{_escape(self.description)}" src="data:image/png;base64,{image}">'
            )
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """Render the section as Markdown, without the chart.

        Example texts are fenced with a fence longer than any in them.
        """
        parts = [f"## {_mark(self.heading)}", *map(_mark, self.sentences)]
        if self.table is not None:
            lines = [
                list(self.table.columns),
                ["---"] + ["---:"] * (len(self.table.columns) - 1),
                *self.table.itertuples(index=False),
            ]
            parts.append(
                "\n".join(
                    "| " + " | ".join(cell if number == 1 else _mark(cell) for cell in line) + " |"
                    for number, line in enumerate(lines)
                )
            )
        for label, text in self.examples:
            text = _clean(text)
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            parts.append(f"{_mark(label)}\n\n{fence}text\n{text}\n{fence}")
        return "\n\n".join(parts)


@dataclass(repr=False)
class Card:
    """A report page of sections; it displays itself in a notebook."""

    title: str
    sections: list[Section]

    def __repr__(self) -> str:
        return f"{self.title}: {', '.join(section.heading for section in self.sections)}"

    @property
    def html(self) -> str:
        """Render a complete, self-contained HTML document."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta'
            f' http-equiv="Content-Security-Policy" content="{_escape(POLICY)}">\n'
            '<meta name="viewport"'
            f' content="width=device-width">\n<title>{_escape(self.title)}</title>\n</head>'
            f"\n<body>\n{self._repr_html_()}\n</body>\n</html>\n"
        )

    @property
    def markdown(self) -> str:
        """Render the page as Markdown, without the charts, whose numbers are in the tables."""
        return (
            "\n\n".join(
                [f"# {_mark(self.title)}", *(section.to_markdown() for section in self.sections)]
            )
            + "\n"
        )

    def _repr_html_(self) -> str:
        return (
            f'<div class="report-card"><style>{STYLE}</style>\n<h1>{_escape(self.title)}</h1>\n'
            + "\n".join(s.to_html() for s in self.sections)
            + "</div>"
        )

    def save(self, folder: str | Path, name: str = "report") -> tuple[Path, Path]:
        """Write `<name>.html` and `<name>.md` into a folder; returns both paths.

        The folder is created if it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{name}.html", folder / f"{name}.md"
        for path, text in zip(paths, (self.html, self.markdown)):
            path.write_text(text, encoding="utf-8", newline="\n")
        return paths


def card(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    rows: Sequence[dict[str, Any]],
    answers: pd.DataFrame | None = None,
    train: Sequence[dict[str, Any]] | None = None,
    title: str = "Report card",
    examples: int = 2,
    cost: bool = True,
    least: int = slices.LEAST,
    scored: int | None = None,
    **options: Any,
) -> Card:
    """Evaluate a model on test rows and build its report card.

    The page covers training, scores, worst slices, examples, perplexity, contamination and cost.

    Args:
        model: what `training.fine_tune` returns, or a loaded model with its `tokenizer`.
        rows: test rows of `data/tasks`, or of any kind that `evaluation.evaluate_tasks` takes.
        answers: of `evaluation.evaluate_tasks` or `assistant.evaluate` on these rows, if the model
            has answered already.
        train: the training rows, for the contamination check; without them the page says that
            nothing was checked.
        examples: number of right and of wrong examples to show, the first of each kind.
        cost: also show seconds, speed and memory of a Run, which differ from machine to machine.
        least: minimum rows per slice.
        scored: compute the perplexity on only the first `scored` rows; reading all tokens of long
            rows takes time.
        options: of `evaluation.evaluate_tasks`, for example max_new_tokens.
    Raises:
        Qwen3labError: no rows, a model without a tokenizer, or answers to other rows.
    """
    rows, train = as_exams(rows), None if train is None else records(train)
    run = model if hasattr(model, "history") else None
    model, tokenizer = (run.model, run.tokenizer) if run else (model, tokenizer)
    if tokenizer is None or not rows:
        raise Qwen3labError(
            "A report card needs a tokenizer and test rows. Give a Run, or a model and its"
            " tokenizer, and at least one row."
        )
    answers = (
        scoring.evaluate_tasks(model, tokenizer, rows, **options) if answers is None else answers
    )
    described = slices.describe(answers, rows)
    return Card(
        title,
        [
            _training(run, model, cost),
            _scores(described),
            *_tail(described, least),
            *_examples(described, rows, examples),
            _perplexity(model, tokenizer, rows[:scored]),
            _contamination(train, rows),
        ],
    )


def _training(run: Any, model: PreTrainedModel, cost: bool) -> Section:
    from qwen3lab.plots import training

    if run is None:
        return Section("Model", [f"{model.num_parameters():,} parameters; not trained here."])
    base = Path(run.source).name
    sentences = [
        f"Trained from {base}. {run.summary()}.",
        f"Learning rate {run.settings['learning_rate']:g},"
        f" {run.settings['per_device_train_batch_size']} rows a step, seed {run.settings['seed']}.",
    ]
    if run.adapter:
        sentences.append("Adapter: rank {r}, alpha {lora_alpha}.".format(**run.adapter))
    if cost:
        sentences.append(f"Cost on this machine: {run.cost()}.")
    return Section(
        "What was trained",
        sentences,
        chart=training.loss_curves({"training": run.history}),
        description="Loss by optimiser step.",
    )


def _scores(answers: pd.DataFrame) -> Section:
    import pandas as pd

    lines = []
    for name, group in [
        ("all", answers),
        *(
            groups
            for column in ("task", "language")
            if answers[column].nunique() > 1
            for groups in answers.groupby(column, sort=True)
        ),
    ]:
        right = int(group.correct.sum())
        low, high = statistics.wilson(right, len(group))
        similar = _similarity(group)
        line = {
            "rows": name,
            "n": len(group),
            "right": right,
            "accuracy": f"{right / len(group):.3f}",
            "95 % interval": f"{low:.3f} to {high:.3f}",
            **{key: f"{similar[key]:.3f}" for key in ("F1", "ROUGE-L")},
            "BLEU-4": f"{similar['BLEU-4']:.1f}" if "BLEU-4" in similar else "",
        }
        lines.append(line)
    return Section(
        "Scores",
        [
            "Right: as the task counts it, mostly exact match. F1, ROUGE-L (0 to 1): means over"
            " rows, Chinese by character. BLEU-4 (0 to 100): for rows of one language (13a or zh)."
        ],
        pd.DataFrame(lines),
    )


def _similarity(group: pd.DataFrame) -> dict[str, float]:
    """F1 and ROUGE-L as means over rows, BLEU-4 where all rows are of one language."""
    from qwen3lab.evaluation import metrics

    by_language = group.groupby(group.language.where(group.language == "zh", "en"))
    found = {"F1": 0.0, "ROUGE-L": 0.0}
    for language, rows in by_language:
        texts = {"predictions": rows.prediction.tolist(), "references": rows.reference.tolist()}
        scores = metrics.suite(language).compute(**texts)
        for key, name in (("F1", "f1"), ("ROUGE-L", "rouge_l")):
            found[key] += scores[name] * len(rows) / len(group)
        if len(by_language) == 1:
            found["BLEU-4"] = scores["bleu"]
    return found


def _tail(answers: pd.DataFrame, least: int) -> list[Section]:
    import pandas as pd

    try:
        found = slices.worst(answers, least=least)
    except Qwen3labError:  # all rows are of one kind
        return []
    tests, bad = found.attrs["tests"], int(found.bad.sum())
    table = pd.DataFrame(
        {
            "slice": found.slice,
            "n": found.n,
            "right": found.correct,
            "accuracy": found.accuracy.map("{:.3f}".format),
            "95 % interval": [
                f"{low:.3f} to {high:.3f}" for low, high in zip(found.low, found.high)
            ],
            "rest": found.rest.map("{:.3f}".format),
            "adjusted p": found.adjusted.map("{:.2g}".format),
        }
    )
    return [
        Section(
            "Worst slices",
            [
                f"Of {tests} slices of at least {least} rows, {bad} are worse than the rest beyond"
                f" chance (one-sided exact test, Benjamini-Hochberg over all {tests}, 0.05); the"
                f" surest first. {found.attrs['left out']} smaller slices were not tested."
            ],
            table.head(5),
        )
    ]


def _examples(answers: pd.DataFrame, rows: Sequence[dict[str, Any]], count: int) -> list[Section]:
    sections = []
    for heading, wanted in (("Right", True), ("Wrong", False)):
        places = [place for place, right in enumerate(answers.correct) if right == wanted][:count]
        texts = [
            (f"{label}, {answers.id.iloc[place]}", text)
            for place in places
            for label, text in (
                ("Asked", prompt(rows[place])),
                ("Wanted", answers.reference.iloc[place]),
                ("Written", answers.prediction.iloc[place]),
            )
        ]
        sections.append(
            Section(
                f"{heading}: {len(places)} of {int((answers.correct == wanted).sum())} shown",
                examples=[(label, shorten(text)) for label, text in texts],
            )
        )
    return sections


def _perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]
) -> Section:
    import pandas as pd

    kept = [row for row in rows if not row.get("thinking") or row.get("thoughts")]
    if not kept:
        return Section(
            "Perplexity", ["The rows have no thoughts written out, so nothing was scored."]
        )
    found = perplexities.by_part(model, tokenizer, kept)
    return Section(
        "Perplexity",
        [
            f"Of the wanted answers of {len(kept)} rows, and of what the training masks. The mean"
            " is over tokens."
        ],
        pd.DataFrame(
            {
                "part": found.index,
                "tokens": [f"{n:,}" for n in found.tokens],
                "loss": found.loss.map("{:.3f}".format),
                "perplexity": found.perplexity.map("{:,.2f}".format),
            }
        ),
    )


def _contamination(
    train: Sequence[dict[str, Any]] | None, rows: Sequence[dict[str, Any]]
) -> Section:
    import pandas as pd

    if not train:
        return Section("Contamination", ["Not checked: no training rows were given."])
    lines = []
    for name, options in contamination.RULES.items():
        found = contamination.check(train, rows, **options)
        lines.append(
            {
                "rule": name,
                "test rows": len(found),
                "hits": int(found.hit.sum()),
                "share": f"{found.hit.mean():.3f}",
            }
        )
    return Section(
        "Contamination",
        [
            f"Test rows that share runs of words (Chinese: characters) with the {len(train)}"
            " training rows, by the usual rules. A hit is a row to look at: set phrases count as"
            " well. Other wordings of a row are not found."
        ],
        pd.DataFrame(lines),
    )


def _clean(text: Any) -> str:
    """Replace what no page can hold: control characters and lone surrogates.

    Line breaks and tabs stay.
    """
    return re.sub(
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]",
        "\ufffd",
        str(text).replace("\r\n", "\n").replace("\r", "\n"),
    )


def _escape(text: Any) -> str:
    return html.escape(_clean(text))


def _mark(text: Any) -> str:
    """Escape a text for one line of Markdown, so that all characters appear as they are."""
    return re.sub(
        r"([\\`*_{}\[\]()#+!|~])", r"\\\1", " ".join(html.escape(_clean(text), quote=False).split())
    )


def shorten(text: str) -> str:
    """Cut the middle out of a text of more than `SHOWN` characters."""
    return (
        text
        if len(text) <= SHOWN
        else f"{text[: SHOWN // 2].rstrip()} … {text[-SHOWN // 2 :].lstrip()}"
    )
