"""The charts of rows, lengths, packing and the clinic, read back from the drawn figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from charts import bars, ends, heights, intervals, labels, legend, ticks, widths, words

from qwen3lab import chat, models, paths, plots
from qwen3lab.data import cleaning, formats, packing, pii
from qwen3lab.evaluation import wilson
from qwen3lab.results import records


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("chat")


@pytest.fixture(scope="module")
def masked():
    """Notebook 02's conversations without tools, cleaned."""
    raw = {
        name: formats.read_raw(paths.DATA / "samples" / file)
        for name, file in formats.SAMPLES.items()
    }
    converted = {name: formats.convert(rows, source=name) for name, rows in raw.items()}
    rows = [row for done in converted.values() for row in done.rows]
    texts = [text for done in converted.values() for text in done.texts]
    kept, _ = cleaning.clean_rows(rows + texts)
    return [row for row in kept if "messages" in row and "tools" not in row]


@pytest.fixture(scope="module")
def examples(masked, tokenizer):
    return [chat.example(tokenizer, row["messages"]) for row in masked]


def test_row_funnel_has_a_bar_and_a_number_for_each_step():
    stages = {
        "raw": 181,
        "usable": 162,
        "cleaned": 154,
        "conversations without tools": 132,
        "train": 118,
        "train, unfolded": 134,
        "validation": 14,
    }
    (ax,) = plots.row_funnel(stages).axes
    assert widths(bars(ax)[0]) == list(stages.values())
    assert words(ax) == [f" {rows}" for rows in stages.values()]
    assert ticks(ax.yaxis) == list(stages) and ax.yaxis_inverted()
    assert labels(ax) == ("rows", "")


def test_grouped_shares_of_one_column(masked, examples):
    counts = pd.DataFrame(
        {
            "source": [row["source"] for row in masked],
            "all": [len(example["labels"]) - 1 for example in examples],
            "answer": [sum(label != -100 for label in example["labels"]) for example in examples],
        }
    )
    counts = counts.groupby("source").sum()
    shares = pd.DataFrame({"loss on everything": counts["answer"] / counts["all"]})
    figure = plots.grouped_shares(shares, ylabel="share of trained tokens")
    (ax,) = figure.axes
    (group,) = bars(ax)
    assert heights(group) == pytest.approx((counts["answer"] / counts["all"]).tolist())
    assert words(ax) == ["0.35", "0.47", "0.11", "0.26"]  # what notebook 02 shows
    assert ticks(ax.xaxis) == ["alpaca", "mathinstruct", "medqa", "sharegpt"]
    assert labels(ax) == ("", "share of trained tokens")
    assert legend(figure) == ["loss on everything"]


def test_grouped_shares_stand_side_by_side():
    rows = pd.DataFrame(records.read("augmentation")["rows"])
    table = rows.pivot(index="set", columns="method", values="accuracy")[["none", "templates"]]
    figure = plots.grouped_shares(table, ylabel="exact match")
    none, templates = bars(figure.axes[0])
    assert heights(none) == table["none"].tolist()
    assert heights(templates) == table["templates"].tolist()
    for place, (left, right) in enumerate(zip(none, templates)):
        assert left.get_x() + left.get_width() < place < right.get_x()
    assert legend(figure) == ["none", "templates"]


def test_token_lengths_counts_every_row(masked, tokenizer):
    found = cleaning.token_lengths(masked, tokenizer, answers_only=True)
    lengths = {
        name: [length for row, length in zip(masked, found) if row["language"] == name]
        for name in ("en", "zh")
    }
    xlabel = "tokens in the assistant's turns"
    (ax,) = plots.token_lengths(lengths, limit=50, xlabel=xlabel).axes
    edges = max(found) * np.arange(31) / 30
    for outline, values in zip(ax.patches, lengths.values()):
        drawn = outline.get_xy()[1:-1:2, 1]  # an outline visits both corners of each bin's top
        assert drawn.tolist() == np.histogram(values, edges)[0].tolist()
        assert drawn.sum() == len(values)
    assert len(ax.patches) == 2
    assert legend(ax) == ["en (n=75)", "zh (n=57)"]
    (limit,) = ax.lines
    assert list(limit.get_xdata()) == [50, 50] and words(ax) == [" 50"]
    assert labels(ax) == (xlabel, "rows")


def test_token_lengths_without_a_limit_has_no_line():
    (ax,) = plots.token_lengths({"all": [3, 5, 30]}).axes
    assert not ax.lines and not ax.texts and labels(ax) == ("tokens in a row", "rows")
    assert ax.patches[0].get_xy()[1:-1:2, 1].nonzero()[0].tolist() == [3, 5, 29]


def test_packed_rows_has_a_box_a_row_and_one_for_the_padding(examples):
    sizes = [len(example["input_ids"]) for example in examples]
    packed = [[sizes[row] for row in rows] for rows in packing.best_fit(sizes, capacity=512)]
    ways = {"each padded to the longest": [[size] for size in sizes], "packed": packed}
    figure = plots.packed_rows(ways)
    for ax, (name, sequences) in zip(figure.axes, ways.items()):
        width = max(map(sum, sequences))
        boxes = iter(bars(ax))
        for line, row in enumerate(sequences):
            drawn = [next(boxes)[0] for _ in range(len(row) + 1)]
            assert [box.get_width() for box in drawn] == [*row, width - sum(row)]
            assert [box.get_x() for box in drawn] == [sum(row[:n]) for n in range(len(row) + 1)]
            assert {box.get_y() + box.get_height() / 2 for box in drawn} == {line}
            assert [box.get_hatch() for box in drawn] == [None] * len(row) + ["////"]
        assert next(boxes, None) is None
        places = width * len(sequences)
        assert ax.get_title() == f"{name}\n{sum(sizes) / places:.0%} of {places:,} positions used"
        assert labels(ax) == ("position in the sequence", "sequence")
    assert len(figure.axes) == 2


def test_clinic_bars_shows_shares_with_intervals_and_counts_without():
    lines = {
        "loss on user text": ("share of facts right", 3 / 24, 23 / 24, True),
        "pad = eos": ("share of answers that stop", 0.0, 1.0, True),
        "no end label": ("tokens per answer", 32, 4.96, False),
        "human and gpt": ("trained tokens left", 0, 112, False),
    }
    table = pd.DataFrame(
        [
            {"symptom": symptom, "sick": sick, "healthy": healthy, "n": 24, "share": share}
            for symptom, sick, healthy, share in lines.values()
        ],
        index=list(lines),
    )
    for side in ("sick", "healthy"):
        table[[f"{side} low", f"{side} high"]] = [
            wilson(round(value * 24), 24) if share else (value, value)
            for value, share in zip(table[side], table.share)
        ]
    figure = plots.clinic_bars(table)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"{name}\nn = 24" for name in lines]
    assert [ax.get_ylabel() for ax in figure.axes] == table.symptom.tolist()
    for ax, (_, row) in zip(figure.axes, table.iterrows()):
        assert heights(bars(ax)[0]) == [row.sick, row.healthy]
        assert ticks(ax.xaxis) == ["mistake", "right"]
        assert len(intervals(ax)) == int(row.share)
        if row.share:
            lows, highs = ends(intervals(ax)[0])
            assert lows == pytest.approx([row["sick low"], row["healthy low"]], abs=1e-12)
            assert highs == pytest.approx([row["sick high"], row["healthy high"]])
    written = [words(ax) for ax in figure.axes]
    assert written == [["0.12", "0.96"], ["0.00", "1.00"], ["32", "5.0"], ["0", "112"]]


def test_precision_and_recall_of_the_held_out_texts():
    texts = formats.read_raw(paths.DATA / "samples" / "personal.jsonl")
    table = pd.DataFrame(pii.score([text for text in texts if text["part"] == "held-out"])).T
    table["found"] = table["right"] + table["wrong"]
    table["hit"] = table["labelled"] - table["missed"]
    for share, part, whole in (("precision", "right", "found"), ("recall", "hit", "labelled")):
        table[[f"{share} low", f"{share} high"]] = [
            wilson(*pair) for pair in zip(table[part], table[whole])
        ]
    figure = plots.precision_and_recall(table)
    (ax,) = figure.axes
    assert legend(figure) == ["precision", "recall"]
    assert ticks(ax.yaxis) == ["email", "ip", "id card", "bank card", "phone"]
    assert labels(ax) == ("share (lines: 95 % interval)", "")
    for share, group, lines in zip(("precision", "recall"), bars(ax), intervals(ax)):
        assert widths(group) == pytest.approx(table[share].tolist())
        lows, highs = ends(lines)
        assert lows == pytest.approx(table[f"{share} low"].tolist())
        assert highs == pytest.approx(table[f"{share} high"].tolist())
    assert widths(bars(ax)[1])[0] == pytest.approx(15 / 19)
    assert words(ax) == [f"n={n}" for n in [*table.found, *table.labelled]]
