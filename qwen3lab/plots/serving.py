"""The chart of engines: what they write in a second, and how long a user waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .style import COLOURS, LINES, MARKERS, axes_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def engine_load(table: pd.DataFrame, engines: Sequence[str]) -> Figure:
    """Up to four engines by concurrent requests: answer tokens a second (left), time to the first token (right, median to 95th percentile).

    Args:
        table: `engines.table` of a record.
        engines: which to draw.
    """
    figure, (left, right) = axes_of(7.2, 3.6, 2)
    levels = sorted(table.index.get_level_values("concurrent").unique())
    for number, name in enumerate(engines):
        rows, style = table.loc[name].loc[levels], {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": LINES[number], "markersize": 6}
        left.plot(range(len(levels)), rows["tokens a second"], label=name, **style)
        places = [place + 0.09 * (number - (len(engines) - 1) / 2) for place in range(len(levels))]
        middle, late = rows["first token p50, ms"] / 1000, rows["first token p95, ms"] / 1000
        right.errorbar(places, middle, yerr=[0 * middle, late - middle], capsize=3, elinewidth=1, **(style | {"linestyle": "none"}))
    for ax in (left, right):
        ax.set_xticks(range(len(levels)), levels)
        ax.grid(axis="y", alpha=0.3)
        ax.set_xlabel("concurrent requests")
    left.set(ylabel="answer tokens a second", ylim=(0, None))
    right.set(ylabel="seconds to the first token", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
