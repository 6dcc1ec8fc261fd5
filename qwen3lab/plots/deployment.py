"""Charts of notebook 07: the equality ladder, calibration texts, faster decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from qwen3lab.plots.style import COLOURS, HATCHES, LINES, MARKERS, axes_of, chart_class

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def ladder(table: pd.DataFrame) -> Figure:
    """Draw variants of one model: bytes, KL divergence from the first, accuracy and speed.

    One panel for each of the four measures, the variants from top to bottom.

    Args:
        table: one row per variant, by name; columns disk and memory (bytes), kl, kl_low, kl_high
            (nats per token), agreement, accuracy, low, high, speed (tokens per second)
            (`qwen3lab.serving.ladder.table`). The divergence has a logarithmic axis; a variant at
            divergence 0 has no marker there.
    """
    # 1. Four panels with the variants as common rows.
    figure = chart_class()(figsize=(7.4, 1.4 + 0.56 * len(table)), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    (size, distance), (answers, speed) = grid
    places = list(range(len(table)))
    # 2. Upper left: bytes, with the names of the variants.
    for shift, column, label, fill in (
        (-0.19, "disk", "on disk", COLOURS[0]),
        (0.19, "memory", "in memory", "white"),
    ):
        size.barh(
            [place + shift for place in places],
            table[column] / 1e6,
            height=0.36,
            color=fill,
            edgecolor=COLOURS[0],
            label=label,
        )
    size.set(xlabel="MB")
    size.set_yticks(places, table.index)
    size.invert_yaxis()
    size.legend(frameon=False, loc="lower right")
    # 3. Upper right: the divergence. A logarithmic axis has no place for 0.
    known = [place for place in places if table.kl_low.iloc[place] > 0]
    kl = table.iloc[known]
    distance.errorbar(
        kl.kl,
        known,
        xerr=[kl.kl - kl.kl_low, kl.kl_high - kl.kl],
        fmt=MARKERS[1],
        color=COLOURS[1],
        markersize=6,
        capsize=3,
    )
    distance.set(xlabel="KL to the first form, nats a token", xscale="log")
    # 4. Lower left: right answers and equal next tokens.
    answers.errorbar(
        table.accuracy,
        places,
        xerr=[table.accuracy - table.low, table.high - table.accuracy],
        fmt=MARKERS[0],
        color=COLOURS[0],
        markersize=7,
        capsize=3,
        label="exact match, 95 % interval",
    )
    answers.plot(
        table.agreement,
        places,
        MARKERS[2],
        color=COLOURS[1],
        markersize=8,
        markerfacecolor="white",
        markeredgewidth=1.8,
        label="same next token",
    )
    answers.set(xlabel="share", xlim=(max(0.0, int(table.low.min() * 10) / 10), 1.02))
    # 5. Lower right: speed.
    speed.barh(
        places, table.speed, height=0.6, color="white", edgecolor=COLOURS[2], hatch=HATCHES[1]
    )
    speed.set(xlabel="answer tokens a second, one at a time")
    # 6. What all panels share, and the legend of the third.
    for ax in grid.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    figure.legend(
        *answers.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False
    )
    return figure


def calibrations(table: pd.DataFrame) -> Figure:
    """Draw GPTQ's distance to the unquantised model against the number of calibration texts.

    One line per kind of text, one dot per draw.

    Args:
        table: one row per run; columns texts (the kind), count, kl.
    """
    figure, ax = axes_of()
    for i, (kind, rows) in enumerate(table.groupby("texts", sort=False)):
        means = rows.groupby("count").kl.mean()
        ax.plot(means.index, means, LINES[i], marker=MARKERS[i], color=COLOURS[i], label=kind)
        ax.plot(
            rows["count"],
            rows.kl,
            MARKERS[i],
            color=COLOURS[i],
            markersize=4,
            alpha=0.4,
            linestyle="none",
        )
    ax.set(xlabel="calibration texts", ylabel="KL, nats a token", xscale="log", ylim=(0, None))
    ax.set_xticks(sorted(table["count"].unique()), sorted(table["count"].unique()))
    ax.minorticks_off()
    ax.legend(frameon=False)
    return figure


def speculative_gain(
    costs: Mapping[str, float],
    drafted: int,
    expected: Callable[[float, int, float], float],
    guides: float | None = None,
) -> Figure:
    """Draw the speed-up of speculative decoding against acceptance rate, one line per draft cost.

    Args:
        costs: name -> draft pass / target pass.
        drafted: drafted tokens per round.
        expected: the formula, `speculative.expected_speedup`.
        guides: a figure to draw as a horizontal line.
    """
    figure, ax = axes_of()
    chances = [place / 50 for place in range(15, 51)]
    for i, (name, cost) in enumerate(costs.items()):
        ax.plot(
            chances,
            [expected(chance, drafted, cost) for chance in chances],
            LINES[i % 4],
            color=COLOURS[i % 4],
            label=f"{name}: {cost:.2f}",
        )
    ax.axhline(1, color="black", linewidth=0.8)
    if guides is not None:
        ax.axhline(guides, color="grey", linestyle=":", linewidth=1.2)
        ax.text(0.31, guides, f"guides: {guides}", va="bottom", fontsize="small")
    ax.set(xlabel="how often a guess stays", ylabel="times faster", xlim=(0.3, 1), ylim=(0, None))
    ax.legend(
        title="draft pass / target pass", frameon=False, fontsize="small", title_fontsize="small"
    )
    return figure


def engine_load(table: pd.DataFrame, engines: Sequence[str]) -> Figure:
    """Draw throughput and time to first token of inference engines against concurrent requests.

    Answer tokens per second on the left; on the right the median to 95th percentile of the time to
    the first token. At most four engines.

    Args:
        table: `tables.engine_speeds` of a record.
        engines: which to draw.
    """
    figure, (left, right) = axes_of(7.2, 3.6, 2)
    levels = sorted(table.index.get_level_values("concurrent").unique())
    for number, name in enumerate(engines):
        rows, style = (
            table.loc[name].loc[levels],
            {
                "color": COLOURS[number],
                "marker": MARKERS[number],
                "linestyle": LINES[number],
                "markersize": 6,
            },
        )
        left.plot(range(len(levels)), rows["tokens a second"], label=name, **style)
        places = [place + 0.09 * (number - (len(engines) - 1) / 2) for place in range(len(levels))]
        middle, late = rows["first token p50, ms"] / 1000, rows["first token p95, ms"] / 1000
        right.errorbar(
            places,
            middle,
            yerr=[0 * middle, late - middle],
            capsize=3,
            elinewidth=1,
            **(style | {"linestyle": "none"}),
        )
    for ax in (left, right):
        ax.set_xticks(range(len(levels)), levels)
        ax.grid(axis="y", alpha=0.3)
        ax.set_xlabel("concurrent requests")
    left.set(ylabel="answer tokens a second", ylim=(0, None))
    right.set(ylabel="seconds to the first token", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
