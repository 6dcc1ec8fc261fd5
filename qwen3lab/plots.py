"""One function a chart: takes plain data, returns a matplotlib `Figure`.

Every chart can be read in black and white: what differs in colour differs in marker, line or hatch too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLOURS = ("#1f4e79", "#c04000", "#4a7c2f", "#7a5195")
MARKERS = "osD^"
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....", "xx")


@lru_cache
def _chart() -> type[Figure]:
    """A figure that shows itself as the last line of a notebook cell, with no pyplot and its hidden list of open figures."""
    from io import BytesIO

    from matplotlib.figure import Figure

    class Chart(Figure):
        def _repr_png_(self) -> bytes:
            image = BytesIO()
            self.savefig(image, format="png", dpi=96)
            return image.getvalue()

    return Chart


def _figure(width: float = 6.4, height: float = 3.6, columns: int = 1, **options: Any):
    """A figure and its axes, without the frame's upper and right edge."""
    figure = _chart()(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[0] if columns == 1 else axes


def _whiskers(ax, *place, **errors: Any) -> None:
    """Interval lines with a light edge, so that they can be seen on a dark bar too."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=3, foreground="white")]
    drawn = ax.errorbar(*place, fmt="none", ecolor="black", elinewidth=1, capsize=3, **errors)
    for line in (*drawn.lines[1], *drawn.lines[2]):
        line.set_path_effects(edge)


def loss_curves(histories: Mapping[str, pd.DataFrame], x: str = "step") -> Figure:
    """The training loss of one or more runs (`Run.history`), and the validation loss as larger markers where there is one."""
    figure, ax = _figure()
    for i, (name, history) in enumerate(histories.items()):
        train = history.dropna(subset=["loss"])
        ax.plot(train[x], train.loss, LINES[i % 4], color=COLOURS[i % 4], linewidth=1.6, label=name)
        if "eval_loss" in history:
            held_out = history.dropna(subset=["eval_loss"])
            ax.plot(held_out[x], held_out.eval_loss, MARKERS[i % 4], color=COLOURS[i % 4], markersize=8,
                    markerfacecolor="white", markeredgewidth=1.8, label=f"{name}, validation")
    ax.set(xlabel={"step": "optimiser step", "tokens": "tokens read"}.get(x, x), ylabel="loss (nats a token)", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def score_bars(systems: Mapping[str, pd.DataFrame], xlabel: str = "exact match") -> Figure:
    """Scores of several systems, task by task, with their 95 % intervals.

    Args:
        systems: name -> table as `evaluation.summary` returns it, with the same tasks as its index.
    """
    tasks = list(next(iter(systems.values())).index)
    figure, ax = _figure(height=1.2 + 0.17 * len(tasks) * (len(systems) + 0.6))
    for i, (name, table) in enumerate(systems.items()):
        table = table.loc[tasks]
        places = [place + (i - (len(systems) - 1) / 2) * 0.8 / len(systems) for place in range(len(tasks))]
        ax.barh(places, table.accuracy, height=0.72 / len(systems), color=COLOURS[i % 4] if not HATCHES[i % 4] else "white",
                edgecolor=COLOURS[i % 4], hatch=HATCHES[i % 4], linewidth=1.2, label=name)
        _whiskers(ax, table.accuracy, places, xerr=[table.accuracy - table.low, table.high - table.accuracy])
    first = next(iter(systems.values()))
    ax.set_yticks(range(len(tasks)), [f"{task} (n={first.n[task]})" for task in tasks])
    ax.invert_yaxis()
    ax.set(xlabel=f"{xlabel} (bars: 95 % interval)", xlim=(0, 1))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=len(systems), frameon=False)
    return figure


def code_book(weights: Sequence[float], levels: Sequence[float]) -> Figure:
    """The distribution of a layer's weights, divided by the largest of each block, and the code book's values on it."""
    figure, ax = _figure(height=3.2)
    ax.hist(weights, bins=121, density=True, color="#b8c9d9", edgecolor="none", label="weights, by block scaled to [-1, 1]")
    for i, level in enumerate(levels):
        ax.axvline(level, color=COLOURS[1], linewidth=1.2, linestyle="--", label="the 16 values of NF4" if not i else None)
    ax.set(xlabel="weight / largest weight of its block", ylabel="density")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def byte_bars(measured: Mapping[str, int], planned: Mapping[str, int] | None = None, per_weight: int | None = None) -> Figure:
    """Bytes of several ways to keep the same model, beside the planner's where given, in MB.

    Args:
        per_weight: number of the model's weights; writes the bytes a weight behind each bar.
    """
    figure, ax = _figure(height=1.1 + 0.55 * len(measured))
    for i, series in enumerate([measured, planned] if planned else [measured]):
        values = [series[name] / 1e6 for name in measured]
        places = [place + (0.2 if i else -0.2) * bool(planned) for place in range(len(measured))]
        ax.barh(places, values, height=0.36 if planned else 0.6, color="white" if i else COLOURS[0], edgecolor=COLOURS[i],
                hatch=HATCHES[i], label=("measured", "planned")[i])
        if per_weight and not i:
            for place, value in zip(places, values):
                ax.text(value, place, f"  {value * 1e6 / per_weight:.2f} bytes a weight", va="center", fontsize="small")
    ax.set_yticks(range(len(measured)), list(measured))
    ax.invert_yaxis()
    ax.set(xlabel="weights (MB)")
    ax.margins(x=0.32 if per_weight else 0.05)
    if planned:
        ax.legend(frameon=False, loc="lower right")
    return figure


def schedules(rates: Mapping[str, Sequence[float]]) -> Figure:
    """Learning rates over the steps of a training, one line a schedule."""
    figure, ax = _figure(height=3.2)
    for i, (name, values) in enumerate(rates.items()):
        ax.plot(range(1, len(values) + 1), values, LINES[i % 4], color=COLOURS[i % 4], linewidth=1.8, label=name)
    ax.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, None))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def spectra(values: Mapping[str, Sequence[float]]) -> Figure:
    """Singular values of weight changes, largest first, relative to the largest, on a logarithmic axis."""
    figure, ax = _figure(height=3.2)
    for i, (name, series) in enumerate(values.items()):
        ax.semilogy(range(1, len(series) + 1), [v / series[0] for v in series], LINES[i % 4], color=COLOURS[i % 4], linewidth=1.8, label=name)
    ax.set(xlabel="singular value number", ylabel="size (largest = 1)", ylim=(1e-4, 1.5))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def recall_curves(recall: pd.DataFrame) -> Figure:
    """How often the right chunk is among the first k.

    Args:
        recall: one row a search method, one column a k, values in [0, 1].
    """
    figure, ax = _figure(height=3.2)
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
    figure, ax = _figure()
    for i, name in enumerate(("accuracy", "hallucination")):
        places = [place + (i - 0.5) * 0.4 for place in range(len(table))]
        ax.bar(places, table[name], width=0.36, color=COLOURS[0] if not i else "white", edgecolor=COLOURS[i], hatch=HATCHES[i],
               linewidth=1.2, label=("right, or declined where there is no answer", "hallucinated: wrong and not declined")[i])
        spread = [table[name] - table[f"{name} low"], table[f"{name} high"] - table[name]]
        _whiskers(ax, places, table[name], yerr=spread)
        for place, value, high in zip(places, table[name], table[f"{name} high"]):
            ax.text(place, high + 0.015, f"{value:.2f}", ha="center", fontsize="small")
    ax.set_xticks(range(len(table)), list(table.index))
    ax.set(ylabel=f"share of {int(table.n.iloc[0])} questions (lines: 95 %)", ylim=(0, 1.12), yticks=[0, 0.25, 0.5, 0.75, 1])
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize="small")
    return figure


def family_parameters(total: Mapping[str, float], active: Mapping[str, float]) -> Figure:
    """Parameters of several models and those that one token passes through, on a logarithmic axis."""
    figure, ax = _figure(height=1.0 + 0.42 * len(total))
    for i, (label, series) in enumerate({"all parameters": total, "parameters that one token uses": active}.items()):
        places = [place + (i - 0.5) * 0.4 for place in range(len(total))]
        ax.barh(places, [series[name] for name in total], height=0.36, color="white" if i else COLOURS[0], edgecolor=COLOURS[i],
                hatch=HATCHES[i], linewidth=1.2, label=label)
        for place, name in zip(places, total):
            ax.text(series[name] * 1.08, place, f"{series[name] / 1e9:.3g} B" if series[name] >= 1e8 else f"{series[name] / 1e6:.3g} M", va="center", fontsize="x-small")
    ax.set_yticks(range(len(total)), list(total))
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="parameters (logarithmic)", xlim=(min(active.values()) / 3, max(total.values()) * 3))
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def thinking_bars(table: pd.DataFrame) -> Figure:
    """What thinking brings and what it costs: share right with its 95 % interval, and tokens written for an answer.

    Args:
        table: one row a mode; columns n, accuracy, low, high, tokens (mean an answer).
    """
    figure, axes = _figure(height=3.0, columns=2)
    places = range(len(table))
    style = {"color": [COLOURS[i % 4] if not HATCHES[i % 4] else "white" for i in places], "edgecolor": [COLOURS[i % 4] for i in places],
             "hatch": [HATCHES[i % 4] for i in places], "linewidth": 1.2, "width": 0.6}
    axes[0].bar(places, table.accuracy, **style)
    _whiskers(axes[0], places, table.accuracy, yerr=[table.accuracy - table.low, table.high - table.accuracy])
    axes[0].set(ylabel=f"share right (n={int(table.n.iloc[0])}, 95 % interval)", ylim=(0, 1.05))
    axes[1].bar(places, table.tokens, **style)
    axes[1].set(ylabel="tokens written for an answer")
    for ax in axes:
        ax.set_xticks(places, list(table.index))
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
    return figure


def expert_load(load: Any) -> Figure:
    """How often each expert of each layer is chosen, in units of its fair share; `load` is [layers, experts]."""
    figure, ax = _figure(height=3.2)
    layers, experts = load.shape
    for layer in range(layers):
        ax.plot(range(experts), load[layer], MARKERS[layer % 4], color=COLOURS[layer % 4], markersize=6,
                markerfacecolor="white" if layer % 2 else COLOURS[layer % 4], label=f"layer {layer}")
    ax.axhline(1, color="black", linewidth=1, linestyle="--")
    ax.text(experts - 0.3, 1, "fair\nshare", va="center", fontsize="small")
    ax.set(xlabel="expert", ylabel="times its fair share", xticks=range(0, experts, max(1, experts // 16)), xlim=(-0.6, experts + 0.6), ylim=(0, max(2.0, float(load.max()) * 1.1)))
    ax.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside upper right", ncols=min(layers, 4), frameon=False)
    return figure


def routing_heatmap(counts: Any, kinds: Sequence[str], layers: Sequence[int] | None = None) -> Figure:
    """Which experts each kind of token goes to: the kind's choices of an expert in units of the fair share.

    Args:
        counts: choices [layers, kinds, experts] as `routing.by_kind` gives them; a kind without tokens is left out.
        layers: those to draw; default all, at most four.
    """
    import numpy as np

    layers = list(range(len(counts)))[:4] if layers is None else list(layers)
    present = [i for i in range(len(kinds)) if counts[:, i].sum()]
    experts = counts.shape[2]
    shares = [counts[layer][present] * experts / counts[layer][present].sum(axis=1, keepdims=True) for layer in layers]
    figure, axes = _figure(width=3.6 * min(2, len(layers)) + 0.6, height=2.1 * -(-len(layers) // 2) + 0.5)
    axes.remove()
    top = max(3.0, float(np.max(shares)))
    grid = figure.subplots(-(-len(layers) // 2), min(2, len(layers)), squeeze=False, sharex=True, sharey=True)
    for ax, layer, share in zip(grid.ravel(), layers, shares):
        image = ax.imshow(share, cmap="Greys", vmin=0, vmax=top, aspect="auto")
        ax.set_title(f"layer {layer}", fontsize="small")
        ax.set_yticks(range(len(present)), [kinds[i] for i in present], fontsize="small")
        ax.set_xticks(range(0, experts, max(1, experts // 8)))
    for ax in grid.ravel()[len(layers):]:
        ax.remove()
    for ax in grid[-1]:
        ax.set_xlabel("expert")
    figure.colorbar(image, ax=grid, label="times the fair share", shrink=0.9)
    return figure


def routing_information(table: pd.DataFrame) -> Figure:
    """Bits that the kind of a token tells about its expert, layer by layer, beside the control with shuffled kinds."""
    figure, ax = _figure(height=2.8)
    for i, (column, label) in enumerate({"bits": "measured", "shuffled": "kinds shuffled"}.items()):
        places = [place + (i - 0.5) * 0.4 for place in range(len(table))]
        ax.bar(places, table[column], width=0.36, color="white" if i else COLOURS[0], edgecolor=COLOURS[i], hatch=HATCHES[i], linewidth=1.2, label=label)
        for place, value in zip(places, table[column]):
            ax.text(place, value, f"{value:.3f}", ha="center", va="bottom", fontsize="x-small")
    ax.set_xticks(range(len(table)), [f"layer {layer}" for layer in table.layer])
    ax.set(ylabel="mutual information (bits)")
    ax.margins(y=0.15)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def row_funnel(stages: Mapping[str, int]) -> Figure:
    """How many rows are left after each step of the preparation."""
    figure, ax = _figure(height=0.8 + 0.42 * len(stages))
    ax.barh(range(len(stages)), list(stages.values()), height=0.6, color=COLOURS[0])
    for place, value in enumerate(stages.values()):
        ax.text(value, place, f" {value}", va="center")
    ax.set_yticks(range(len(stages)), list(stages))
    ax.invert_yaxis()
    ax.set(xlabel="rows")
    ax.margins(x=0.1)
    return figure


def grouped_shares(table: pd.DataFrame, ylabel: str) -> Figure:
    """Shares in [0, 1]: a group of bars for each row of the table, a bar for each column, each with its value."""
    figure, ax = _figure(height=3.0)
    width = 0.8 / len(table.columns)
    for i, column in enumerate(table.columns):
        places = [place + (i - (len(table.columns) - 1) / 2) * width for place in range(len(table))]
        ax.bar(places, table[column], width=width * 0.9, color="white" if HATCHES[i % 4] else COLOURS[i % 4], edgecolor=COLOURS[i % 4],
               hatch=HATCHES[i % 4], linewidth=1.2, label=column)
        for place, value in zip(places, table[column]):
            ax.text(place, value + 0.01, f"{value:.2f}", ha="center", va="bottom", fontsize="small")
    ax.set_xticks(range(len(table)), list(table.index))
    ax.set(ylabel=ylabel, ylim=(0, 1.12), yticks=[0, 0.25, 0.5, 0.75, 1])
    figure.legend(loc="outside upper right", ncols=len(table.columns), frameon=False)
    return figure


def token_lengths(lengths: Mapping[str, Sequence[int]], limit: int | None = None, xlabel: str = "tokens in a row") -> Figure:
    """Histograms of row lengths on one axis, one outline a set; `limit` is drawn as a line."""
    figure, ax = _figure(height=3.0)
    longest = max(max(values) for values in lengths.values())
    edges = [longest * i / 30 for i in range(31)]
    for i, (name, values) in enumerate(lengths.items()):
        ax.hist(values, bins=edges, histtype="step", linestyle=LINES[i % 4], linewidth=1.8, color=COLOURS[i % 4], label=f"{name} (n={len(values)})")
    if limit is not None:
        ax.axvline(limit, color="black", linewidth=1, linestyle="--")
        ax.text(limit, ax.get_ylim()[1] * 0.97, f" {limit}", va="top", fontsize="small")
    ax.set(xlabel=xlabel, ylabel="rows", xlim=(0, None))
    ax.legend(frameon=False)
    return figure


def rungs(table: pd.DataFrame) -> Figure:
    """Forms of one model: what each costs on disk (left) and what it still answers (right, with 95 % intervals).

    Args:
        table: one row a form, by name; columns bytes, accuracy, low, high, agreement.
    """
    figure, (left, right) = _figure(height=1.2 + 0.42 * len(table), columns=2, sharey=True)
    places = range(len(table))
    left.barh(places, table.bytes / 1e6, height=0.6, color=COLOURS[0], edgecolor=COLOURS[0])
    for place, size in zip(places, table.bytes):
        left.text(size / 1e6, place, f" {size / 1e6:.1f}", va="center")
    left.set(xlabel="size on disk (MB)", xlim=(0, table.bytes.max() / 1e6 * 1.2))
    left.set_yticks(places, table.index)
    left.invert_yaxis()
    right.errorbar(table.accuracy, places, xerr=[table.accuracy - table.low, table.high - table.accuracy], fmt=MARKERS[0],
                   color=COLOURS[0], markersize=7, capsize=3, label="exact match, 95 % interval")
    right.plot(table.agreement, places, MARKERS[2], color=COLOURS[1], markersize=8, markerfacecolor="white", markeredgewidth=1.8,
               label="same next token")
    right.set(xlabel="share of answers, of tokens", xlim=(max(0.0, int(table.low.min() * 10) / 10), 1.02))
    right.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def metric_bars(table: pd.DataFrame, best: Mapping[str, float] | None = None) -> Figure:
    """Metrics before and after, each in a panel of its own, since their scales differ.

    Args:
        table: one row a metric (the row's name is the axis label), one column a system.
        best: metric -> the highest value that it can take, where its axis then ends.
    """
    figure, axes = _figure(height=2.6, columns=len(table))
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
    figure, ax = _figure(height=2.8)
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
