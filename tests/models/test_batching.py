"""Padding and batches: equal to the tokenizer's padding, each row once, the model's mode kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen3lab import models
from qwen3lab.models import batching

ROWS = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return models.load(checkpoint)


@pytest.mark.parametrize("side", ["left", "right"])
@given(rows=ROWS)
def test_padding_is_the_tokenizer_s(loaded, side, rows):
    tokenizer = loaded[1]
    theirs = tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
    ids, mask = batching.pad(rows, tokenizer.pad_token_id, side)
    assert torch.equal(ids, theirs.input_ids) and torch.equal(mask, theirs.attention_mask)


@given(rows=ROWS, size=st.integers(1, 5), order=st.sampled_from(batching.ORDERS))
def test_every_row_comes_once_and_in_the_order_asked_for(rows, size, order):
    seen, lengths = [], []
    for places, ids, mask in batching.batches(rows, size, order=order, fill=7):
        assert ids.shape == mask.shape == (len(places), max(len(rows[place]) for place in places))
        for place, line, real in zip(places, ids, mask.bool(), strict=True):
            assert line[real].tolist() == rows[place] and set(line[~real].tolist()) <= {7}
        seen += places
        lengths += [len(rows[place]) for place in places]
    assert sorted(seen) == list(range(len(rows)))
    wanted = {
        "as given": lambda: seen == sorted(seen),
        "shortest first": lambda: lengths == sorted(lengths),
        "longest first": lambda: lengths == sorted(lengths, reverse=True),
    }
    assert wanted[order]()


def test_positions_begin_at_the_first_real_token():
    _, mask = batching.pad([[5, 6, 7, 8], [9, 9]], side="left")
    assert batching.positions(mask).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_even_after_an_error(loaded, training):
    model = loaded[0].train(training)
    with pytest.raises(ZeroDivisionError), batching.reading(model):
        assert not model.training and not torch.is_grad_enabled()
        1 / 0
    assert model.training is training and torch.is_grad_enabled()
    model.eval()


def test_float64_on_a_device_without_it_is_made_on_the_cpu():
    import types

    values = torch.tensor([0.1, 2.0], dtype=torch.float16)
    assert batching.double(values).tolist() == values.tolist()
    assert batching.double(values).dtype == torch.float64

    def refuses():
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    apple = types.SimpleNamespace(device=torch.device("mps"), cpu=lambda: values, double=refuses)
    assert batching.double(apple).tolist() == values.tolist()
