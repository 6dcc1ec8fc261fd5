"""Charts of notebooks 03 to 05: losses, ablations, 4 bits, forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.plots.style import COLOURS, HATCHES, LINES, MARKERS, axes_of, chart_class, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def loss_curves(histories: Mapping[str, pd.DataFrame], x: str = "step") -> Figure:
    """Draw the training loss of one or more runs, with the validation loss as larger markers.

    Args:
        histories: name -> `Run.history`; the validation loss may be missing.
    """
    figure, ax = axes_of()
    for i, (name, history) in enumerate(histories.items()):
        train = history.dropna(subset=["loss"])
        ax.plot(train[x], train.loss, LINES[i % 4], color=COLOURS[i % 4], linewidth=1.6, label=name)
        if "eval_loss" in history:
            held_out = history.dropna(subset=["eval_loss"])
            ax.plot(
                held_out[x],
                held_out.eval_loss,
                MARKERS[i % 4],
                color=COLOURS[i % 4],
                markersize=8,
                markerfacecolor="white",
                markeredgewidth=1.8,
                label=f"{name}, validation",
            )
    ax.set(
        xlabel={"step": "optimiser step", "tokens": "tokens read"}.get(x, x),
        ylabel="loss (nats a token)",
        ylim=(0, None),
    )
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Draw one run's loss (validation as markers), learning rate and gradient norm by step.

    Args:
        history: of `Run.history`, or as much of it as there is; eval_loss may be missing.
    """
    figure, axes = axes_of(columns=3, height=2.6)
    train = history.dropna(subset=["loss"])
    for ax, column, label in zip(
        axes,
        ("loss", "learning_rate", "grad_norm"),
        ("loss (nats a token)", "learning rate", "gradient norm"),
    ):
        ax.plot(train["step"], train[column], color=COLOURS[0], linewidth=1.6)
        ax.set(xlabel="optimiser step", title=label, ylim=(0, None))
        ax.title.set_fontsize("medium")
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
        ax.grid(alpha=0.3)
    if "eval_loss" in history:
        held_out = history.dropna(subset=["eval_loss"])
        axes[0].plot(
            held_out["step"],
            held_out.eval_loss,
            MARKERS[0],
            color=COLOURS[1],
            markersize=7,
            markerfacecolor="white",
            markeredgewidth=1.6,
            label="validation",
        )
        axes[0].legend(frameon=False)
    return figure


def failures(found: Sequence[Any]) -> Figure:
    """Draw training failures, one panel each: their curves, or the symptom with and without them.

    Args:
        found: `training.Failure`s.
    """
    rows = -(-len(found) // 2)
    figure = chart_class()(figsize=(6.4, 2.5 * rows), layout="constrained")
    for ax, failure in zip(figure.subplots(rows, 2, squeeze=False).flat, found):
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(failure.name, fontsize="medium")
        curves = failure.curves
        if "scales" in curves:
            table = curves["scales"]
            for i, column in enumerate(("lost as 0", "too large")):
                ax.plot(
                    table.scale,
                    table[column],
                    LINES[i],
                    color=COLOURS[i],
                    marker=MARKERS[i],
                    markersize=4,
                    label=column,
                )
            ax.set_xscale("log", base=2)
            ax.set(xlabel="scale of the loss", ylabel="share of gradients", ylim=(0, None))
        elif curves:
            for i, (name, history) in enumerate(curves.items()):
                ax.plot(
                    history["step"],
                    history.loss,
                    LINES[i],
                    color=COLOURS[i],
                    linewidth=1.8 - 0.5 * i,
                    label=name,
                )
            ax.set(xlabel="optimiser step", ylabel="loss (nats a token)", ylim=(0, None))
        else:
            bars = ax.bar(
                ["failure", "healthy"],
                [failure.sick, failure.healthy],
                color=[COLOURS[0], COLOURS[1]],
                hatch=None,
            )
            bars[0].set_hatch(HATCHES[1])
            bars[0].set(facecolor="white", edgecolor=COLOURS[0])
            ax.bar_label(bars, fmt="%.2f", fontsize="small")
            ax.set(ylabel=f"{failure.symptom}\n(n={failure.n})", ylim=(0, 1.15))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize="small")
    for ax in figure.axes[len(found) :]:
        ax.set_visible(False)
    return figure


def score_bars(systems: Mapping[str, pd.DataFrame], xlabel: str = "exact match") -> Figure:
    """Draw the scores of several systems by task, with 95 % intervals.

    Args:
        systems: name -> table as `evaluation.summary` returns it, with the same tasks as its index.
    """
    tasks = list(next(iter(systems.values())).index)
    figure, ax = axes_of(height=1.2 + 0.17 * len(tasks) * (len(systems) + 0.6))
    for i, (name, table) in enumerate(systems.items()):
        table = table.loc[tasks]
        places = [
            place + (i - (len(systems) - 1) / 2) * 0.8 / len(systems) for place in range(len(tasks))
        ]
        ax.barh(
            places,
            table.accuracy,
            height=0.72 / len(systems),
            color=COLOURS[i % 4] if not HATCHES[i % 4] else "white",
            edgecolor=COLOURS[i % 4],
            hatch=HATCHES[i % 4],
            linewidth=1.2,
            label=name,
        )
        whiskers(
            ax,
            table.accuracy,
            places,
            xerr=[table.accuracy - table.low, table.high - table.accuracy],
        )
    first = next(iter(systems.values()))
    ax.set_yticks(range(len(tasks)), [f"{task} (n={first.n[task]})" for task in tasks])
    ax.invert_yaxis()
    ax.set(xlabel=f"{xlabel} (lines: 95 % interval)", xlim=(0, 1))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=len(systems), frameon=False)
    return figure


def learned_and_forgotten(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """Draw what was learned beside what was forgotten, with 95 % intervals.

    One line per task, from the share of right answers before training to that after it.

    Args:
        before, after: as `evaluation.summary` returns them, with the same tasks in their index,
            what was taught first.
    """
    figure, ax = axes_of(height=1.3 + 0.34 * len(before))
    rises = (after.accuracy >= before.accuracy).tolist()
    colours = [COLOURS[0 if up else 1] for up in rises]
    places = [place + 0.5 * bool(place) for place in range(len(before))]  # the first stands apart
    for start, end, place, up, colour in zip(
        before.accuracy, after.accuracy, places, rises, colours
    ):
        ax.annotate(
            "",
            (end, place),
            (start, place),
            arrowprops={
                "arrowstyle": "-|>",
                "color": colour,
                "linestyle": "-" if up else "--",
                "linewidth": 1.6,
                "shrinkA": 5,
                "shrinkB": 5,
            },
        )
    for i, (name, table) in enumerate((("before", before), ("after", after))):
        ax.errorbar(
            table.accuracy,
            [place - 0.14 + 0.28 * i for place in places],
            xerr=[
                (table.accuracy - table.low).clip(lower=0),
                (table.high - table.accuracy).clip(lower=0),
            ],
            fmt="none",
            ecolor="grey",
            elinewidth=1,
            capsize=2,
        )
        ax.scatter(
            table.accuracy,
            places,
            s=52,
            zorder=3,
            color=colours if i else "white",
            edgecolor=colours,
            linewidth=1.6,
            label=name,
        )
    ax.set_yticks(places, [f"{task} (n={n})" for task, n in zip(before.index, before.n)])
    ax.axhline(0.75, color="lightgrey", linewidth=0.8)
    ax.set(
        xlabel="share of right answers (lines: 95 % interval)",
        xlim=(-0.03, 1.03),
        ylim=(places[-1] + 0.5, -0.5),
    )
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def code_book(weights: Sequence[float], levels: Sequence[float]) -> Figure:
    """Draw the distribution of a layer's block-scaled weights, with the code book's values on it.

    Each weight is divided by the largest of its block.
    """
    figure, ax = axes_of(height=3.2)
    ax.hist(
        weights,
        bins=121,
        density=True,
        color="#b8c9d9",
        edgecolor="none",
        label="weights, by block scaled to [-1, 1]",
    )
    for i, level in enumerate(levels):
        ax.axvline(
            level,
            color=COLOURS[1],
            linewidth=1.2,
            linestyle="--",
            label="the 16 values of NF4" if not i else None,
        )
    ax.set(xlabel="weight / largest weight of its block", ylabel="density")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def schedules(rates: Mapping[str, Sequence[float]]) -> Figure:
    """Draw learning rates over the steps of a training, one line per schedule."""
    figure, ax = axes_of(height=3.2)
    for i, (name, values) in enumerate(rates.items()):
        ax.plot(
            range(1, len(values) + 1),
            values,
            LINES[i % 4],
            color=COLOURS[i % 4],
            linewidth=1.8,
            label=name,
        )
    ax.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, None))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def spectra(values: Mapping[str, Sequence[float]]) -> Figure:
    """Draw singular values of weight changes, relative to the largest, on a logarithmic axis."""
    figure, ax = axes_of(height=3.2)
    for i, (name, series) in enumerate(values.items()):
        ax.semilogy(
            range(1, len(series) + 1),
            [v / series[0] for v in series],
            LINES[i % 4],
            color=COLOURS[i % 4],
            linewidth=1.8,
            label=name,
        )
    ax.set(xlabel="singular value number", ylabel="size (largest = 1)", ylim=(1e-4, 1.5))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def ablation(table: pd.DataFrame, baseline: str | None = "recipe") -> Figure:
    """Draw new facts learned (filled) and old tasks kept (open), one line per setting, grouped.

    Dotted lines show the baseline.

    Args:
        table: columns setting, value, accuracy, low, high, old, old_low, old_high.
        baseline: the setting that all others change; None: there is none, and no dotted lines.
    """
    places, at, last = [], 0.0, None
    for setting in table.setting:
        if last is not None and setting != last:
            at += 0.6
        places.append(at)
        last, at = setting, at + 1.0
    figure, ax = axes_of(height=0.9 + 0.24 * at)
    for i, (column, label) in enumerate(
        (("accuracy", "new facts, right"), ("old", "old tasks, right"))
    ):
        low, high = ("low", "high") if column == "accuracy" else ("old_low", "old_high")
        ax.errorbar(
            table[column],
            [place + 0.12 * (2 * i - 1) for place in places],
            xerr=[table[column] - table[low], table[high] - table[column]],
            fmt=MARKERS[i],
            color=COLOURS[i],
            markerfacecolor="white" if i else COLOURS[i],
            markersize=6,
            capsize=2,
            linewidth=1.2,
            label=label,
        )
        base = table[table.setting == baseline]
        if len(base):
            ax.axvline(base[column].iloc[0], linestyle=":", color=COLOURS[i], linewidth=1)
    ax.set_yticks(
        places,
        [
            value if setting == baseline else f"{setting} {value}"
            for setting, value in zip(table.setting, table.value)
        ],
    )
    ax.invert_yaxis()
    dotted = "; dotted: the recipe" if (table.setting == baseline).any() else ""
    ax.set(xlabel=f"share right (lines: 95 % interval{dotted})", xlim=(0, 1.02))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def block_errors(table: pd.DataFrame, line: Mapping[str, float]) -> Figure:
    """Draw quantisation error of weights and outputs against block size, with bytes per weight.

    Args:
        table: columns format, block, bytes (per weight, scales included), weights and outputs
            (relative errors).
        line: the same for one format with its label: "label", "weights", "outputs"; drawn as a
            horizontal line.
    """
    figure, axes = axes_of(columns=2, height=3.3, sharey=True)
    for ax, column, title in zip(
        axes, ("weights", "outputs"), ("error of the weights", "error of the layer's output")
    ):
        for i, (name, rows) in enumerate(table.groupby("format", sort=False)):
            ax.plot(
                rows.block,
                rows[column],
                LINES[i],
                marker=MARKERS[i],
                color=COLOURS[i],
                linewidth=1.4,
                markersize=6,
                markerfacecolor="white" if i else COLOURS[i],
                label=name,
            )
        ax.axhline(line[column], color="black", linewidth=1.2, linestyle=":", label=line["label"])
        ax.set_xscale("log", base=2)
        ticks = table.drop_duplicates("block")
        ax.set_xticks(
            ticks.block,
            [f"{row.block:,}\n{row.bytes:.3f}" for row in ticks.itertuples()],
            fontsize="x-small",
        )
        ax.minorticks_off()
        ax.set(xlabel="block size (logarithmic)\nbytes a weight, scales included")
        ax.set_title(title, fontsize="medium")
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="relative error", ylim=(0, None))  # of both, when both are drawn
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize="small",
    )
    return figure


def speed_ratios(table: pd.DataFrame, guides: float | None = None) -> Figure:
    """Draw the relative speed of several kinds of training against the tokens of a step.

    Speed is in units of another kind's; lines reach from the lowest to the highest round.

    Args:
        table: columns kind, tokens, ratio, low, high.
        guides: a ratio that guides promise, drawn as a line.
    """
    figure, ax = axes_of(height=3.2)
    for i, (name, rows) in enumerate(table.groupby("kind", sort=False)):
        tokens = rows.tokens * (1 + 0.04 * i)  # a little apart, so that no line hides another
        ax.errorbar(
            tokens,
            rows.ratio,
            yerr=[rows.ratio - rows.low, rows.high - rows.ratio],
            color=COLOURS[i],
            linestyle=LINES[i],
            marker=MARKERS[i],
            markersize=6,
            markerfacecolor="white" if i else COLOURS[i],
            linewidth=1.4,
            elinewidth=1,
            capsize=3,
            label=name,
        )
    ax.axhline(1, color="black", linewidth=1)
    if guides is not None:
        ax.axhline(guides, color="black", linewidth=1, linestyle="--")
        ax.text(
            table.tokens.min() * 0.92,
            guides,
            f"guides: at most {1 - guides:.0%} slower",
            ha="left",
            va="bottom",
            fontsize="small",
        )
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
    """Draw several measures of several training recipes: one row each, a marker per measure.

    Each marker is a share with its interval.

    Args:
        table: columns recipe, measure, share, low, high; with lowest and highest, ticks for the
            extreme seeds are drawn.
    """
    seeds = "lowest" in table
    xlabel = xlabel or f"share (lines: 95 % interval{'; ticks: extreme seeds' if seeds else ''})"
    recipes, measures = (list(dict.fromkeys(table[column])) for column in ("recipe", "measure"))
    figure, ax = axes_of(height=1.0 + 0.13 * len(recipes) * (len(measures) + 1))
    for i, measure in enumerate(measures):
        rows = table[table.measure == measure]
        places = [
            recipes.index(recipe) + 0.7 * ((i + 0.5) / len(measures) - 0.5)
            for recipe in rows.recipe
        ]
        ax.errorbar(
            rows.share,
            places,
            xerr=[(rows.share - rows.low).clip(lower=0), (rows.high - rows.share).clip(lower=0)],
            fmt=MARKERS[i % 4],
            color=COLOURS[i % 4],
            markerfacecolor="white" if i % 2 else COLOURS[i % 4],
            markersize=6,
            capsize=2,
            linewidth=1.2,
            label=measure,
        )
        if seeds:
            for end in (rows.lowest, rows.highest):
                ax.plot(end, places, "|", color=COLOURS[i % 4], markersize=9, markeredgewidth=1.6)
    for place in range(1, len(recipes)):
        ax.axhline(place - 0.5, color="lightgrey", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(recipes)), recipes)
    ax.set(xlabel=xlabel, xlim=(-0.03, 1.03), ylim=(len(recipes) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(
        loc="outside upper center", ncols=min(4, len(measures)), frameon=False, fontsize="small"
    )
    return figure


def time_to_loss(traces: Mapping[str, Sequence[tuple[float, float]]], target: float) -> Figure:
    """Draw held-out loss against seconds of training on a logarithmic axis, with the target loss.

    Args:
        traces: recipe -> (seconds, loss) at each evaluation.
        target: the loss to be reached, drawn as a line.
    """
    figure, ax = axes_of(height=3.2)
    for i, (name, points) in enumerate(traces.items()):
        seconds, losses = zip(*points)
        ax.plot(
            seconds,
            losses,
            LINES[i % 4],
            marker=MARKERS[i % 4],
            markevery=max(1, len(points) // 8),
            color=COLOURS[i % 4],
            linewidth=1.4,
            markerfacecolor="white" if i % 2 else COLOURS[i % 4],
            markersize=6,
            label=name,
        )
    ax.axhline(target, color="black", linewidth=1, linestyle=":")
    ax.set_xscale("log")
    ax.text(ax.get_xlim()[1], target, "target", ha="right", va="bottom", fontsize="small")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(
        xlabel="seconds of training (logarithmic)",
        ylabel="held-out loss (nats a token)",
        ylim=(0, None),
    )
    ax.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure
