"""The charts of notebook 08: search and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .style import COLOURS, HATCHES, LINES, MARKERS, axes_of, whiskers

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


def accuracy_and_hallucination(table: pd.DataFrame) -> Figure:
    """Accuracy and hallucination rate of several systems side by side, with their 95 % intervals.

    Args:
        table: one row a system; columns n, accuracy, hallucination, and both with " low" and " high".
    """
    figure, ax = axes_of()
    for i, name in enumerate(("accuracy", "hallucination")):
        places = [place + (i - 0.5) * 0.4 for place in range(len(table))]
        ax.bar(places, table[name], width=0.36, color=COLOURS[0] if not i else "white", edgecolor=COLOURS[i], hatch=HATCHES[i],
               linewidth=1.2, label=("right, or declined where there is no answer", "hallucinated: wrong and not declined")[i])
        spread = [table[name] - table[f"{name} low"], table[f"{name} high"] - table[name]]
        whiskers(ax, places, table[name], yerr=spread)
        for place, value, high in zip(places, table[name], table[f"{name} high"]):
            ax.text(place, high + 0.015, f"{value:.2f}", ha="center", fontsize="small")
    ax.set_xticks(range(len(table)), list(table.index))
    ax.set(ylabel=f"share of {int(table.n.iloc[0])} questions (lines: 95 %)", ylim=(0, 1.12), yticks=[0, 0.25, 0.5, 0.75, 1])
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize="small")
    return figure
