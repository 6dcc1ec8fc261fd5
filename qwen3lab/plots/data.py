"""Charts of notebook 02: row counts, lengths, packing, the mask clinic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qwen3lab.plots.style import COLOURS, HATCHES, LINES, axes_of, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def row_funnel(stages: Mapping[str, int]) -> Figure:
    """Draw the number of rows left after each step of the data preparation."""
    figure, ax = axes_of(height=0.8 + 0.42 * len(stages))
    ax.barh(range(len(stages)), list(stages.values()), height=0.6, color=COLOURS[0])
    for place, value in enumerate(stages.values()):
        ax.text(value, place, f" {value}", va="center")
    ax.set_yticks(range(len(stages)), list(stages))
    ax.invert_yaxis()
    ax.set(xlabel="rows")
    ax.margins(x=0.1)
    return figure


def grouped_shares(table: pd.DataFrame, ylabel: str) -> Figure:
    """Draw shares in [0, 1] as grouped bars: one group per row, one bar per column, with values."""
    figure, ax = axes_of(height=3.0)
    width = 0.8 / len(table.columns)
    for i, column in enumerate(table.columns):
        places = [place + (i - (len(table.columns) - 1) / 2) * width for place in range(len(table))]
        ax.bar(
            places,
            table[column],
            width=width * 0.9,
            color="white" if HATCHES[i % 4] else COLOURS[i % 4],
            edgecolor=COLOURS[i % 4],
            hatch=HATCHES[i % 4],
            linewidth=1.2,
            label=column,
        )
        for place, value in zip(places, table[column]):
            ax.text(place, value + 0.01, f"{value:.2f}", ha="center", va="bottom", fontsize="small")
    ax.set_xticks(range(len(table)), list(table.index))
    ax.set(ylabel=ylabel, ylim=(0, 1.12), yticks=[0, 0.25, 0.5, 0.75, 1])
    figure.legend(loc="outside upper right", ncols=len(table.columns), frameon=False)
    return figure


def token_lengths(
    lengths: Mapping[str, Sequence[int]], limit: int | None = None, xlabel: str = "tokens in a row"
) -> Figure:
    """Draw histograms of row lengths, one outline per data set, with `limit` as a line."""
    figure, ax = axes_of(height=3.0)
    longest = max(max(values) for values in lengths.values())
    edges = [longest * i / 30 for i in range(31)]
    for i, (name, values) in enumerate(lengths.items()):
        ax.hist(
            values,
            bins=edges,
            histtype="step",
            linestyle=LINES[i % 4],
            linewidth=1.8,
            color=COLOURS[i % 4],
            label=f"{name} (n={len(values)})",
        )
    if limit is not None:
        ax.axvline(limit, color="black", linewidth=1, linestyle="--")
        ax.text(limit, ax.get_ylim()[1] * 0.97, f" {limit}", va="top", fontsize="small")
    ax.set(xlabel=xlabel, ylabel="rows", xlim=(0, None))
    ax.legend(frameon=False)
    return figure


def packed_rows(ways: Mapping[str, Sequence[Sequence[int]]]) -> Figure:
    """Draw ways to lay out rows in a batch: a line per sequence, a box per row, padding hatched.

    Args:
        ways: name -> sequences, each with the lengths of its rows in tokens; one panel per way,
            whose sequences are all padded to the longest.
    """
    figure, axes = axes_of(height=3.4, columns=len(ways), sharex=True)
    for ax, (name, sequences) in zip(axes if len(ways) > 1 else [axes], ways.items()):
        width, tokens = max(map(sum, sequences)), sum(map(sum, sequences))
        for line, lengths in enumerate(sequences):
            start = 0
            for place, length in enumerate(lengths):
                ax.barh(
                    line,
                    length,
                    left=start,
                    height=0.86,
                    color=("#1f4e79", "#7ba3c7")[place % 2],
                    edgecolor="white",
                    linewidth=0.3,
                )
                start += length
            ax.barh(
                line,
                width - start,
                left=start,
                height=0.86,
                color="white",
                edgecolor="#999999",
                hatch="////",
                linewidth=0,
            )
        room = width * len(sequences)
        ax.set_title(f"{name}\n{tokens / room:.0%} of {room:,} positions used", fontsize="medium")
        ax.set(xlabel="position in the sequence", ylabel="sequence")
        ax.invert_yaxis()
        ax.yaxis.get_major_locator().set_params(integer=True)
    return figure


def clinic_bars(table: pd.DataFrame) -> Figure:
    """Draw the mask clinic: each symptom with and without the mistake, with 95 % intervals.

    Args:
        table: as `qwen3lab.pitfalls.label_masks.table` returns it; one panel per exhibit.
    """
    columns = min(3, len(table))
    lines = -(-len(table) // columns)
    figure, ax = axes_of(height=0.4 + 2.4 * lines)
    ax.remove()
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, (name, row) in zip(grid, table.iterrows()):
        ax.spines[["top", "right"]].set_visible(False)
        values, top = (row.sick, row.healthy), 1.0 if row.share else max(row.sick, row.healthy)
        ax.bar(
            (0, 1),
            values,
            width=0.62,
            color=("white", COLOURS[0]),
            edgecolor=(COLOURS[1], COLOURS[0]),
            hatch=("////", ""),
            linewidth=1.2,
        )
        highest = list(values)
        if row.share:
            ends = [(row["sick low"], row["sick high"]), (row["healthy low"], row["healthy high"])]
            whiskers(
                ax,
                (0, 1),
                values,
                yerr=[
                    [v - low for v, (low, _) in zip(values, ends)],
                    [high - v for v, (_, high) in zip(values, ends)],
                ],
            )
            highest = [high for _, high in ends]
        for place, (value, high) in enumerate(zip(values, highest)):
            ax.text(
                place,
                high + 0.03 * top,
                (
                    f"{value:.2f}"
                    if row.share
                    else f"{value:,.0f}"
                    if float(value).is_integer()
                    else f"{value:,.1f}"
                ),
                ha="center",
                fontsize="small",
            )
        ax.set_xticks((0, 1), ("mistake", "right"))
        ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.3 * top), yticks=[0, top / 2, top])
        ax.set_ylabel(row.symptom, fontsize="small")
        ax.set_title(f"{name}\nn = {int(row.n)}", fontsize="small", loc="left")
    for ax in grid[len(table) :]:
        ax.remove()
    return figure


def precision_and_recall(table: pd.DataFrame) -> Figure:
    """Draw precision and recall of a finder by kind of personal data, with 95 % intervals.

    Args:
        table: one row per kind; columns found, precision, labelled, recall, and both shares with "
            low" and " high".
    """
    figure, ax = axes_of(height=1.0 + 0.5 * len(table))
    for i, (share, count) in enumerate({"precision": "found", "recall": "labelled"}.items()):
        places = [place + (i - 0.5) * 0.4 for place in range(len(table))]
        ax.barh(
            places,
            table[share],
            height=0.34,
            color="white" if i else COLOURS[0],
            edgecolor=COLOURS[i],
            hatch=HATCHES[i],
            linewidth=1.2,
            label=share,
        )
        whiskers(
            ax,
            table[share],
            places,
            xerr=[table[share] - table[f"{share} low"], table[f"{share} high"] - table[share]],
        )
        for place, n in zip(places, table[count]):
            ax.text(1.02, place, f"n={n}", va="center", fontsize="small")
    ax.set_yticks(range(len(table)), [name.replace("_", " ") for name in table.index])
    ax.invert_yaxis()
    ax.set(xlabel="share (lines: 95 % interval)", xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1])
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
