"""Charts of notebook 07: the equality ladder, calibration texts, faster decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from qwen3lab.plots.style import COLOURS, LINES, MARKERS, axes_of, chart_class

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METHODS = {"GPTQ": "GPTQ", "nearest": "rounded to nearest", "GGUF": "llama.cpp's mix"}


def ladder(table: pd.DataFrame) -> Figure:
    """Draw variants of one model: bytes, and KL divergence from the first.

    One panel for each of the two measures, the variants from top to bottom.

    Args:
        table: one row per variant, by name; columns disk and memory (bytes), kl, kl_low, kl_high
            (nats per token) (`qwen3lab.serving.ladder.table`). The divergence has a logarithmic
            axis; a variant at divergence 0 has no marker there.
    """
    # 1. Two panels with the variants as common rows.
    figure = chart_class()(figsize=(7.4, 0.9 + 0.3 * len(table)), layout="constrained")
    size, distance = figure.subplots(1, 2, sharey=True)
    places = list(range(len(table)))
    # 2. Left: bytes, with the names of the variants.
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
    # 3. Right: the divergence. A logarithmic axis has no place for 0.
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
    distance.set(xlabel="KL from the first form, nats per token", xscale="log")
    for ax in (size, distance):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    return figure


def low_bits(table: pd.DataFrame, group: int = 128) -> Figure:
    """Draw right answers against nominal bits, a panel for each task, a line for each method.

    The last panel has the KL divergence of the first method of `METHODS`, a line for each task.

    Args:
        table: `tables.low_bits` of a record; the method "float32" is the dotted line.
        group: the forms of this group size are drawn, and GGUF files.
    """
    # 1. A panel for each task, and one more.
    found = list(dict.fromkeys(table.task))
    columns = -(-(len(found) + 1) // 2)
    figure = chart_class()(figsize=(2.6 * columns, 5.4), layout="constrained")
    axes = figure.subplots(2, columns).flat
    chosen = table[(table.group == group) | (table.method == "GGUF")]
    levels = sorted(chosen.bits.unique(), reverse=True)
    # 2. Right answers, with their intervals; the methods stand side by side.
    for number, (ax, task) in enumerate(zip(axes, found)):
        for place, method in enumerate(METHODS):
            rows = chosen[(chosen.task == task) & (chosen.method == method)]
            ax.errorbar(
                [levels.index(bits) + 0.08 * (place - 1) for bits in rows.bits],
                rows.accuracy,
                yerr=[rows.accuracy - rows.low, rows.high - rows.accuracy],
                color=COLOURS[place],
                marker=MARKERS[place],
                linestyle=LINES[place],
                capsize=2,
                elinewidth=1,
                label=METHODS[method],
            )
        whole = table[(table.task == task) & (table.method == "float32")].accuracy
        ax.axhline(whole.item(), color="grey", linestyle=":", label="float32")
        ax.set(title=task, ylim=(-0.03, 1.03), ylabel="" if number % columns else "share right")
    # 3. The divergence of one method.
    last = axes[len(found)]
    method = next(iter(METHODS))
    for place, task in enumerate(found):
        rows = chosen[(chosen.task == task) & (chosen.method == method)]
        last.plot(
            [levels.index(bits) for bits in rows.bits],
            rows.kl,
            LINES[place % len(LINES)],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markerfacecolor=COLOURS[place] if place < len(COLOURS) else "white",
            label=task,
        )
    last.set(title=f"KL, nats per token, {METHODS[method]}", yscale="log")
    last.legend(frameon=False, fontsize="x-small")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xticks(range(len(levels)), levels)
        ax.set_xlabel("bits, by name")
        ax.grid(axis="y", alpha=0.3)
    for ax in axes[len(found) + 1 :]:
        ax.set_visible(False)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
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
