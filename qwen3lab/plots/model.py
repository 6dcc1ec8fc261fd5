"""Charts of notebook 01: the model family, routing, long context, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.plots.style import COLOURS, HATCHES, LINES, MARKERS, axes_of, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


# The planner's parts in the order of the bars: which parts are drawn together, with colour and
# hatch.
MEMORY_PARTS = {
    "weights": (("weights", "other weights", "gathered layers"), COLOURS[0], ""),
    "4-bit weights": (("4-bit weights",), "#b8c9d9", ""),
    "adapter": (("adapter",), COLOURS[1], ""),
    "gradients": (("gradients",), "white", "////"),
    "optimiser": (("optimiser",), "white", "...."),
    "activations and logits": (
        ("activations", "logits", "bfloat16 copies", "float16 copies"),
        "#e8b08a",
        "xx",
    ),
    "key-value cache": (("key-value cache",), COLOURS[2], "---"),
}


def family_parameters(total: Mapping[str, float], active: Mapping[str, float]) -> Figure:
    """Draw total and active parameters of several models on a logarithmic axis."""
    figure, ax = axes_of(height=1.0 + 0.42 * len(total))
    for i, (label, series) in enumerate(
        {"all parameters": total, "parameters that one token uses": active}.items()
    ):
        places = [place + (i - 0.5) * 0.4 for place in range(len(total))]
        ax.barh(
            places,
            [series[name] for name in total],
            height=0.36,
            color="white" if i else COLOURS[0],
            edgecolor=COLOURS[i],
            hatch=HATCHES[i],
            linewidth=1.2,
            label=label,
        )
        for place, name in zip(places, total):
            ax.text(
                series[name] * 1.08,
                place,
                (
                    f"{series[name] / 1e9:.3g} B"
                    if series[name] >= 1e8
                    else f"{series[name] / 1e6:.3g} M"
                ),
                va="center",
                fontsize="x-small",
            )
    ax.set_yticks(range(len(total)), list(total))
    ax.invert_yaxis()
    ax.set(
        xscale="log",
        xlabel="parameters (logarithmic)",
        xlim=(min(active.values()) / 3, max(total.values()) * 3),
    )
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def expert_load(load: Any) -> Figure:
    """Draw how often each expert of each layer is chosen, in units of its fair share.

    `load` is [layers, experts].
    """
    figure, ax = axes_of(height=3.2)
    layers, experts = load.shape
    for layer in range(layers):
        ax.plot(
            range(experts),
            load[layer],
            MARKERS[layer % 4],
            color=COLOURS[layer % 4],
            markersize=6,
            markerfacecolor="white" if layer % 2 else COLOURS[layer % 4],
            label=f"layer {layer}",
        )
    ax.axhline(1, color="black", linewidth=1, linestyle="--")
    ax.text(experts - 0.3, 1, "fair\nshare", va="center", fontsize="small")
    ax.set(
        xlabel="expert",
        ylabel="times its fair share",
        xticks=range(0, experts, max(1, experts // 16)),
        xlim=(-0.6, experts + 0.6),
        ylim=(0, max(2.0, float(load.max()) * 1.1)),
    )
    ax.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside upper right", ncols=min(layers, 4), frameon=False)
    return figure


def routing_heatmap(
    counts: Any, kinds: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Draw expert choices by kind of token as heat maps, one per layer, in units of the fair share.

    Blue is below the fair share and orange above. Experts stand in the order of the kinds that
    choose them most, so that specialists lie along the diagonal. A single layer of up to 24 experts
    has its values written in.

    Args:
        counts: choices [layers, kinds, experts] as `routing.by_kind` gives them; a kind without
            tokens is left out.
        kinds: names of the kinds.
        layers: layers to draw; default all, at most four.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    layers = list(range(len(counts)))[:4] if layers is None else list(layers)
    present = [i for i in range(len(kinds)) if counts[:, i].sum()]
    experts, columns = counts.shape[2], min(2, len(layers))
    written = len(layers) == 1 and experts <= 24
    figure, axes = axes_of(
        width=1.6 + (min(8, max(4, 0.34 * experts)) if columns == 1 else 7.2),
        height=(0.3 * len(present) + 0.6) * -(-len(layers) // 2) + 0.4,
    )
    axes.remove()
    grid = figure.subplots(-(-len(layers) // 2), columns, squeeze=False)
    colours = LinearSegmentedColormap.from_list("fair", [COLOURS[0], "#f7f7f7", COLOURS[1]])
    for ax, layer in zip(grid.ravel(), layers):
        share = counts[layer][present] * experts / counts[layer][present].sum(axis=1, keepdims=True)
        order = sorted(range(experts), key=lambda e: (share[:, e].argmax(), -share[:, e].max()))
        share = share[:, order]
        # A quarter of the fair share and four times it are the ends of the scale.
        image = ax.imshow(share.clip(0.25, 4), cmap=colours, norm=LogNorm(0.25, 4), aspect="auto")
        if written:
            for row, column in np.ndindex(*share.shape):
                value = share[row, column]
                ax.text(
                    column,
                    row,
                    f"{value:.1f}",
                    ha="center",
                    va="center",
                    fontsize="x-small",
                    color="white" if abs(np.log2(max(value, 0.25))) > 1.2 else "black",
                )
        ax.set_title(f"layer {layer}", fontsize="small")
        ax.set_yticks(range(len(present)), [kinds[i] for i in present], fontsize="small")
        every = range(0, experts, -(-experts // 24))
        ax.set_xticks(every, [order[i] for i in every], fontsize="x-small")
        ax.set_xlabel("expert", fontsize="small")
    for ax in grid.ravel()[len(layers) :]:
        ax.remove()
    bar = figure.colorbar(image, ax=grid, label="times the fair share", shrink=0.9)
    bar.set_ticks([0.25, 0.5, 1, 2, 4], labels=["¼", "½", "1", "2", "4"])
    bar.minorticks_off()
    return figure


def routing_information(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how much of each router's choice labels explain, with a mark for shuffled labels.

    Args:
        tables: name of a label -> table of `routing.information`; columns layer, share, by_chance.
    """
    figure, ax = axes_of(height=3.0)
    width = 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        places = [place + (i - (len(tables) - 1) / 2) * width for place in range(len(table))]
        ax.bar(
            places,
            100 * table.share,
            width=width * 0.9,
            color="white" if HATCHES[i % 4] else COLOURS[i % 4],
            edgecolor=COLOURS[i % 4],
            hatch=HATCHES[i % 4],
            linewidth=1.2,
            label=name,
        )
        ax.hlines(
            100 * table.by_chance,
            [place - width * 0.45 for place in places],
            [place + width * 0.45 for place in places],
            colors="black",
            linewidth=2.5,
            label="" if i else "the same label, texts shuffled",
        )
        for place, value in zip(places, 100 * table.share):
            ax.text(place, value, f"{value:.0f} %", ha="center", va="bottom", fontsize="small")
    layers = next(iter(tables.values())).layer
    ax.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    ax.set(ylabel="explained share of the choice (%)")
    ax.margins(y=0.12)
    figure.legend(loc="outside upper center", ncols=len(tables) + 1, frameon=False)
    return figure


def by_digits(tables: Mapping[str, pd.DataFrame], trained: int | None = None) -> Figure:
    """Share of right sums and tokens written, against the number of digits, one line per mode.

    Args:
        tables: mode -> table indexed by the number of digits; columns n, accuracy, low, high,
            tokens (mean per answer).
        trained: the most digits in training; marked by a dotted line.
    """
    figure, axes = axes_of(height=3.0, columns=2)
    for i, (name, table) in enumerate(tables.items()):
        digits = table.index
        style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "label": name}
        axes[0].errorbar(
            digits,
            table.accuracy,
            yerr=[table.accuracy - table.low, table.high - table.accuracy],
            capsize=3,
            **style,
        )
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
        axes[0].text(
            trained + 0.58, 0.62, "longer than\nin training", fontsize="small", color="#444444"
        )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=len(tables),
        frameon=False,
    )
    return figure


def by_position(tables: Mapping[str, pd.DataFrame], trained: int) -> Figure:
    """Draw perplexity against position for several position methods; trained length shaded.

    Args:
        tables: name -> table of `long_context.by_position`, indexed by the end of each stretch.
        trained: the trained length in tokens.
    """
    figure, ax = axes_of(height=3.6)
    ax.axvspan(0, trained, color="#eeeeee")
    for i, (name, table) in enumerate(tables.items()):
        ax.plot(
            table.index - table.index[0] / 2,
            table.perplexity,
            LINES[i % 4],
            marker=(MARKERS + "vPX")[i],
            color=COLOURS[i % 4],
            markersize=7,
            markerfacecolor="white" if i >= 4 else COLOURS[i % 4],
            label=name,
        )
    ax.text(
        trained / 2,
        ax.get_ylim()[1],
        "trained length",
        ha="center",
        va="top",
        fontsize="small",
        color="#444444",
    )
    ends = list(next(iter(tables.values())).index)
    ax.set_xticks([0, *ends])
    ax.set(xlabel="position in the text (tokens)", ylabel="perplexity", xlim=(0, ends[-1]))
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def expert_speed(table: pd.DataFrame) -> Figure:
    """Draw the time of one pass through an expert layer by implementation, on a logarithmic axis.

    Lines reach from fastest to slowest.

    Args:
        table: one row per measurement; columns experts, implementation, tokens, seconds (median),
            fastest, slowest.
    """
    figure, ax = axes_of(height=3.2)
    sizes, names = sorted(set(table.experts)), list(dict.fromkeys(table.implementation))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        rows = (
            table[table.implementation == name]
            .set_index("experts")
            .loc[sizes, ["seconds", "fastest", "slowest"]]
            * 1000
        )
        places = [place + (i - (len(names) - 1) / 2) * width for place in range(len(sizes))]
        ax.bar(
            places,
            rows.seconds,
            width=width * 0.9,
            color="white" if HATCHES[i % 4] else COLOURS[i % 4],
            edgecolor=COLOURS[i % 4],
            hatch=HATCHES[i % 4],
            linewidth=1.2,
            label=name,
        )
        whiskers(
            ax,
            places,
            rows.seconds,
            yerr=[rows.seconds - rows.fastest, rows.slowest - rows.seconds],
        )
        for place, value, top in zip(places, rows.seconds, rows.slowest):
            ax.text(
                place,
                top * 1.15,
                f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
                ha="center",
                va="bottom",
                fontsize="small",
            )
    ax.set_xticks(range(len(sizes)), [f"{size} experts" for size in sizes])
    ax.set(
        yscale="log",
        ylabel=f"ms for {int(table.tokens.iloc[0])} tokens (logarithmic)",
        ylim=(table.fastest.min() * 1000 / 3, table.slowest.max() * 1000 * 3),
    )
    figure.legend(loc="outside upper right", ncols=len(names), frameon=False)
    return figure


def routing_changes(table: pd.DataFrame, learned: str) -> Figure:
    """Draw the effect of router changes: perplexity, and accuracy with its 95 % interval.

    Perplexity starts at 1 (certainty).

    Args:
        table: one row per change; columns perplexity, n, accuracy, low, high.
        learned: the row of the model as it was trained; its bars are dark.
    """
    figure, axes = axes_of(height=3.2, columns=2)
    places, dark = range(len(table)), [name == learned for name in table.index]
    style = {
        "width": 0.62,
        "color": [COLOURS[0] if d else "white" for d in dark],
        "edgecolor": COLOURS[0],
        "hatch": ["" if d else "////" for d in dark],
        "linewidth": 1.2,
    }
    axes[0].bar(places, table.perplexity - 1, bottom=1, **style)
    for place, value in zip(places, table.perplexity):
        axes[0].text(
            place,
            value + (table.perplexity.max() - 1) * 0.01,
            f"{value:.2f}",
            ha="center",
            va="bottom",
            fontsize="small",
        )
    axes[0].set(
        ylabel="perplexity of the right answers", ylim=(1, 1 + (table.perplexity.max() - 1) * 1.12)
    )
    axes[1].bar(places, table.accuracy, **style)
    whiskers(
        axes[1],
        places,
        table.accuracy,
        yerr=[table.accuracy - table.low, table.high - table.accuracy],
    )
    axes[1].set(ylabel=f"share right (n={int(table.n.iloc[0])}, 95 % interval)", ylim=(0, 1.05))
    for ax in axes:
        ax.set_xticks(places, [name.replace(", ", ",\n") for name in table.index], fontsize="small")
        ax.set_xlabel("experts a token")
    return figure


def memory_bars(
    plans: Mapping[str, Mapping[str, float]], cards: Mapping[str, float] | None = None
) -> Figure:
    """Draw the memory of several plans by component: one stacked bar per plan, in GB.

    Args:
        plans: name -> part -> bytes, as `memory.Plan.parts`.
        cards: name of a card -> its bytes, drawn as lines.
    """
    figure, ax = axes_of(height=1.4 + 0.42 * len(plans))
    lines = sorted((size / 1e9, name) for name, size in (cards or {}).items())
    width = max(
        [1.12 * sum(plan.values()) / 1e9 for plan in plans.values()] + [1.04 * x for x, _ in lines]
    )
    before, raised = -width, False
    for size, name in lines:
        raised = size - before < 0.25 * width and not raised  # two labels would collide
        ax.axvline(size, color="black", linewidth=1, linestyle="--", zorder=0)
        ax.text(size, -1.02 if raised else -0.62, name, ha="center", va="bottom", fontsize="small")
        before = size
    ends = [0.0] * len(plans)
    for label, (parts, colour, hatch) in MEMORY_PARTS.items():
        sizes = [sum(plan.get(part, 0) for part in parts) / 1e9 for plan in plans.values()]
        if any(sizes):
            ax.barh(
                range(len(plans)),
                sizes,
                left=ends,
                height=0.6,
                color=colour,
                edgecolor="black",
                hatch=hatch,
                linewidth=0.7,
                label=label,
            )
        ends = [end + size for end, size in zip(ends, sizes)]
    for place, end in enumerate(ends):
        ax.text(
            end + 0.012 * max(ends),
            place,
            f"{end:,.1f}",
            va="center",
            fontsize="small",
            bbox={"color": "white", "pad": 1},
        )
    ax.set_yticks(range(len(plans)), list(plans))
    ax.set_ylim(len(plans) - 0.5, -0.6)
    ax.set(xlabel="memory (GB)", xlim=(0, width))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def planned_against(table: pd.DataFrame, label: str = "published") -> Figure:
    """Draw planned sizes beside published or measured ones on a logarithmic axis, with the error.

    Args:
        table: one row per case, by name; columns `published` and `planned` (GB) and `error` (%;
            none is written for a missing one).
        label: what the column `published` holds.
    """
    figure, ax = axes_of(height=1.2 + 0.3 * len(table))
    for place, row in enumerate(table.itertuples()):
        ax.plot([row.published, row.planned], [place, place], color="grey", linewidth=1)
        ax.text(
            max(row.published, row.planned) * 1.2,
            place,
            "" if row.error != row.error else f"{row.error:+.1f} %",
            va="center",
            fontsize="small",
        )
    ax.plot(table.published, range(len(table)), "o", color=COLOURS[0], markersize=7, label=label)
    ax.plot(
        table.planned,
        range(len(table)),
        "D",
        color=COLOURS[1],
        markersize=7,
        markerfacecolor="none",
        markeredgewidth=1.6,
        label="planned",
    )
    ax.set_yticks(range(len(table)), list(table.index), fontsize="small")
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xscale("log")
    ticks = [
        v
        for v in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        if table[["published", "planned"]].min().min() / 1.6
        < v
        < table[["published", "planned"]].max().max() * 1.6
    ]
    ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
    ax.minorticks_off()
    ax.set(xlabel="GB (logarithmic)", xlim=(ticks[0] / 1.3, ticks[-1] * 2))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def cache_sizes(
    tokens: Sequence[int],
    shared: Mapping[str, Sequence[float]],
    unshared: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw the bytes of the key-value cache against the length of the text, both axes logarithmic.

    Args:
        tokens: lengths of the text.
        shared: model -> bytes at each length, with the keys and values that its query heads share
            (GQA).
        unshared: the same for some of these models if every query head had its own, drawn as broken
            lines.
    """
    figure, ax = axes_of(height=3.8)
    for i, (name, sizes) in enumerate(shared.items()):
        ax.plot(
            tokens,
            [size / 1e9 for size in sizes],
            "-" + (MARKERS + "v")[i % 5],
            color=COLOURS[i % 4],
            linewidth=1.6,
            markersize=6,
            markerfacecolor="white" if i % 2 else COLOURS[i % 4],
            label=name,
        )
    for number, (name, sizes) in enumerate((unshared or {}).items()):
        i = list(shared).index(name)
        ax.plot(
            tokens,
            [size / 1e9 for size in sizes],
            LINES[1 + number % 3],
            color=COLOURS[i % 4],
            linewidth=1.6,
            label=f"{name}, not shared",
        )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(tokens, [f"{n // 1024}K" if n >= 1024 else str(n) for n in tokens])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set(xlabel="tokens in the cache (logarithmic)", ylabel="key-value cache (GB, logarithmic)")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure
