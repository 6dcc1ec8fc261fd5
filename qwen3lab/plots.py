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


def training_curves(history: pd.DataFrame) -> Figure:
    """One run side by side: loss (validation as markers), learning rate and gradient norm against the step.

    Args:
        history: of `Run.history`, or as much of it as there is; eval_loss may be missing.
    """
    figure, axes = _figure(columns=3, height=2.6)
    train = history.dropna(subset=["loss"])
    for ax, column, label in zip(axes, ("loss", "learning_rate", "grad_norm"), ("loss (nats a token)", "learning rate", "gradient norm")):
        ax.plot(train["step"], train[column], color=COLOURS[0], linewidth=1.6)
        ax.set(xlabel="optimiser step", title=label, ylim=(0, None))
        ax.title.set_fontsize("medium")
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
        ax.grid(alpha=0.3)
    if "eval_loss" in history:
        held_out = history.dropna(subset=["eval_loss"])
        axes[0].plot(held_out["step"], held_out.eval_loss, MARKERS[0], color=COLOURS[1], markersize=7, markerfacecolor="white",
                     markeredgewidth=1.6, label="validation")
        axes[0].legend(frameon=False)
    return figure


def failures(found: Sequence[Any]) -> Figure:
    """Failures of the museum, a panel each: their curves where they have some, else the symptom with and without the failure.

    Args:
        found: `museum.Failure`s.
    """
    rows = -(-len(found) // 2)
    figure = _chart()(figsize=(6.4, 2.5 * rows), layout="constrained")
    for ax, failure in zip(figure.subplots(rows, 2, squeeze=False).flat, found):
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(failure.name, fontsize="medium")
        curves = failure.curves
        if "scales" in curves:
            table = curves["scales"]
            for i, column in enumerate(("lost as 0", "too large")):
                ax.plot(table.scale, table[column], LINES[i], color=COLOURS[i], marker=MARKERS[i], markersize=4, label=column)
            ax.set_xscale("log", base=2)
            ax.set(xlabel="scale of the loss", ylabel="share of gradients", ylim=(0, None))
        elif curves:
            for i, (name, history) in enumerate(curves.items()):
                ax.plot(history["step"], history.loss, LINES[i], color=COLOURS[i], linewidth=1.8 - 0.5 * i, label=name)
            ax.set(xlabel="optimiser step", ylabel="loss (nats a token)", ylim=(0, None))
        else:
            bars = ax.bar(["failure", "healthy"], [failure.sick, failure.healthy], color=[COLOURS[1], COLOURS[0]], hatch=None)
            bars[0].set_hatch(HATCHES[1])
            bars[0].set(facecolor="white", edgecolor=COLOURS[1])
            ax.bar_label(bars, fmt="%.2f", fontsize="small")
            ax.set(ylabel=f"{failure.symptom}\n(n={failure.n})", ylim=(0, 1.15))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize="small")
    for ax in figure.axes[len(found):]:
        ax.set_visible(False)
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
    ax.set(xlabel=f"{xlabel} (lines: 95 % interval)", xlim=(0, 1))
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


def by_digits(tables: Mapping[str, pd.DataFrame], trained: int | None = None) -> Figure:
    """Share of right sums and tokens written, against the number of digits, one line a mode.

    Args:
        tables: mode -> table indexed by the number of digits; columns n, accuracy, low, high, tokens (mean an answer).
        trained: the most digits that training had; marked by a dotted line.
    """
    figure, axes = _figure(height=3.0, columns=2)
    for i, (name, table) in enumerate(tables.items()):
        digits = table.index
        style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "label": name}
        axes[0].errorbar(digits, table.accuracy, yerr=[table.accuracy - table.low, table.high - table.accuracy], capsize=3, **style)
        axes[1].plot(digits, table.tokens, **style)
    first = next(iter(tables.values()))
    axes[0].set(ylabel=f"share right (n={int(first.n.iloc[0])} a point)", ylim=(-0.03, 1.05))
    axes[1].set(ylabel="tokens written for an answer", ylim=(0, None))
    for ax in axes:
        ax.set(xlabel="digits of each number")
        ax.set_xticks(list(first.index))
        if trained:
            ax.axvline(trained + 0.5, color="grey", linestyle=":")
        ax.grid(alpha=0.3)
    if trained:
        axes[0].text(trained + 0.58, 0.62, "longer than\nin training", fontsize="small", color="#444444")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(tables), frameon=False)
    return figure


def by_position(tables: Mapping[str, pd.DataFrame], trained: int) -> Figure:
    """Perplexity against the position in a text for several ways to handle positions; the shaded part is the trained length.

    Args:
        tables: name -> table of `long_context.by_position`, indexed by the end of each stretch.
    """
    figure, ax = _figure(height=3.6)
    ax.axvspan(0, trained, color="#eeeeee")
    for i, (name, table) in enumerate(tables.items()):
        ax.plot(table.index - table.index[0] / 2, table.perplexity, LINES[i % 4], marker=(MARKERS + "vPX")[i], color=COLOURS[i % 4], markersize=7,
                markerfacecolor="white" if i >= 4 else COLOURS[i % 4], label=name)
    ax.text(trained / 2, ax.get_ylim()[1], "trained length", ha="center", va="top", fontsize="small", color="#444444")
    ends = list(next(iter(tables.values())).index)
    ax.set_xticks([0, *ends])
    ax.set(xlabel="position in the text (tokens)", ylabel="perplexity", xlim=(0, ends[-1]))
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def precision_and_recall(table: pd.DataFrame) -> Figure:
    """How much of what was found is right, and how much of what is there was found, kind by kind, with 95 % intervals.

    Args:
        table: one row a kind; columns found, precision, labelled, recall, and both shares with " low" and " high".
    """
    figure, ax = _figure(height=1.0 + 0.5 * len(table))
    for i, (share, count) in enumerate({"precision": "found", "recall": "labelled"}.items()):
        places = [place + (i - 0.5) * 0.4 for place in range(len(table))]
        ax.barh(places, table[share], height=0.34, color="white" if i else COLOURS[0], edgecolor=COLOURS[i], hatch=HATCHES[i], linewidth=1.2, label=share)
        _whiskers(ax, table[share], places, xerr=[table[share] - table[f"{share} low"], table[f"{share} high"] - table[share]])
        for place, n in zip(places, table[count]):
            ax.text(1.02, place, f"n={n}", va="center", fontsize="small")
    ax.set_yticks(range(len(table)), [name.replace("_", " ") for name in table.index])
    ax.invert_yaxis()
    ax.set(xlabel="share (lines: 95 % interval)", xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1])
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def expert_speed(table: pd.DataFrame) -> Figure:
    """Time of one pass through a layer of experts by each implementation, on a logarithmic axis; lines from fastest to slowest.

    Args:
        table: one row a measurement; columns experts, implementation, tokens, seconds (median), fastest, slowest.
    """
    figure, ax = _figure(height=3.2)
    sizes, names = sorted(set(table.experts)), list(dict.fromkeys(table.implementation))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        rows = table[table.implementation == name].set_index("experts").loc[sizes, ["seconds", "fastest", "slowest"]] * 1000
        places = [place + (i - (len(names) - 1) / 2) * width for place in range(len(sizes))]
        ax.bar(places, rows.seconds, width=width * 0.9, color="white" if HATCHES[i % 4] else COLOURS[i % 4], edgecolor=COLOURS[i % 4], hatch=HATCHES[i % 4], linewidth=1.2, label=name)
        _whiskers(ax, places, rows.seconds, yerr=[rows.seconds - rows.fastest, rows.slowest - rows.seconds])
        for place, value, top in zip(places, rows.seconds, rows.slowest):
            ax.text(place, top * 1.15, f"{value:,.0f}" if value >= 100 else f"{value:.3g}", ha="center", va="bottom", fontsize="small")
    ax.set_xticks(range(len(sizes)), [f"{size} experts" for size in sizes])
    ax.set(yscale="log", ylabel=f"ms for {int(table.tokens.iloc[0])} tokens (logarithmic)", ylim=(table.fastest.min() * 1000 / 3, table.slowest.max() * 1000 * 3))
    figure.legend(loc="outside upper right", ncols=len(names), frameon=False)
    return figure


def routing_changes(table: pd.DataFrame, learned: str) -> Figure:
    """What a change of the router does: perplexity, from 1 (certainty) upward, and the share of right answers with its 95 % interval.

    Args:
        table: one row a change; columns perplexity, n, accuracy, low, high.
        learned: the row that is the model as it was trained; its bars are dark.
    """
    figure, axes = _figure(height=3.2, columns=2)
    places, dark = range(len(table)), [name == learned for name in table.index]
    style = {"width": 0.62, "color": [COLOURS[0] if d else "white" for d in dark], "edgecolor": COLOURS[0], "hatch": ["" if d else "////" for d in dark], "linewidth": 1.2}
    axes[0].bar(places, table.perplexity - 1, bottom=1, **style)
    for place, value in zip(places, table.perplexity):
        axes[0].text(place, value + (table.perplexity.max() - 1) * 0.01, f"{value:.2f}", ha="center", va="bottom", fontsize="small")
    axes[0].set(ylabel="perplexity of the right answers", ylim=(1, 1 + (table.perplexity.max() - 1) * 1.12))
    axes[1].bar(places, table.accuracy, **style)
    _whiskers(axes[1], places, table.accuracy, yerr=[table.accuracy - table.low, table.high - table.accuracy])
    axes[1].set(ylabel=f"share right (n={int(table.n.iloc[0])}, 95 % interval)", ylim=(0, 1.05))
    for ax in axes:
        ax.set_xticks(places, [name.replace(", ", ",\n") for name in table.index], fontsize="small")
        ax.set_xlabel("experts a token")
    return figure


def packed_rows(ways: Mapping[str, Sequence[Sequence[int]]]) -> Figure:
    """Ways to lay rows out in a batch, a panel each: a line a sequence, a box a row, hatched what is padding.

    Args:
        ways: name -> sequences, each with the lengths of its rows in tokens; all are padded to the longest of their way.
    """
    figure, axes = _figure(height=3.4, columns=len(ways), sharex=True)
    for ax, (name, sequences) in zip(axes if len(ways) > 1 else [axes], ways.items()):
        width, tokens = max(map(sum, sequences)), sum(map(sum, sequences))
        for line, lengths in enumerate(sequences):
            start = 0
            for place, length in enumerate(lengths):
                ax.barh(line, length, left=start, height=0.86, color=("#1f4e79", "#7ba3c7")[place % 2], edgecolor="white", linewidth=0.3)
                start += length
            ax.barh(line, width - start, left=start, height=0.86, color="white", edgecolor="#999999", hatch="////", linewidth=0)
        ax.set_title(f"{name}\n{tokens / (width * len(sequences)):.0%} of {width * len(sequences):,} places used", fontsize="medium")
        ax.set(xlabel="place in the sequence", ylabel="sequence")
        ax.invert_yaxis()
        ax.yaxis.get_major_locator().set_params(integer=True)
    return figure


def clinic_bars(table: pd.DataFrame) -> Figure:
    """The exhibits of the mask clinic, a panel each: the symptom with the mistake and without it, shares with their 95 % interval.

    Args:
        table: as `qwen3lab.clinic.table` returns it.
    """
    columns = min(3, len(table))
    lines = -(-len(table) // columns)
    figure, ax = _figure(height=0.4 + 2.4 * lines)
    ax.remove()
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, (name, row) in zip(grid, table.iterrows()):
        ax.spines[["top", "right"]].set_visible(False)
        values, top = (row.sick, row.healthy), 1.0 if row.share else max(row.sick, row.healthy)
        ax.bar((0, 1), values, width=0.62, color=("white", COLOURS[0]), edgecolor=(COLOURS[1], COLOURS[0]), hatch=("////", ""), linewidth=1.2)
        highest = list(values)
        if row.share:
            ends = [(row["sick low"], row["sick high"]), (row["healthy low"], row["healthy high"])]
            _whiskers(ax, (0, 1), values, yerr=[[v - low for v, (low, _) in zip(values, ends)], [high - v for v, (_, high) in zip(values, ends)]])
            highest = [high for _, high in ends]
        for place, (value, high) in enumerate(zip(values, highest)):
            ax.text(place, high + 0.03 * top, f"{value:.2f}" if row.share else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}", ha="center", fontsize="small")
        ax.set_xticks((0, 1), ("mistake", "right"))
        ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.3 * top), yticks=[0, top / 2, top])
        ax.set_ylabel(row.symptom, fontsize="small")
        ax.set_title(f"{name}\nn = {int(row.n)}", fontsize="small", loc="left")
    for ax in grid[len(table):]:
        ax.remove()
    return figure


# The planner's parts in the order of the bars: what is drawn together, its colour and its hatch.
MEMORY_PARTS = {
    "weights": (("weights", "other weights", "gathered layers"), COLOURS[0], ""), "4-bit weights": (("4-bit weights",), "#b8c9d9", ""),
    "adapter": (("adapter",), COLOURS[1], ""), "gradients": (("gradients",), "white", "////"), "optimiser": (("optimiser",), "white", "...."),
    "activations and logits": (("activations", "logits", "bfloat16 copies"), "#e8b08a", "xx"), "key-value cache": (("key-value cache",), COLOURS[2], "---")}


def memory_bars(plans: Mapping[str, Mapping[str, float]], cards: Mapping[str, float] | None = None) -> Figure:
    """What the memory of several plans is made of: a stacked bar each, in GB.

    Args:
        plans: name -> part -> bytes, as `memory.Plan.parts`.
        cards: name of a card -> its bytes, drawn as lines.
    """
    figure, ax = _figure(height=1.4 + 0.42 * len(plans))
    for name, size in (cards or {}).items():
        ax.axvline(size / 1e9, color="black", linewidth=1, linestyle="--", zorder=0)
        ax.text(size / 1e9, -0.62, name, ha="center", va="bottom", fontsize="small")
    ends = [0.0] * len(plans)
    for label, (parts, colour, hatch) in MEMORY_PARTS.items():
        sizes = [sum(plan.get(part, 0) for part in parts) / 1e9 for plan in plans.values()]
        if any(sizes):
            ax.barh(range(len(plans)), sizes, left=ends, height=0.6, color=colour, edgecolor="black", hatch=hatch, linewidth=0.7, label=label)
        ends = [end + size for end, size in zip(ends, sizes)]
    for place, end in enumerate(ends):
        ax.text(end + 0.012 * max(ends), place, f"{end:,.1f}", va="center", fontsize="small", bbox={"color": "white", "pad": 1})
    ax.set_yticks(range(len(plans)), list(plans))
    ax.set_ylim(len(plans) - 0.5, -0.6)
    ax.set(xlabel="memory (GB)", xlim=(0, 1.12 * max(ends)))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def planned_against(table: pd.DataFrame, label: str = "published") -> Figure:
    """Planned sizes beside published or measured ones on a logarithmic axis, each with the plan's error.

    Args:
        table: one row a case, by name; columns `published` and `planned` (GB) and `error` (%; none is written for a missing one).
        label: what the column `published` holds.
    """
    figure, ax = _figure(height=1.2 + 0.3 * len(table))
    for place, row in enumerate(table.itertuples()):
        ax.plot([row.published, row.planned], [place, place], color="grey", linewidth=1)
        ax.text(max(row.published, row.planned) * 1.2, place, "" if row.error != row.error else f"{row.error:+.1f} %", va="center", fontsize="small")
    ax.plot(table.published, range(len(table)), "o", color=COLOURS[0], markersize=7, label=label)
    ax.plot(table.planned, range(len(table)), "D", color=COLOURS[1], markersize=7, markerfacecolor="none", markeredgewidth=1.6, label="planned")
    ax.set_yticks(range(len(table)), list(table.index), fontsize="small")
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xscale("log")
    ticks = [v for v in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if table[["published", "planned"]].min().min() / 1.6 < v < table[["published", "planned"]].max().max() * 1.6]
    ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
    ax.minorticks_off()
    ax.set(xlabel="GB (logarithmic)", xlim=(ticks[0] / 1.3, ticks[-1] * 2))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def cache_sizes(tokens: Sequence[int], shared: Mapping[str, Sequence[float]], unshared: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """Bytes of the key-value cache against the length of the text, both axes logarithmic.

    Args:
        shared: model -> bytes at each length, with the keys and values that its query heads share (GQA).
        unshared: the same for some of these models if every query head had its own, drawn as broken lines.
    """
    figure, ax = _figure(height=3.8)
    for i, (name, sizes) in enumerate(shared.items()):
        ax.plot(tokens, [size / 1e9 for size in sizes], "-" + (MARKERS + "v")[i % 5], color=COLOURS[i % 4], linewidth=1.6, markersize=6,
                markerfacecolor="white" if i % 2 else COLOURS[i % 4], label=name)
    for number, (name, sizes) in enumerate((unshared or {}).items()):
        i = list(shared).index(name)
        ax.plot(tokens, [size / 1e9 for size in sizes], LINES[1 + number % 3], color=COLOURS[i % 4], linewidth=1.6, label=f"{name}, not shared")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(tokens, [f"{n // 1024}K" if n >= 1024 else str(n) for n in tokens])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set(xlabel="tokens in the cache (logarithmic)", ylabel="key-value cache (GB, logarithmic)")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def ablation(table: pd.DataFrame, baseline: str = "recipe") -> Figure:
    """Share of new facts learned (filled) and of old tasks kept (open), one line a setting, grouped; dotted lines: the baseline's.

    Args:
        table: columns setting, value, accuracy, low, high, old, old_low, old_high.
        baseline: the setting that all others change.
    """
    places, at = [], 0.0
    for setting in table.setting:
        if places and setting != last:
            at += 0.6
        places.append(at)
        last, at = setting, at + 1.0
    figure, ax = _figure(height=0.9 + 0.24 * at)
    for i, (column, label) in enumerate((("accuracy", "new facts, right"), ("old", "old tasks, right"))):
        low, high = ("low", "high") if column == "accuracy" else ("old_low", "old_high")
        ax.errorbar(table[column], [place + 0.12 * (2 * i - 1) for place in places], xerr=[table[column] - table[low], table[high] - table[column]],
                    fmt=MARKERS[i], color=COLOURS[i], markerfacecolor="white" if i else COLOURS[i], markersize=6, capsize=2, linewidth=1.2, label=label)
        base = table[table.setting == baseline]
        if len(base):
            ax.axvline(base[column].iloc[0], linestyle=":", color=COLOURS[i], linewidth=1)
    ax.set_yticks(places, [value if setting == baseline else f"{setting} {value}" for setting, value in zip(table.setting, table.value)])
    ax.invert_yaxis()
    ax.set(xlabel="share of questions (lines: 95 % interval; dotted: the recipe)", xlim=(0, 1))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def trade_off(table: pd.DataFrame) -> Figure:
    """What was learned against what was kept, one point a value, a marker a setting.

    Args:
        table: columns setting, value, accuracy, old.
    """
    figure, ax = _figure(height=4.0)
    marks = (MARKERS + "vPX*")
    for i, setting in enumerate(dict.fromkeys(table.setting)):
        chosen = table[table.setting == setting]
        ax.plot(chosen.accuracy, chosen.old, marks[i % len(marks)], color=COLOURS[i % 4], markerfacecolor="white" if i % 2 else COLOURS[i % 4], markersize=8, label=setting)
        for line in chosen[[len(chosen) > 1] * len(chosen)].itertuples():  # a setting of one value is named by the legend
            above = ((table.old - line.old).between(0.001, 0.05) & ((table.accuracy - line.accuracy).abs() < 0.15)).any()
            ax.annotate(line.value, (line.accuracy, line.old), xytext=(5, -11 if above else 4), textcoords="offset points", fontsize="small")
    ax.set(xlabel="new facts, share right", ylabel="old tasks, share right", xlim=(-0.02, 1.08), ylim=(0, 1))
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def block_errors(table: pd.DataFrame, line: Mapping[str, float]) -> Figure:
    """What rounding costs and what it saves, by size of the block: relative error of weights and of outputs; bytes a weight below each size.

    Args:
        table: columns format, block, bytes (a weight, scales included), weights and outputs (relative errors).
        line: the same for one format with its label: "label", "weights", "outputs"; drawn as a horizontal line.
    """
    figure, axes = _figure(columns=2, height=3.3, sharey=True)
    for ax, column, title in zip(axes, ("weights", "outputs"), ("error of the weights", "error of the layer's output")):
        for i, (name, rows) in enumerate(table.groupby("format", sort=False)):
            ax.plot(rows.block, rows[column], LINES[i], marker=MARKERS[i], color=COLOURS[i], linewidth=1.4, markersize=6,
                    markerfacecolor="white" if i else COLOURS[i], label=name)
        ax.axhline(line[column], color="black", linewidth=1.2, linestyle=":", label=line["label"])
        ax.set_xscale("log", base=2)
        ticks = table.drop_duplicates("block")
        ax.set_xticks(ticks.block, [f"{row.block:,}\n{row.bytes:.3f}" for row in ticks.itertuples()], fontsize="x-small")
        ax.minorticks_off()
        ax.set(xlabel="block size (logarithmic)\nbytes a weight, scales included")
        ax.set_title(title, fontsize="medium")
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="relative error", ylim=(0, None))  # of both, when both are drawn
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def planned_methods(table: pd.DataFrame, cards: Mapping[str, float]) -> Figure:
    """Memory of several methods for several models on a logarithmic axis: a group of bars a model.

    Args:
        table: a line a model, a column a method, in GB.
        cards: name of a card -> its GB, drawn as lines.
    """
    figure, ax = _figure(height=3.4)
    width = 0.8 / len(table.columns)
    for name, size in cards.items():
        ax.axhline(size, color="black", linewidth=1, linestyle="--", zorder=0)
        ax.text(-0.55, size * 1.06, name, va="bottom", fontsize="small")
    for i, method in enumerate(table.columns):
        places = [place + (i - (len(table.columns) - 1) / 2) * width for place in range(len(table))]
        ax.bar(places, table[method], width=width * 0.9, color="white" if HATCHES[i % 4] else COLOURS[i % 4], edgecolor=COLOURS[i % 4],
               hatch=HATCHES[i % 4], linewidth=1.2, label=method)
    ax.set_xticks(range(len(table)), list(table.index), fontsize="small")
    ax.set(yscale="log", ylabel="memory (GB, logarithmic)", xlim=(-0.6, len(table) - 0.4), ylim=(table.min().min() / 2, None))
    ax.yaxis.set_major_formatter("{x:,g}")
    figure.legend(loc="outside upper right", ncols=len(table.columns), frameon=False)
    return figure


def speed_ratios(table: pd.DataFrame, guides: float | None = None) -> Figure:
    """Speed of several kinds of training in units of another's, against the tokens of a step; lines from the lowest to the highest round.

    Args:
        table: columns kind, tokens, ratio, low, high.
        guides: a ratio that guides promise, drawn as a line.
    """
    figure, ax = _figure(height=3.2)
    for i, (name, rows) in enumerate(table.groupby("kind", sort=False)):
        tokens = rows.tokens * (1 + 0.04 * i)  # a little apart, so that no line hides another
        ax.errorbar(tokens, rows.ratio, yerr=[rows.ratio - rows.low, rows.high - rows.ratio], color=COLOURS[i], linestyle=LINES[i], marker=MARKERS[i],
                    markersize=6, markerfacecolor="white" if i else COLOURS[i], linewidth=1.4, elinewidth=1, capsize=3, label=name)
    ax.axhline(1, color="black", linewidth=1)
    if guides is not None:
        ax.axhline(guides, color="black", linewidth=1, linestyle="--")
        ax.text(table.tokens.min() * 0.92, guides, f"guides: at most {1 - guides:.0%} slower", ha="left", va="bottom", fontsize="small")
    ticks = sorted({round(value) for value in table.tokens})
    ax.set_xscale("log")
    ax.set_xticks([tick for tick in ticks if not any(tick < other < 1.3 * tick for other in ticks)])
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.set(xlabel="tokens in a step (logarithmic)", ylabel="speed, LoRA = 1", ylim=(0, 1.15))
    ax.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def share_dots(table: pd.DataFrame, xlabel: str | None = None) -> Figure:
    """Several shares of several recipes: a row a recipe, a marker a measure, each with its interval.

    Args:
        table: columns recipe, measure, share, low, high; with lowest and highest, ticks for the extreme seeds are drawn.
    """
    seeds = "lowest" in table
    xlabel = xlabel or f"share (lines: 95 % interval{'; ticks: extreme seeds' if seeds else ''})"
    recipes, measures = (list(dict.fromkeys(table[column])) for column in ("recipe", "measure"))
    figure, ax = _figure(height=1.0 + 0.13 * len(recipes) * (len(measures) + 1))
    for i, measure in enumerate(measures):
        rows = table[table.measure == measure]
        places = [recipes.index(recipe) + 0.7 * ((i + 0.5) / len(measures) - 0.5) for recipe in rows.recipe]
        ax.errorbar(rows.share, places, xerr=[(rows.share - rows.low).clip(lower=0), (rows.high - rows.share).clip(lower=0)], fmt=MARKERS[i % 4], color=COLOURS[i % 4],
                    markerfacecolor="white" if i % 2 else COLOURS[i % 4], markersize=6, capsize=2, linewidth=1.2, label=measure)
        if seeds:
            for end in (rows.lowest, rows.highest):
                ax.plot(end, places, "|", color=COLOURS[i % 4], markersize=9, markeredgewidth=1.6)
    for place in range(1, len(recipes)):
        ax.axhline(place - 0.5, color="lightgrey", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(recipes)), recipes)
    ax.set(xlabel=xlabel, xlim=(-0.03, 1.03), ylim=(len(recipes) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=min(4, len(measures)), frameon=False, fontsize="small")
    return figure


def time_to_loss(traces: Mapping[str, Sequence[tuple[float, float]]], target: float) -> Figure:
    """Held-out loss against seconds of training on a logarithmic axis, and the loss to be reached.

    Args:
        traces: recipe -> (seconds, loss) at each look.
    """
    figure, ax = _figure(height=3.2)
    for i, (name, points) in enumerate(traces.items()):
        seconds, losses = zip(*points)
        ax.plot(seconds, losses, LINES[i % 4], marker=MARKERS[i % 4], markevery=max(1, len(points) // 8), color=COLOURS[i % 4], linewidth=1.4,
                markerfacecolor="white" if i % 2 else COLOURS[i % 4], markersize=6, label=name)
    ax.axhline(target, color="black", linewidth=1, linestyle=":")
    ax.set_xscale("log")
    ax.text(ax.get_xlim()[1], target, "target", ha="right", va="bottom", fontsize="small")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="seconds of training (logarithmic)", ylabel="held-out loss (nats a token)", ylim=(0, None))
    ax.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure
