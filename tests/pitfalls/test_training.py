"""The failure museum: every exhibit shows its symptom, and the healthy run does not."""

from __future__ import annotations

import pytest
import torch
from charts import bars, heights, ys

from qwen3lab import plots
from qwen3lab import training as qwen3lab_training
from qwen3lab.errors import Qwen3labError
from qwen3lab.pitfalls import training


@pytest.fixture(scope="module")
def failures():
    return {name: training.run(name) for name in training.EXHIBITS}


@pytest.mark.parametrize(("name", "factor"), [("learning rate x30", 100), ("no warm-up", 2)])
def test_the_loss_tells(failures, name, factor):
    assert failures[name].sick > factor * failures[name].healthy > 0


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("label leak", 0.5),
        ("wrong adapter scaling", 0.1),
        ("adapter not saved", 0.5),
        ("base changed", 0.5),
        ("never-trained token", 0.5),
    ],
)
def test_the_answers_tell(failures, name, gap):
    failure = failures[name]
    assert failure.n == 24 and failure.healthy > 0.9 and failure.healthy - failure.sick > gap


def test_the_leak_looks_better_than_the_healthy_run_while_it_trains(failures):
    curves = failures["label leak"].curves
    assert curves["leaky rows"].loss.head(5).mean() < 0.3 * curves["healthy"].loss.head(5).mean()


def test_an_adapter_alone_cannot_write_a_token_that_was_never_trained(failures):
    alone, trained = failures["never-trained token"].curves.values()
    assert alone.loss.tail(5).mean() > 10 * trained.loss.tail(5).mean()
    assert training.CLOSING.startswith("Warmly") and failures["never-trained token"].sick == 0


def test_float16_has_a_narrow_range(failures):
    failure = failures["float16 overflow"]
    table = failure.curves["scales"]
    assert failure.sick > 0.05 and failure.healthy == 0 and failure.n > 3_000_000
    assert table["lost as 0"].is_monotonic_decreasing and table["too large"].is_monotonic_increasing
    assert torch.tensor(65504.0).half().isfinite() and torch.tensor(65520.0).half().isinf()


def test_the_rescued_step_is_the_same_step(failures):
    failure = failures["out of memory"]
    wished, rescued = failure.curves["as wished"], failure.curves["rescued"]
    assert failure.healthy < failure.sick and failure.n == 5
    assert rescued.loss.tolist() == pytest.approx(wished.loss.tolist(), abs=1e-5)
    assert rescued.grad_norm.tolist() == pytest.approx(wished.grad_norm.tolist(), rel=1e-4)


def test_table_and_chart(failures):
    table = training.table(failures.values())
    assert list(table.index) == list(training.EXHIBITS) and table.remedy.str.len().min() > 20
    figure = plots.failures(list(failures.values()))
    seen = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in seen] == list(training.EXHIBITS)
    for ax, failure in zip(figure.axes, failures.values()):
        if failure.curves:
            drawn = [ys(line) for line in ax.lines]
            columns = ("lost as 0", "too large") if "scales" in failure.curves else ("loss",)
            assert drawn == [
                table[column].tolist() for table in failure.curves.values() for column in columns
            ]
        else:
            assert heights(bars(ax)[0]) == [failure.sick, failure.healthy]
    history = training.healthy().history
    assert [line.get_ydata().tolist() for line in plots.training_curves(history).axes[0].lines] == [
        history.loss.tolist()
    ]


def test_the_healthy_adapter_is_left_as_it_was(failures):
    assert (
        training.right(training.healthy().model, training.healthy().tokenizer)
        == failures["base changed"].healthy
    )
    assert isinstance(training.healthy(), qwen3lab_training.Run)


def test_unknown_exhibit():
    with pytest.raises(Qwen3labError, match="no exhibit 'mask'"):
        training.run("mask")
