"""The charts of notebook 08: search and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .style import COLOURS, LINES, MARKERS, axes_of, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def recall_curves(recall: pd.DataFrame) -> Figure:
    """How often the right chunk is among the first k.

    Args:
        recall: one row a search method, one column a k, values in [0, 1].
    """
    figure, ax = axes_of(height=3.2)
    for i, (name, row) in enumerate(recall.iterrows()):
        ax.plot(row.index, row.values, LINES[i % 4] + MARKERS[i % 4], color=COLOURS[i % 4], linewidth=1.6, markersize=7,
                markerfacecolor="white" if i % 2 else COLOURS[i % 4], label=name)
    ax.set(xlabel="k (chunks that the model may read)", ylabel="recall@k", xticks=list(recall.columns),
           ylim=(max(0.0, int(recall.values.min() * 10 - 0.3) / 10), 1.005))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="lower right")
    return figure


def search_trade_off(lines: pd.DataFrame) -> Figure:
    """Exact search, HNSW and IVF: true neighbours found against milliseconds a question, a panel for each number of vectors.

    Args:
        lines: columns index (flat, hnsw, ivf), n, effort, recall, milliseconds, as `approximate.examine` gives them.
    """
    sizes = sorted(lines.n.unique())
    figure, axes = axes_of(width=8.6, height=3.3, columns=len(sizes), sharex=True, sharey=True)
    names = {"flat": "exact", "hnsw": "HNSW (graph)", "ivf": "IVF (cells)"}
    for ax, size in zip(axes if len(sizes) > 1 else [axes], sizes):
        for i, (kind, name) in enumerate(names.items()):
            part = lines[(lines.n == size) & (lines["index"] == kind)].sort_values("milliseconds")
            ax.plot(part.milliseconds, part.recall, LINES[i] + MARKERS[i], color=COLOURS[i], linewidth=1.5, markersize=7,
                    markerfacecolor="white" if i == 1 else COLOURS[i], label=name)
        ax.set(xscale="log", title=f"{size:,} vectors", xlabel="ms a question")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(lambda value, _: "")
        ax.set_ylim(min(0.5, lines.recall.min() - 0.05), 1.03)
        ax.grid(alpha=0.3)
    (axes if len(sizes) == 1 else axes[0]).set_ylabel("recall of the 10 nearest")
    handles, labels = (axes if len(sizes) == 1 else axes[0]).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize="small")
    return figure


def ranking_marks(panels: dict[str, pd.DataFrame], mark: str = "MRR") -> Figure:
    """One mark of several searches with its 95 % intervals, a panel for each set of questions.

    Args:
        panels: title -> one row a search; columns n, `mark`, "`mark` low" and "`mark` high". All have the same searches.
    """
    first = next(iter(panels.values()))
    figure, axes = axes_of(width=8.6, height=1.0 + 0.38 * len(first), columns=len(panels), sharey=True)
    for ax, (title, table) in zip(axes if len(panels) > 1 else [axes], panels.items()):
        places = list(range(len(table)))[::-1]
        whiskers(ax, table[mark], places, xerr=[table[mark] - table[f"{mark} low"], table[f"{mark} high"] - table[mark]])
        for i, (place, value, high) in enumerate(zip(places, table[mark], table[f"{mark} high"])):
            ax.plot(value, place, MARKERS[i % 4], color=COLOURS[i % 4], markersize=8, markerfacecolor="white" if i % 2 else COLOURS[i % 4])
            ax.annotate(f"{value:.2f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize="small")
        ax.set(title=f"{title} ({int(table.n.iloc[0])} questions)", xlabel=f"{mark} (lines: 95 %)", xlim=(max(0.0, table[f"{mark} low"].min() - 0.08), 1.13),
               ylim=(-0.6, len(table) - 0.4))
        ax.set_yticks(places, list(table.index))
        ax.set_xticks([tick for tick in ax.get_xticks() if ax.get_xlim()[0] < tick < 1.001])
        ax.grid(alpha=0.3, axis="x")
    return figure
