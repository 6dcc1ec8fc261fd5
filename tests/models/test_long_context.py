"""Positions beyond the trained length: YaRN equals the library's, losses equal a hand count,
windows really cut.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qwen3lab import family, models
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import long_context


@pytest.mark.parametrize("factor", [2.0, 4.0])
@pytest.mark.parametrize(
    "head_dim, theta, trained", [(128, 1_000_000.0, 32_768), (64, 10_000.0, 256)]
)
def test_yarn_equals_transformers(head_dim, theta, trained, factor):
    config = Qwen3Config(
        head_dim=head_dim,
        max_position_embeddings=trained,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": trained,
        },
    )
    theirs, attention = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    ours, ours_attention = long_context.yarn(head_dim, theta, factor, trained)
    assert (ours - theirs).abs().max() < 1e-7
    assert ours_attention == pytest.approx(attention) == pytest.approx(0.1 * math.log(factor) + 1)


def test_without_theta_transformers_takes_ten_thousand():
    wanted = family.config(
        "8B",
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32_768,
        },
    )
    assert wanted.rope_parameters["rope_theta"] == 10_000.0
    assert family.config("8B").rope_parameters["rope_theta"] == 1_000_000.0


def test_losses_equal_the_models_own():
    model, tokenizer = models.load("qwen3-tiny-base")
    rows = long_context.rotations(tokenizer, 2, 64, 32)
    assert [len(row) for row in rows] == [64] * 4 and rows == long_context.rotations(
        tokenizer, 2, 64, 32
    )
    assert rows[1] == rows[0][32:] + rows[0][:32] and sorted(rows[0]) != sorted(rows[2])
    found = long_context.losses(model, rows)
    ids = torch.tensor(rows)
    with torch.inference_mode():
        assert found.mean() == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-5)


def test_within_the_trained_length_all_but_yarn_give_the_same():
    base, tokenizer = models.load("qwen3-tiny-base")
    rows = long_context.rotations(tokenizer, 1, 96, 96)
    plain = long_context.losses(base, rows)
    loaded = {
        kind: long_context.losses(
            long_context.load("qwen3-tiny-base", kind, trained=256, factor=4.0), rows
        )
        for kind in long_context.KINDS
    }
    for kind in ("default", "dynamic", "sliding window"):
        assert np.abs(loaded[kind] - plain).max() < 1e-4
    assert np.abs(loaded["yarn"] - plain).max() > 0.01


def test_a_window_hides_what_lies_before_it():
    """With a window of 8 and 4 layers, a token 40 places back cannot matter; without
    one it does."""
    _, tokenizer = models.load("qwen3-tiny-base")
    row = long_context.rotations(tokenizer, 1, 64, 64)[0]
    changed = [row[0] + 1, *row[1:]]
    for kind, matters in (("sliding window", False), ("default", True)):
        model = long_context.load("qwen3-tiny-base", kind, trained=8)
        difference = np.abs(
            long_context.losses(model, [row]) - long_context.losses(model, [changed])
        )[0, 40:].max()
        assert (difference > 1e-4) == matters


def test_by_position():
    reference = np.log(np.array([[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]))
    losses = np.log(np.array([[2.0, 2.0, 8.0, 8.0], [2.0, 2.0, 2.0, 2.0]]))
    table = long_context.by_position(losses, 2, reference)
    assert table.index.tolist() == [2, 4] and table.n.tolist() == [4, 4]
    assert table.perplexity.tolist() == pytest.approx(
        [2.0, 4.0]
    ) and table.ratio.tolist() == pytest.approx([1.0, 2.0])
    # The rows' log ratios are ln 4 and 0: standard error ln(4) / 2, and Student's t with one degree
    # of freedom is 12.706.
    assert math.log(table.high[4] / 2.0) == pytest.approx(12.7062 * math.log(4) / 2, rel=1e-4)


def test_unknown_kind():
    with pytest.raises(Qwen3labError, match="default, dynamic, yarn, sliding window"):
        long_context.load("qwen3-tiny-base", "magic", trained=256)
