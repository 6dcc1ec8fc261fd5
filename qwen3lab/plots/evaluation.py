"""The charts of notebook 06: metrics and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .style import COLOURS, HATCHES, MARKERS, axes_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def metric_bars(table: pd.DataFrame, best: Mapping[str, float] | None = None) -> Figure:
    """Metrics before and after, each in a panel of its own, since their scales differ.

    Args:
        table: one row a metric (the row's name is the axis label), one column a system.
        best: metric -> the highest value that it can take, where its axis then ends.
    """
    figure, axes = axes_of(height=2.6, columns=len(table))
    for ax, (metric, row) in zip(axes, table.iterrows()):
        for i, (name, value) in enumerate(row.items()):
            ax.bar(i, value, width=0.7, color=COLOURS[i % 4] if not HATCHES[i % 4] else "white", edgecolor=COLOURS[i % 4],
                   hatch=HATCHES[i % 4], linewidth=1.2)
            ax.text(i, value, f"{value:.3g}", ha="center", va="bottom")
        ax.set_xticks(range(len(row)), row.index)
        ax.set(ylabel=metric, ylim=(0, (best or {}).get(metric, row.max() * 1.15)))
    return figure


def intervals(table: pd.DataFrame, truth: float | None = None) -> Figure:
    """95 % intervals of the same share at several sample sizes; `truth`: a dashed line.

    Args:
        table: columns n, accuracy, low, high.
    """
    figure, ax = axes_of(height=2.8)
    ax.errorbar(table.n, table.accuracy, yerr=[table.accuracy - table.low, table.high - table.accuracy], fmt=MARKERS[0],
                color=COLOURS[0], markersize=7, capsize=4)
    if truth is not None:
        ax.axhline(truth, linestyle="--", color=COLOURS[1], label="all questions")
        ax.legend(frameon=False)
    ax.set_xscale("log")
    ax.set_xticks(table.n, [str(n) for n in table.n], minor=False)
    ax.minorticks_off()
    ax.set(xlabel="number of questions (logarithmic)", ylabel="exact match", ylim=(max(0.0, table.low.min() - 0.1), 1.02))
    ax.grid(axis="y", alpha=0.3)
    return figure
