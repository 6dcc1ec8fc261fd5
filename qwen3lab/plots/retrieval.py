"""Charts of notebook 08: retrieval and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen3lab.plots.style import COLOURS, HATCHES, LINES, MARKERS, axes_of, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def search_trade_off(lines: pd.DataFrame) -> Figure:
    """Draw recall against milliseconds per question for exact search, HNSW and IVF.

    One panel for each number of vectors. Recall is the share of the true neighbours found.

    Args:
        lines: columns index (flat, hnsw, ivf), n, effort, recall, milliseconds, as
            `approximate.examine` gives them.
    """
    sizes = sorted(lines.n.unique())
    figure, axes = axes_of(width=8.6, height=3.3, columns=len(sizes), sharex=True, sharey=True)
    names = {"flat": "exact", "hnsw": "HNSW (graph)", "ivf": "IVF (cells)"}
    for ax, size in zip(axes if len(sizes) > 1 else [axes], sizes):
        for i, (kind, name) in enumerate(names.items()):
            part = lines[(lines.n == size) & (lines["index"] == kind)].sort_values("milliseconds")
            ax.plot(
                part.milliseconds,
                part.recall,
                LINES[i] + MARKERS[i],
                color=COLOURS[i],
                linewidth=1.5,
                markersize=7,
                markerfacecolor="white" if i == 1 else COLOURS[i],
                label=name,
            )
        ax.set(xscale="log", title=f"{size:,} vectors", xlabel="ms a question")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(lambda value, _: "")
        ax.set_ylim(min(0.5, lines.recall.min() - 0.05), 1.03)
        ax.grid(alpha=0.3)
    (axes if len(sizes) == 1 else axes[0]).set_ylabel("recall of the 10 nearest")
    handles, labels = (axes if len(sizes) == 1 else axes[0]).get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize="small"
    )
    return figure


def ranking_marks(panels: dict[str, pd.DataFrame], mark: str = "MRR") -> Figure:
    """Draw a ranking metric of several searches with 95 % intervals, one panel per question set.

    A filled marker is a search whose hits a reranker has sorted again.

    Args:
        panels: title -> one row per search, "search" or "search, reranker"; columns n, `mark`,
            "`mark` low" and "`mark` high". All have the same searches.
        mark: the metric to draw.
    """
    first = next(iter(panels.values()))
    figure, axes = axes_of(
        width=3.0 + 3.0 * len(panels),
        height=1.0 + 0.34 * len(first),
        columns=len(panels),
        sharey=True,
    )
    axes_list = list(axes) if len(panels) > 1 else [axes]
    for ax, (title, table) in zip(axes_list, panels.items()):
        places = list(range(len(table)))[::-1]
        whiskers(
            ax,
            table[mark],
            places,
            xerr=[table[mark] - table[f"{mark} low"], table[f"{mark} high"] - table[mark]],
        )
        for name, place, value, high in zip(
            table.index, places, table[mark], table[f"{mark} high"]
        ):
            reranked = ", " in name
            ax.plot(
                value,
                place,
                "o",
                color=COLOURS[0],
                markersize=8,
                markerfacecolor=COLOURS[0] if reranked else "white",
                label="reranked" if reranked else "search alone",
            )
            ax.annotate(
                f"{value:.2f}",
                (high, place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        ax.set(
            title=f"{title} ({int(table.n.iloc[0])} questions)",
            xlabel=f"{mark} (lines: 95 %)",
            xlim=(max(0.0, table[f"{mark} low"].min() - 0.08), 1.13),
            ylim=(-0.6, len(table) - 0.4),
        )
        ax.set_yticks(places, list(table.index))
        ax.set_xticks([tick for tick in ax.get_xticks() if ax.get_xlim()[0] < tick < 1.001])
        ax.grid(alpha=0.3, axis="x")
    kinds = dict(zip(*axes_list[0].get_legend_handles_labels()[::-1]))
    figure.legend(
        kinds.values(),
        kinds.keys(),
        loc="outside upper left",
        ncols=2,
        frameon=False,
        fontsize="small",
    )
    return figure


PARTS = (
    ("right", COLOURS[0], "", "white"),
    ("declined", "white", "....", "black"),
    ("invented", "#f0b090", "////", "black"),
)


def answer_shares(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw the shares of right, declined and invented answers by system, one panel per group.

    Declined answers are those to questions that have an answer.

    Args:
        tables: by the group's name (for example a language) one row per system, with
            `retrieval.marks`' columns; the interval is that of the accuracy.
    """
    first = next(iter(tables.values()))
    figure, axes = axes_of(
        3.4 + 3.0 * len(tables), 0.9 + 0.42 * len(first), columns=len(tables), sharey=True
    )
    for ax, (group, table) in zip([axes] if len(tables) == 1 else axes, tables.items()):
        places = range(len(table))
        left = table.accuracy * 0
        values = {
            "right": table.accuracy,
            "declined": 1 - table.accuracy - table.hallucination,
            "invented": table.hallucination,
        }
        for name, colour, hatch, _ in PARTS:
            ax.barh(
                places,
                values[name],
                left=left,
                color=colour,
                hatch=hatch,
                edgecolor="black",
                linewidth=0.8,
                height=0.72,
                label=(
                    {
                        "right": "right, or declined where there is no answer",
                        "declined": "declined although there is one",
                        "invented": "invented",
                    }[name]
                    if ax is (axes if len(tables) == 1 else axes[0])
                    else None
                ),
            )
            left = left + values[name]
        whiskers(
            ax,
            table.accuracy,
            list(places),
            xerr=[table.accuracy - table["accuracy low"], table["accuracy high"] - table.accuracy],
        )
        for place, value in zip(places, table.accuracy):
            ax.text(1.02, place, f"{value:.2f}", va="center", fontsize="small")
        ax.set_yticks(list(places), list(table.index))
        if not ax.yaxis_inverted():
            ax.invert_yaxis()
        ax.set(
            xlim=(0, 1.12),
            xticks=[0, 0.25, 0.5, 0.75, 1],
            xlabel=f"share of {int(table.n.iloc[0])} questions",
            title=group or None,
        )
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def answers_by_kind(table: pd.DataFrame) -> Figure:
    """Draw accuracy by kind of question, one line per system, one marker per kind.

    Args:
        table: one row per system, one column per kind of question, values in [0, 1].
    """
    figure, ax = axes_of(7.2, 1.1 + 0.42 * len(table))
    for i, kind in enumerate(table.columns):
        filled = i % 2 == 0
        ax.plot(
            table[kind],
            [place + (i - (len(table.columns) - 1) / 2) * 0.13 for place in range(len(table))],
            MARKERS[i % 4],
            color=COLOURS[i % 4],
            markersize=8,
            markerfacecolor=COLOURS[i % 4] if filled else "white",
            label=kind,
        )
    ax.set_yticks(range(len(table)), list(table.index))
    ax.invert_yaxis()
    ax.set(xlim=(-0.03, 1.03), xlabel="share answered right (or rightly declined)")
    ax.grid(axis="both", alpha=0.3)
    figure.legend(
        loc="outside upper center", ncols=len(table.columns), frameon=False, fontsize="small"
    )
    return figure


def size_and_k(grid: pd.DataFrame) -> Figure:
    """Draw accuracy and recall against k for each chunk size, side by side.

    Args:
        grid: columns tokens (per chunk), k, accuracy, "accuracy low", "accuracy high", recall, and
            n (the same everywhere).
    """
    figure, (left, right) = axes_of(8.2, 3.4, columns=2)
    for i, (tokens, lines) in enumerate(grid.groupby("tokens")):
        shift = (i - 1.5) * 0.06
        style = {
            "color": COLOURS[i % 4],
            "linewidth": 1.6,
            "markersize": 7,
            "markerfacecolor": "white" if i % 2 else COLOURS[i % 4],
        }
        left.plot(
            lines.k + shift,
            lines.recall,
            LINES[i % 4] + MARKERS[i % 4],
            label=f"{tokens} tokens a chunk",
            **style,
        )
        right.plot(lines.k + shift, lines.accuracy, LINES[i % 4] + MARKERS[i % 4], **style)
        right.errorbar(
            lines.k + shift,
            lines.accuracy,
            yerr=[lines.accuracy - lines["accuracy low"], lines["accuracy high"] - lines.accuracy],
            fmt="none",
            ecolor=COLOURS[i % 4],
            elinewidth=0.8,
            capsize=2,
        )
    low = min(grid.recall.min(), grid["accuracy low"].min())
    for ax, title in ((left, "search: recall@k"), (right, "answers: accuracy (lines: 95 %)")):
        ax.set(
            xlabel="k (chunks in the prompt)",
            title=title,
            xticks=sorted(grid.k.unique()),
            ylim=(max(0.0, int(low * 10) / 10), 1.01),
        )
        ax.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize="small")
    return figure


def threshold_curve(curves: dict[str, pd.DataFrame], chosen: float | None) -> Figure:
    """Draw accuracy and hallucination against a threshold on the search score, by question set.

    Args:
        curves: by the set's name: columns threshold, accuracy, hallucination.
        chosen: the threshold that was chosen on the validation questions.
    """
    figure, axes = axes_of(8.2, 3.3, columns=len(curves), sharey=True)
    for ax, (name, curve) in zip(axes if len(curves) > 1 else [axes], curves.items()):
        for i, what in enumerate(("accuracy", "hallucination")):
            ax.plot(
                curve.threshold,
                curve[what],
                LINES[i],
                color=COLOURS[i],
                linewidth=2,
                drawstyle="steps-post",
                label=what if ax.get_subplotspec().is_first_col() else None,
            )
        if chosen is not None:
            ax.axvline(
                chosen,
                color="black",
                linewidth=1.2,
                linestyle=":",
                label="chosen on validation" if ax.get_subplotspec().is_first_col() else None,
            )
        ax.set(xlabel="decline below this score of the best chunk", title=name, ylim=(-0.02, 1.02))
        ax.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def waiting_bars(table: pd.DataFrame, limit: float = 300.0) -> Figure:
    """Draw latency to the first piece and the whole answer: medians, 95th percentiles as whiskers.

    Args:
        table: one row per way of serving; columns "first piece", "first piece p95", "all", "all
            p95" in milliseconds.
        limit: of the wait, drawn as a line, in milliseconds.
    """
    figure, ax = axes_of(6.8, 1.2 + 0.6 * len(table))
    for i, (what, label) in enumerate(
        (("first piece", "until the first piece"), ("all", "until the whole answer"))
    ):
        places = [place + (i - 0.5) * 0.36 for place in range(len(table))]
        ax.barh(
            places,
            table[what],
            height=0.32,
            color=COLOURS[0] if i else "white",
            edgecolor=COLOURS[0],
            hatch=HATCHES[1 - i],
            label=label,
        )
        whiskers(
            ax, table[what], places, xerr=[table[what] * 0, table[f"{what} p95"] - table[what]]
        )
    ax.axvline(limit, color=COLOURS[1], linestyle="--", linewidth=1.2, label=f"{limit:.0f} ms")
    ax.set_yticks(range(len(table)), list(table.index))
    ax.invert_yaxis()
    ax.set(
        xlabel="milliseconds (bars: median, whiskers: 95th percentile)",
        xlim=(0, max(limit * 1.08, table["all p95"].max() * 1.05)),
    )
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure
