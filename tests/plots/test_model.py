"""The charts of the family, of routing, long context and memory, read back from the figures."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from charts import (
    bars,
    ends,
    fill,
    heights,
    intervals,
    labels,
    legend,
    named,
    ticks,
    widths,
    words,
    xs,
    ys,
)
from matplotlib.colors import to_hex

from qwen3lab import chat, evaluation, family, memory, models, plots
from qwen3lab.data import tasks
from qwen3lab.memory import gpus, published
from qwen3lab.models import routing
from qwen3lab.plots.style import COLOURS
from qwen3lab.results import records


@pytest.fixture(scope="module")
def read():
    """A few texts that the bundled mixture has read, the kind of each token, a label a text."""
    mixture, tokenizer = models.load("moe")
    rows = random.Random(2).sample(tasks.load("chat", "test"), 4)
    texts = [
        chat.example(tokenizer, tasks.conversation(row), tools=row.get("tools"))["input_ids"]
        for row in rows
    ]
    kinds = [kind for text in texts for kind in routing.token_kinds(tokenizer, text)]
    return routing.record(mixture, texts), kinds, [str(row["task"]) for row in rows]


def test_family_parameters_draws_all_and_active_ones():
    everything = {s.id.split("/")[1]: s for s in family.FAMILY.values()}
    total = {name: s.parameters for name, s in everything.items()}
    active = {name: s.active_parameters for name, s in everything.items()}
    figure = plots.family_parameters(total, active)
    (ax,) = figure.axes
    first, second = bars(ax)
    assert widths(first) == list(total.values()) and widths(second) == list(active.values())
    assert legend(figure) == ["all parameters", "parameters that one token uses"]
    assert ticks(ax.yaxis) == list(everything) and ax.get_xscale() == "log"
    assert labels(ax) == ("parameters (logarithmic)", "")
    assert words(ax)[:2] == ["0.596 B", "1.72 B"] and words(ax)[-2:] == ["3.35 B", "22.2 B"]
    tiny = {"tiny": family.shape("qwen3-tiny").parameters}
    assert words(plots.family_parameters(tiny, tiny).axes[0]) == ["3.41 M"] * 2


def test_expert_load_has_a_marker_for_each_expert_of_each_layer(read):
    load = routing.load(read[0])
    figure = plots.expert_load(load)
    (ax,) = figure.axes
    *layers, fair = ax.lines
    for line, loads in zip(layers, load):
        assert xs(line) == list(range(16)) and ys(line) == loads.tolist()
        assert sum(ys(line)) == pytest.approx(16)  # shares of a layer are 1 on average
    assert legend(figure) == [f"layer {layer}" for layer in range(4)]
    assert ys(fair) == [1, 1] and words(ax) == ["fair\nshare"]
    assert labels(ax) == ("expert", "times its fair share")


def test_routing_heatmap_shows_each_kind_s_share_of_each_expert(read):
    seen, kinds, _ = read
    counts = routing.by_kind(seen, kinds)
    *axes, bar = plots.routing_heatmap(counts, routing.KINDS).axes
    present = [i for i, kind in enumerate(routing.KINDS) if kind in kinds]
    assert 0 < len(present) < len(routing.KINDS)  # a kind without tokens has no row
    assert [ax.get_title() for ax in axes] == [f"layer {layer}" for layer in range(4)]
    for ax, layer in zip(axes, counts):
        (image,) = ax.images
        order = list(map(int, ticks(ax.xaxis)))
        assert sorted(order) == list(range(16)) and not words(ax)
        share = 16 * layer[present] / layer[present].sum(axis=1, keepdims=True)
        assert image.get_array().data == pytest.approx(share[:, order].clip(0.25, 4))
        best = share[:, order].argmax(axis=0).tolist()
        assert best == sorted(best)  # each expert below the kind that likes it most
        assert image.get_clim() == (0.25, 4)
        assert ticks(ax.yaxis) == [routing.KINDS[i] for i in present]
        assert ax.get_xlabel() == "expert"
    assert bar.get_ylabel() == "times the fair share"
    assert ticks(bar.yaxis) == ["¼", "½", "1", "2", "4"]
    colour = axes[0].images[0].cmap
    assert [to_hex(colour(place)) for place in (0.0, 1.0)] == [COLOURS[0], COLOURS[1]]


def test_routing_heatmap_of_one_chosen_layer_has_its_values_written_in(read):
    seen, _, groups = read
    counts, names = routing.by_group(seen, groups)
    ax, _ = plots.routing_heatmap(counts, names, layers=[2]).axes
    assert ax.get_title() == "layer 2" and ticks(ax.yaxis) == sorted(set(groups))
    expected = (16 * counts[2] / counts[2].sum(axis=1, keepdims=True))[
        :, list(map(int, ticks(ax.xaxis)))
    ]
    assert ax.images[0].get_array().data == pytest.approx(expected.clip(0.25, 4))
    assert words(ax) == [f"{value:.1f}" for value in expected.ravel()]


def test_routing_information_marks_what_shuffled_texts_give(read):
    seen, kinds, _ = read
    tables = {
        "kind": routing.information(seen, kinds),
        "token": routing.information(seen, seen.ids),
    }
    figure = plots.routing_information(tables)
    (ax,) = figure.axes
    for table, group, marks in zip(tables.values(), bars(ax), ax.collections):
        assert heights(group) == pytest.approx((100 * table.share).tolist())
        drawn = [line[0][1] for line in marks.get_segments()]
        assert drawn == pytest.approx((100 * table.by_chance).tolist())
        assert drawn < heights(group)
    assert legend(figure) == ["the same label, texts shuffled", "kind", "token"]
    assert words(ax) == [
        f"{100 * value:.0f} %" for table in tables.values() for value in table.share
    ]
    assert ticks(ax.xaxis) == [f"layer {layer}" for layer in range(4)]
    assert labels(ax) == ("", "explained share of the choice (%)")


def test_by_digits_draws_accuracy_and_length_by_mode():
    found = {
        "thinking on": ([40, 40, 39, 0], [42.25, 61.35, 80.3, 69.35]),
        "thinking off": ([2, 0, 0, 0], [3.7, 4.65, 5.58, 5.5]),
    }
    tables = {}
    for name, (hits, tokens) in found.items():
        table = pd.DataFrame(
            {"n": 40, "accuracy": [hit / 40 for hit in hits], "tokens": tokens}, index=[2, 3, 4, 5]
        )
        table[["low", "high"]] = [evaluation.wilson(hit, 40) for hit in hits]
        tables[name] = table
    figure = plots.by_digits(tables, trained=4)
    right, written = figure.axes
    assert legend(figure) == ["thinking on", "thinking off"]
    for (name, table), drawn in zip(tables.items(), intervals(right)):
        assert xs(drawn.lines[0]) == [2, 3, 4, 5]
        assert ys(drawn.lines[0]) == table.accuracy.tolist()
        lows, highs = ends(drawn)
        assert lows == pytest.approx(table.low.tolist(), abs=1e-12)
        assert highs == pytest.approx(table.high.tolist())
        assert ys(named(written)[name]) == table.tokens.tolist()
    assert labels(right) == ("digits of each number", "share right (n=40 a point)")
    assert labels(written) == ("digits of each number", "tokens written for an answer")
    assert words(right) == ["longer than\nin training"]
    assert [4.5, 4.5] in [xs(line) for line in right.lines]
    unmarked = plots.by_digits(tables).axes
    assert not words(unmarked[0]) and [4.5, 4.5] not in [xs(line) for line in unmarked[0].lines]


def test_by_position_draws_a_line_a_way_at_the_middle_of_each_stretch():
    perplexity = {
        "as trained": [11.61, 15.40],
        "sliding window": [11.61, 11.32],
        "dynamic NTK x4": [12.80, 13.71],
        "YaRN x2": [12.01, 12.52],
        "YaRN x4": [12.44, 12.41],
    }
    tables = {
        name: pd.DataFrame({"perplexity": values}, index=[256, 1024])
        for name, values in perplexity.items()
    }
    figure = plots.by_position(tables, 256)
    (ax,) = figure.axes
    assert legend(figure) == list(perplexity) == list(named(ax))
    for name, line in named(ax).items():
        assert xs(line) == [128, 896] and ys(line) == perplexity[name]
    assert len({line.get_marker() for line in ax.lines}) == 5
    (shade,) = ax.patches
    assert (shade.get_x(), shade.get_width()) == (0, 256) and words(ax) == ["trained length"]
    assert labels(ax) == ("position in the text (tokens)", "perplexity")


def test_expert_speed_shows_each_implementation_for_each_size():
    table = pd.DataFrame(records.read("experts")["rows"])
    figure = plots.expert_speed(table)
    (ax,) = figure.axes
    assert legend(figure) == ["eager", "batched_mm", "grouped_mm"]
    for name, group, lines in zip(legend(figure), bars(ax), intervals(ax)):
        rows = table[table.implementation == name].sort_values("experts")
        assert heights(group) == pytest.approx((rows.seconds * 1000).tolist())
        lows, highs = ends(lines)
        assert lows == pytest.approx((rows.fastest * 1000).tolist())
        assert highs == pytest.approx((rows.slowest * 1000).tolist())
    assert words(ax) == ["12.7", "51.9", "1,011", "2,143", "18.7", "44.6"]
    assert ticks(ax.xaxis) == ["16 experts", "128 experts"]
    assert labels(ax) == ("", "ms for 512 tokens (logarithmic)") and ax.get_yscale() == "log"


def test_routing_changes_marks_the_model_as_trained():
    # What notebook 01 shows; 14, 29, 31, 31, 30 and 25 of 40 answers are right.
    table = pd.DataFrame(
        {"perplexity": [1.510, 1.089, 1.058, 1.056, 1.055, 1.147], "n": 40},
        index=["1", "2", "4", "8", "16", "4, random"],
    )
    hits = [14, 29, 31, 31, 30, 25]
    table["accuracy"] = [hit / 40 for hit in hits]
    table[["low", "high"]] = [evaluation.wilson(hit, 40) for hit in hits]
    left, right = plots.routing_changes(table, learned="4").axes
    tops = [bar.get_y() + bar.get_height() for bar in left.patches]
    assert tops == pytest.approx(table.perplexity.tolist())
    assert {bar.get_y() for bar in left.patches} == {1}  # perplexity begins at certainty
    assert heights(bars(right)[0]) == table.accuracy.tolist()
    lows, highs = ends(intervals(right)[0])
    assert lows == pytest.approx(table.low.tolist())
    assert highs == pytest.approx(table.high.tolist())
    for ax in (left, right):
        assert [fill(bar) == COLOURS[0] for bar in ax.patches] == [
            name == "4" for name in table.index
        ]
        assert ticks(ax.xaxis) == ["1", "2", "4", "8", "16", "4,\nrandom"]
    assert words(left) == ["1.51", "1.09", "1.06", "1.06", "1.05", "1.15"]
    assert labels(left) == ("experts a token", "perplexity of the right answers")
    assert labels(right) == ("experts a token", "share right (n=40, 95 % interval)")


def test_memory_bars_stack_the_parts_to_the_total():
    wanted = {
        "8B, answering": ("8B", "inference", {}),
        "8B, QLoRA": ("8B", "qlora", {}),
        "8B, all weights": ("8B", "full", {}),
        "30B-A3B, QLoRA, all in 4 bits": ("30B-A3B", "qlora", {"experts_in_4bit": True}),
    }
    plans = {
        name: memory.plan(model, method, batch=1, length=2048, **options)
        for name, (model, method, options) in wanted.items()
    }
    cards = {name: gpus.CARDS[name].bytes for name in ("RTX 4090 24 GB", "A100 80 GB")}
    figure = plots.memory_bars({name: plan.parts for name, plan in plans.items()}, cards)
    (ax,) = figure.axes
    drawn = dict(zip(legend(figure), bars(ax)))
    assert list(drawn) == [
        "weights",
        "4-bit weights",
        "adapter",
        "gradients",
        "optimiser",
        "activations and logits",
        "key-value cache",
    ]
    for place, plan in enumerate(plans.values()):
        assert drawn["optimiser"][place].get_width() == pytest.approx(
            plan.parts.get("optimiser", 0) / 1e9
        )
        end = 0
        for group in drawn.values():
            assert group[place].get_x() == pytest.approx(end)
            end += group[place].get_width()
        assert end == pytest.approx(plan.total / 1e9)  # no part is left out
    assert [line.get_xdata()[0] for line in ax.lines] == [size / 1e9 for size in cards.values()]
    assert words(ax) == [*cards, *(f"{plan.total / 1e9:,.1f}" for plan in plans.values())]
    assert ticks(ax.yaxis) == list(wanted) and labels(ax) == ("memory (GB)", "")


def test_memory_bars_show_each_card_and_raise_a_label_that_would_collide():
    cards = {name: gpus.CARDS[name].bytes for name in ("H100 80 GB", "T4 16 GB", "RTX 4090 24 GB")}
    (ax,) = plots.memory_bars({"0.6B, LoRA": memory.plan("0.6B", "lora").parts}, cards).axes
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert heights["RTX 4090 24 GB"] < heights["T4 16 GB"] == heights["H100 80 GB"] < 0
    assert ax.get_xlim()[1] > cards["H100 80 GB"] / 1e9


def test_planned_against_published_figures():
    sizes = published.inference().query("format == 'bf16' and prompt == 6144")
    sizes = sizes.set_index(sizes.model + ", answering")
    runs = published.training().query("figure == 'used'")
    table = pd.concat([sizes, runs])[["published", "planned", "error"]]
    table.iloc[0, table.columns.get_loc("error")] = float("nan")
    figure = plots.planned_against(table)
    (ax,) = figure.axes
    drawn = named(ax)
    assert legend(figure) == ["published", "planned"] == list(drawn)
    assert xs(drawn["published"]) == table.published.tolist()
    assert xs(drawn["planned"]) == table.planned.tolist()
    assert ys(drawn["planned"]) == list(range(len(table)))
    joints = [xs(line) for line in ax.lines if line not in drawn.values()]
    assert joints == table[["published", "planned"]].values.tolist()
    assert words(ax) == ["", *(f"{error:+.1f} %" for error in table.error[1:])]
    assert words(ax)[-1] == "-26.3 %"
    assert ticks(ax.yaxis) == table.index.tolist() and ticks(ax.xaxis)[0] == "2"
    assert labels(ax) == ("GB (logarithmic)", "") and ax.get_xscale() == "log"
    assert legend(plots.planned_against(table, label="measured")) == ["measured", "planned"]


def test_cache_sizes_with_and_without_shared_heads():
    tokens = [1024 * 2**i for i in range(8)]
    names = ("32B", "14B", "8B", "30B-A3B")
    shared = {name: [family.shape(name).kv_bytes(n) for n in tokens] for name in names}
    alone = {
        name: [
            size * family.shape(name).heads / family.shape(name).kv_heads for size in shared[name]
        ]
        for name in ("32B", "30B-A3B")
    }
    figure = plots.cache_sizes(tokens, shared, alone)
    (ax,) = figure.axes
    drawn = named(ax)
    assert legend(figure) == [*names, "32B, not shared", "30B-A3B, not shared"] == list(drawn)
    for name, sizes in shared.items():
        assert xs(drawn[name]) == tokens
        assert ys(drawn[name]) == pytest.approx([size / 1e9 for size in sizes])
    assert ys(drawn["32B, not shared"]) == pytest.approx([8 * y for y in ys(drawn["32B"])])
    for name in alone:  # the same colour says that it is the same model
        assert drawn[name].get_color() == drawn[f"{name}, not shared"].get_color()
    assert ticks(ax.xaxis) == ["1K", "2K", "4K", "8K", "16K", "32K", "64K", "128K"]
    assert labels(ax) == ("tokens in the cache (logarithmic)", "key-value cache (GB, logarithmic)")
