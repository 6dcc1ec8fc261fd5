"""The charts of losses, ablations, 4 bits and forgetting, read back from the drawn figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from charts import (
    bars,
    ends,
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
from matplotlib.collections import PathCollection
from safetensors.torch import load_file
from torch.linalg import svdvals

from qwen3lab import paths, plots
from qwen3lab.from_scratch import nf4, optim
from qwen3lab.pitfalls.training import Failure
from qwen3lab.results import records, tables

STEPS = "optimiser step"
LOSS = "loss (nats a token)"


def history(model):
    """The last stage in a bundled checkpoint's log, with the columns of a run's history."""
    log = pd.read_json(paths.DATA / "models" / model / "training_log.jsonl", lines=True)
    log = log[log.index >= log.index[log.step == log.step.min()][-1]].reset_index(drop=True)
    return log.rename(columns={"rate": "learning_rate", "norm": "grad_norm"})


def checked(table):
    """A history with the loss of every fourth line as validation, on lines of their own."""
    looks = table[["step", "tokens"]].assign(eval_loss=table.loss * 1.5)[3::4]
    return pd.concat([table, looks]).sort_values("step", ignore_index=True)


def test_loss_curves_draw_training_and_validation():
    runs = {"dense": checked(history("qwen3-tiny")), "MoE": history("qwen3-tiny-moe")}
    (ax,) = plots.loss_curves(runs).axes
    drawn = named(ax)
    assert legend(ax) == ["dense", "dense, validation", "MoE"] == list(drawn)
    for name, run in runs.items():
        rows = run.dropna(subset="loss")
        assert xs(drawn[name]) == rows.step.tolist() and ys(drawn[name]) == rows.loss.tolist()
    looks = runs["dense"].dropna(subset="eval_loss")
    assert 0 < len(looks) < len(runs["dense"]) / 4
    assert ys(drawn["dense, validation"]) == looks.eval_loss.tolist()
    assert xs(drawn["dense, validation"]) == looks.step.tolist()
    assert drawn["dense, validation"].get_linestyle() == "None"
    assert labels(ax) == (STEPS, LOSS) and ax.get_ylim()[0] == 0


def test_loss_curves_against_tokens():
    run = checked(history("qwen3-tiny"))
    (ax,) = plots.loss_curves({"dense": run}, x="tokens").axes
    train, held_out = ax.lines
    assert xs(train) == run.dropna(subset="loss").tokens.tolist()
    assert xs(held_out) == run.dropna(subset="eval_loss").tokens.tolist()
    assert labels(ax) == ("tokens read", LOSS)


def test_training_curves_show_loss_rate_and_norm_side_by_side():
    table = history("qwen3-tiny")
    axes = plots.training_curves(checked(table)).axes
    assert [ax.get_title() for ax in axes] == [LOSS, "learning rate", "gradient norm"]
    for ax, column in zip(axes, ("loss", "learning_rate", "grad_norm")):
        assert xs(ax.lines[0]) == table.step.tolist() and ys(ax.lines[0]) == table[column].tolist()
        assert labels(ax) == (STEPS, "") and ax.get_ylim()[0] == 0
    assert [len(ax.lines) for ax in axes] == [2, 1, 1]
    assert legend(axes[0]) == ["validation"]
    assert ys(axes[0].lines[1]) == pytest.approx((table.loss * 1.5)[3::4].tolist())
    unchecked = plots.training_curves(table).axes
    assert len(unchecked[0].lines) == 1 and unchecked[0].get_legend() is None


def failure(name, symptom, sick, healthy, n, curves=None):
    return Failure(name, "", symptom, "", "", sick, healthy, n, curves or {})


def test_failures_show_curves_where_there_are_some_and_bars_elsewhere():
    logs = {"no warm-up": history("qwen3-tiny"), "healthy": history("qwen3-tiny-moe")}
    scales = pd.DataFrame(
        {"scale": [1, 2.0**24], "lost as 0": [0.05, 0.0], "too large": [0.0, 0.136]}
    )
    found = [
        failure("no warm-up", "highest loss", 12.307, 2.676, 10, logs),
        failure("float16 overflow", "share too large", 0.136, 0.0, 3410688, {"scales": scales}),
        failure("wrong adapter scaling", "share of facts right", 0.417, 1.0, 24),
    ]
    figure = plots.failures(found)
    curves, overflow, bar, empty = figure.axes
    assert [ax.get_title() for ax in figure.axes] == [*(each.name for each in found), ""]
    assert legend(curves) == list(logs) and labels(curves) == (STEPS, LOSS)
    for name, line in named(curves).items():
        assert xs(line) == logs[name].step.tolist() and ys(line) == logs[name].loss.tolist()
    assert legend(overflow) == ["lost as 0", "too large"]
    for name, line in named(overflow).items():
        assert xs(line) == [1, 2**24] and ys(line) == scales[name].tolist()
    assert labels(overflow) == ("scale of the loss", "share of gradients")
    assert heights(bars(bar)[0]) == [0.417, 1.0] and words(bar) == ["0.42", "1.00"]
    assert ticks(bar.xaxis) == ["failure", "healthy"]
    assert bar.get_ylabel() == "share of facts right\n(n=24)" and bar.get_legend() is None
    assert not empty.get_visible()


def test_score_bars_show_each_system_on_each_task():
    record = records.read("assistant")
    systems = {
        when: pd.DataFrame(record[when]).T.astype({"n": int}) for when in ("before", "after")
    }
    figure = plots.score_bars(systems, xlabel="right answers")
    (ax,) = figure.axes
    assert legend(figure) == ["before", "after"]
    for table, group, lines in zip(systems.values(), bars(ax), intervals(ax)):
        assert widths(group) == table.accuracy.tolist()
        lows, highs = ends(lines)
        assert lows == pytest.approx(table.low.tolist(), abs=1e-12)
        assert highs == pytest.approx(table.high.tolist())
    assert ticks(ax.yaxis)[:2] == ["word problems (n=200)", "functions (n=200)"]
    assert labels(ax) == ("right answers (lines: 95 % interval)", "") and ax.yaxis_inverted()


def test_score_bars_find_a_task_by_its_name():
    rows = pd.DataFrame(records.read("augmentation")["rows"]).set_index("set")
    systems = {method: part for method, part in rows.groupby("method", sort=False)}
    systems["templates"] = systems["templates"][::-1]
    (ax,) = plots.score_bars(systems).axes
    drawn = {group.get_label(): widths(group) for group in bars(ax)}
    assert list(drawn) == ["none", "synonyms", "insertion", "templates"]
    for method, part in rows.groupby("method"):
        assert drawn[method] == part.accuracy.tolist()
    assert ticks(ax.yaxis) == ["one wording (n=235)", "all wordings (n=235)"]
    assert ax.get_xlabel() == "exact match (lines: 95 % interval)"


def test_learned_and_forgotten_joins_before_and_after():
    record = records.read("assistant")
    before, after = (
        pd.DataFrame(record[when]).T.astype({"n": int}).iloc[::-1] for when in ("before", "after")
    )
    figure = plots.learned_and_forgotten(before, after)
    (ax,) = figure.axes
    dots = [
        drawn.get_offsets().tolist()
        for drawn in ax.collections
        if isinstance(drawn, PathCollection)
    ]
    for table, drawn, lines in zip((before, after), dots, intervals(ax), strict=True):
        assert [x for x, _ in drawn] == table.accuracy.tolist()
        lows, highs = ends(lines)
        assert lows == pytest.approx(table.low.tolist(), abs=1e-12)
        assert highs == pytest.approx(table.high.tolist())
    # An arrow leads from the first to the second, and a fall is dashed.
    assert [(note.xyann[0], note.xy[0]) for note in ax.texts] == list(
        zip(before.accuracy, after.accuracy)
    )
    falls = [note.arrow_patch.get_linestyle() == "--" for note in ax.texts]
    assert falls == (after.accuracy < before.accuracy).tolist() and any(falls) and not all(falls)
    places = [y for _, y in dots[0]]
    assert (
        places[:3] == [0, 1.5, 2.5]
        and ax.yaxis_inverted()
        and legend(figure) == ["before", "after"]
    )
    assert ticks(ax.yaxis)[0] == f"{before.index[0]} (n={before.n.iloc[0]})"
    assert labels(ax) == ("share of right answers (lines: 95 % interval)", "")


def test_code_book_draws_the_weights_distribution_and_sixteen_levels():
    weights = load_file(paths.DATA / "models" / "qwen3-tiny" / "model.safetensors")
    blocks = weights["model.layers.1.mlp.up_proj.weight"].float().numpy().reshape(-1, 64)
    scaled = (blocks / np.abs(blocks).max(1, keepdims=True)).ravel()
    levels = [-1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0.0]
    levels += [0.08, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1.0]
    figure = plots.code_book(scaled, levels)
    (ax,) = figure.axes
    counts, edges = np.histogram(scaled, 121)
    assert heights(bars(ax)[0]) == pytest.approx(counts / len(scaled) / np.diff(edges))
    assert [xs(line) for line in ax.lines] == [[level, level] for level in levels]
    assert legend(figure) == ["weights, by block scaled to [-1, 1]", "the 16 values of NF4"]
    assert labels(ax) == ("weight / largest weight of its block", "density")


def test_schedules_draw_a_rate_for_each_step():
    rates = {
        name: [rule(step, 60, 6, 2e-3) for step in range(60)]
        for name, rule in (("linear", optim.linear_rate), ("cosine", optim.cosine_rate))
    }
    (ax,) = plots.schedules(rates).axes
    assert legend(ax) == ["linear", "cosine"] == list(named(ax))
    for name, line in named(ax).items():
        assert xs(line) == list(range(1, 61)) and ys(line) == rates[name]
        assert max(ys(line)) == ys(line)[6] == 2e-3
    assert labels(ax) == (STEPS, "learning rate") and ax.get_ylim()[0] == 0


def test_spectra_are_relative_to_the_largest_value():
    name = "model.layers.2.mlp.up_proj"
    base, tuned = (
        load_file(paths.DATA / "models" / model / "model.safetensors")[f"{name}.weight"].float()
        for model in ("qwen3-tiny-base", "qwen3-tiny")
    )
    adapter = load_file(paths.DATA / "adapters" / "tone" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    values = {
        "all weights": svdvals(tuned - base).tolist(),
        "LoRA, rank 16": svdvals(b @ a)[:16].tolist(),
    }
    (ax,) = plots.spectra(values).axes
    assert legend(ax) == list(values) == list(named(ax))
    for key, line in named(ax).items():
        assert xs(line) == list(range(1, len(values[key]) + 1))
        assert ys(line) == pytest.approx([value / values[key][0] for value in values[key]])
    assert len(xs(named(ax)["LoRA, rank 16"])) == 16
    assert labels(ax) == ("singular value number", "size (largest = 1)")
    assert ax.get_yscale() == "log"


@pytest.fixture(scope="module")
def dense():
    lines = tables.ablation(records.read("lora"))
    return lines[lines.setting != "mixture"]


def test_ablation_shows_what_each_setting_learned_and_kept(dense):
    figure = plots.ablation(dense)
    (ax,) = figure.axes
    learned, kept = intervals(ax)
    for drawn, columns in (
        (learned, ("accuracy", "low", "high")),
        (kept, ("old", "old_low", "old_high")),
    ):
        value, low, high = columns
        lows, highs = ends(drawn)
        assert xs(drawn.lines[0]) == dense[value].tolist()
        assert lows == pytest.approx(dense[low].tolist())
        assert highs == pytest.approx(dense[high].tolist())
    recipe = dense[dense.setting == "recipe"].iloc[0]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [xs(line) for line in dotted] == [[recipe.accuracy] * 2, [recipe.old] * 2]
    assert legend(figure) == ["new facts, right", "old tasks, right"]
    assert ticks(ax.yaxis)[:3] == ["as notebook 03", "rank 1", "rank 2"]
    assert len(ticks(ax.yaxis)) == len(dense)
    # Values of one setting stand closer together than settings do.
    steps = dict(zip(ticks(ax.yaxis)[1:], np.diff(ax.get_yticks())))
    assert steps["rank 2"] == pytest.approx(1) and steps["rank 1"] == pytest.approx(1.6)
    xlabel = "share right (lines: 95 % interval; dotted: the recipe)"
    assert labels(ax) == (xlabel, "")


def test_ablation_of_the_recipes_has_a_line_a_recipe():
    table = tables.frontier(records.read("recipe"))
    (ax,) = plots.ablation(table, baseline="facts alone").axes
    names = ticks(ax.yaxis)
    assert names[0] == "rate 0.01, 60 steps" and names[3] == "with old rows: rate 0.01, 80 steps"
    new, old = ax.containers
    assert xs(new.lines[0]) == table.accuracy.tolist() and xs(old.lines[0]) == table.old.tolist()
    dotted = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == [table.accuracy[0], table.old[0]]


def test_ablation_without_a_baseline_has_no_dotted_lines():
    table = tables.forgetting(records.read("forgetting"))
    (ax,) = plots.ablation(table, baseline=None).axes
    names = ticks(ax.yaxis)
    assert names[0] == "all weights: rate 0.004" and len(names) == len(table)
    assert "LoRA, old rows: rate 0.01" in names
    new, old = ax.containers
    assert xs(new.lines[0]) == table.accuracy.tolist() and xs(old.lines[0]) == table.old.tolist()
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]
    assert labels(ax) == ("share right (lines: 95 % interval)", "")


def test_block_errors_of_weights_and_outputs():
    # What notebook 04 measures on one layer of the tiny model.
    blocks = (32, 64, 128, 256, 1024, 4096)
    errors = {
        "NF4": (
            (0.087, 0.092, 0.096, 0.099, 0.108, 0.118),
            (0.113, 0.122, 0.124, 0.132, 0.143, 0.156),
        ),
        "16 even values": (
            (0.091, 0.100, 0.110, 0.118, 0.141, 0.163),
            (0.123, 0.135, 0.148, 0.159, 0.188, 0.218),
        ),
    }
    table = pd.DataFrame(
        [
            {
                "format": name,
                "block": block,
                "bytes": nf4.bytes_a_weight(block, None),
                "weights": of_weights,
                "outputs": of_outputs,
            }
            for name, (weights, outputs) in errors.items()
            for block, of_weights, of_outputs in zip(blocks, weights, outputs)
        ]
    )
    int8 = {"label": "int8, one scale a row", "weights": 0.0070, "outputs": 0.0093}
    figure = plots.block_errors(table, int8)
    assert legend(figure) == [*errors, int8["label"]]
    titles = {"weights": "error of the weights", "outputs": "error of the layer's output"}
    assert [ax.get_title() for ax in figure.axes] == list(titles.values())
    for place, (ax, column) in enumerate(zip(figure.axes, titles)):
        for name in errors:
            line = named(ax)[name]
            assert xs(line) == list(blocks) and ys(line) == list(errors[name][place])
        assert ys(named(ax)[int8["label"]]) == [int8[column]] * 2
        assert ticks(ax.xaxis)[:2] == ["32\n0.625", "64\n0.562"]
        assert ax.get_xlabel() == "block size (logarithmic)\nbytes a weight, scales included"
    assert figure.axes[0].get_ylabel() == "relative error"


def test_speed_ratios_hold_each_kind_against_lora():
    kinds = {
        ("chat", "QLoRA"): "QLoRA, dense",
        ("moe", "QLoRA"): "QLoRA, MoE",
        ("moe", "QLoRA, experts too"): "MoE, experts too",
    }
    table = pd.DataFrame(
        [
            {
                "kind": kinds[line["model"], line["kind"]],
                "tokens": line["tokens a step"],
                "ratio": line["ratio"],
                "low": min(line["ratios"]),
                "high": max(line["ratios"]),
            }
            for line in records.read("qlora")["rows"]
            if (line["model"], line["kind"]) in kinds
        ]
    )
    figure = plots.speed_ratios(table, guides=0.9)
    (ax,) = figure.axes
    assert legend(figure) == list(kinds.values())
    for place, (name, drawn) in enumerate(zip(legend(figure), intervals(ax))):
        rows = table[table.kind == name]
        assert ys(drawn.lines[0]) == rows.ratio.tolist()
        assert xs(drawn.lines[0]) == pytest.approx((rows.tokens * (1 + 0.04 * place)).tolist())
        lows, highs = ends(drawn)
        assert lows == pytest.approx(rows.low.tolist())
        assert highs == pytest.approx(rows.high.tolist())
    level = [ys(line) for line in ax.lines if ys(line) in ([1, 1], [0.9, 0.9])]
    assert level == [[1, 1], [0.9, 0.9]] and words(ax) == ["guides: at most 10% slower"]
    assert labels(ax) == ("tokens in a step (logarithmic)", "speed, LoRA = 1")
    assert not words(plots.speed_ratios(table).axes[0])


def test_share_dots_show_intervals_and_the_extreme_seeds():
    table = tables.thinking_survival(records.read("survival"))
    figure = plots.share_dots(table)
    (ax,) = figure.axes
    assert legend(figure) == list(tables.THINKING_MEASURES.values())
    extremes = [
        line for line in ax.lines if line.get_marker() == "|" and line.get_markersize() == 9
    ]
    for place, (measure, drawn) in enumerate(zip(legend(figure), intervals(ax))):
        rows = table[table.measure == measure]
        assert xs(drawn.lines[0]) == rows.share.tolist()
        lows, highs = ends(drawn)
        assert lows == pytest.approx(rows.low.tolist(), abs=1e-12)
        assert highs == pytest.approx(rows.high.tolist())
        low, high = extremes[2 * place : 2 * place + 2]
        assert (xs(low), xs(high)) == (rows.lowest.tolist(), rows.highest.tolist())
        assert [round(y) for y in ys(drawn.lines[0])] == list(range(9))
    assert ticks(ax.yaxis) == list(dict.fromkeys(table.recipe))
    assert labels(ax) == ("share (lines: 95 % interval; ticks: extreme seeds)", "")


def test_share_dots_of_other_columns():
    table = tables.distillation(records.read("distillation"))
    table = table.rename(columns={"way": "recipe", "student": "measure"})
    unseeded = table.drop(columns=["lowest", "highest"])
    figure = plots.share_dots(unseeded)
    (ax,) = figure.axes
    assert legend(figure) == ["half the layers", "a quarter of the weights"]
    assert xs(intervals(ax)[1].lines[0]) == table[table.measure == legend(figure)[1]].share.tolist()
    assert ax.get_xlabel() == "share (lines: 95 % interval)"
    (ax,) = plots.share_dots(table, xlabel="right on the test questions").axes
    assert ax.get_xlabel() == "right on the test questions"


def test_time_to_loss_draws_each_trace_and_the_target():
    race = records.read("training")
    row = race["rows"][0]
    traces = {
        name: [(look["seconds"], look["loss"]) for look in run["trace"]]
        for name, run in row.items()
        if isinstance(run, dict) and "trace" in run
    }
    figure = plots.time_to_loss(traces, race["recipe"]["target"])
    (ax,) = figure.axes
    names = ["ours", "guide, padded to the longest row", "guide, padded to 512"]
    assert legend(figure) == names == list(named(ax))
    for name, line in named(ax).items():
        assert list(zip(xs(line), ys(line))) == traces[name]
    assert ys(ax.lines[-1]) == [1.0, 1.0] and words(ax) == ["target"]
    assert labels(ax) == ("seconds of training (logarithmic)", "held-out loss (nats a token)")
    assert ax.get_xscale() == "log"
