"""Charts of notebook 06: paired differences, confidence intervals, prompt wordings and judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qwen3lab.plots.style import COLOURS, LINES, MARKERS, axes_of, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def paired_differences(found: Mapping[str, Any]) -> Figure:
    """Draw how much better a second system is than a first, one line per exam.

    Points with 95 % intervals; the dashed line at 0 is "no difference". Under each name stand the
    questions that only one of the two has right.

    Args:
        found: exam -> its paired comparison (`statistics.compare`).
    """
    figure, ax = axes_of(height=0.9 + 0.5 * len(found))
    places, pairs = range(len(found)), list(found.values())
    points = [100 * pair.difference for pair in pairs]
    lows, highs = ([100 * getattr(pair, end) for pair in pairs] for end in ("low", "high"))
    ax.axvline(0, linestyle=LINES[1], color=COLOURS[1], linewidth=1.2)
    whiskers(
        ax,
        points,
        places,
        xerr=[
            [point - low for point, low in zip(points, lows)],
            [high - point for point, high in zip(points, highs)],
        ],
    )
    ax.plot(points, places, MARKERS[0], color=COLOURS[0], markersize=6)
    told = [
        f"{name} (n={pair.n})\nonly old {pair.only_first}, only new {pair.only_second}"
        for name, pair in found.items()
    ]
    ax.set_yticks(places, told)
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set(xlabel="new minus old, points (lines: 95 % interval)")
    ax.grid(axis="x", alpha=0.3)
    return figure


def wording_dots(table: pd.DataFrame, xlabel: str = "exact match (lines: 95 % interval)") -> Figure:
    """Draw accuracy on the same questions by wording; the first wording's accuracy is dashed.

    Args:
        table: of `wordings.table`: index wording, columns n, accuracy, low, high.
    """
    figure, ax = axes_of(height=0.9 + 0.28 * len(table))
    places = range(len(table))
    ax.axvline(
        table.accuracy.iloc[0],
        linestyle=LINES[1],
        color=COLOURS[1],
        linewidth=1.2,
        label=table.index[0],
    )
    whiskers(
        ax,
        table.accuracy,
        places,
        xerr=[
            (table.accuracy - table.low).clip(lower=0),
            (table.high - table.accuracy).clip(lower=0),
        ],
    )
    ax.plot(table.accuracy, places, MARKERS[0], color=COLOURS[0], markersize=6)
    ax.set_yticks(places, [f"{name} (n={n})" for name, n in zip(table.index, table.n)])
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, xlim=(0, 1.02))
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, loc="lower left")
    return figure


def coverage(
    table: pd.DataFrame, truth: float = 0.95, band: tuple[float, float] = (0.93, 0.97)
) -> Figure:
    """Draw the coverage of confidence intervals against the number of questions.

    One line per kind of interval, with the band of acceptable coverage.

    Args:
        table: index n (ascending), one column per interval, values shares of simulated tests.
    """
    figure, ax = axes_of(height=3.0)
    ax.axhspan(*band, color="0.9", zorder=0)
    ax.axhline(truth, color="black", linewidth=0.8)
    for i, name in enumerate(table.columns):
        ax.plot(
            table.index,
            table[name],
            LINES[i % 4],
            color=COLOURS[i % 4],
            marker=MARKERS[i % 4],
            markersize=5,
            linewidth=1.6,
            label=name,
        )
    ax.set_xscale("log")
    ax.set_xticks(list(table.index), [f"{n:,}" for n in table.index])
    ax.minorticks_off()
    ax.set(
        xlabel="questions in the test (logarithmic)",
        ylabel="intervals that\nhold the truth",
        ylim=(min(0.85, float(table.min().min()) - 0.03), 1.0),
    )
    ax.legend(frameon=False, loc="lower right")
    return figure


def judged_orders(judged: pd.DataFrame) -> Figure:
    """Draw a judge's preference for an answer in first place against that in second place.

    One point per question. In the grey fields the choice is the same in both orders; in the white
    ones the order decided.

    Args:
        judged: of `judge.pairwise`: leading, trailing, changes.
    """
    from matplotlib.patches import Rectangle

    figure, ax = axes_of(width=4.4, height=4.8)
    for corner in ((0, 0), (0.5, 0.5)):
        ax.add_patch(Rectangle(corner, 0.5, 0.5, color="0.92", zorder=0))
    for i, (name, part) in enumerate(
        (
            ("the same choice twice", judged[~judged.changes]),
            ("changed with the order", judged[judged.changes]),
        )
    ):
        ax.plot(
            part.leading,
            part.trailing,
            MARKERS[i],
            color=COLOURS[i],
            markerfacecolor="white",
            markersize=5,
            label=f"{name}: {len(part)}",
        )
    ax.axhline(0.5, color="black", linewidth=0.8)
    ax.axvline(0.5, color="black", linewidth=0.8)
    ax.set(
        xlabel="p(first answer) where it is A",
        ylabel="p(first answer) where it is B",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    figure.legend(frameon=False, loc="outside upper left")
    return figure
