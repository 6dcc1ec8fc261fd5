"""Packing: TRL's bins, no token lost, no row read by another; and that wrapped pieces and a mask of
ones let rows be read.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import chat, models
from qwen3lab.data import packing, tasks
from qwen3lab.errors import Qwen3labError


def examples(lengths):
    """Rows with tokens that occur nowhere else, the first half of each masked."""
    number = iter(range(10**6))
    ids = [[next(number) for _ in range(length)] for length in lengths]
    return [
        {"input_ids": row, "labels": [-100] * (len(row) // 2) + row[len(row) // 2 :]} for row in ids
    ]


def by_trl(rows, capacity, strategy):
    from datasets import Dataset
    from trl import pack_dataset

    return pack_dataset(Dataset.from_list(rows), capacity, strategy)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
def test_best_fit_keeps_every_row_once_and_within_the_capacity(lengths, capacity):
    bins = packing.best_fit(lengths, capacity)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= capacity for rows in bins)
    fills = [sum(lengths[row] for row in rows) for rows in bins]
    assert all(
        fills[i] + fills[j] > capacity for i in range(len(bins)) for j in range(i)
    )  # no two bins could have been one


@pytest.mark.parametrize("seed", range(4))
def test_best_fit_makes_trls_bins(seed):
    rng = random.Random(seed)
    capacity = rng.choice((64, 100, 128))
    lengths = [min(capacity, 1 + int(rng.expovariate(1 / 25))) for _ in range(400)]
    bins = packing.best_fit(lengths, capacity)
    theirs = by_trl(examples(lengths), capacity, "bfd")
    assert [[lengths[row] for row in rows] for rows in bins] == theirs["seq_lengths"]


def test_pack_holds_what_trl_holds():
    lengths = [7, 3, 5, 2, 9, 4, 6, 1, 8, 10]  # no two alike, so that the order is the same too
    rows = examples(lengths)
    packed, theirs = packing.pack(rows, packing.best_fit(lengths, 12)), by_trl(rows, 12, "bfd")
    assert [row["input_ids"] for row in packed] == theirs["input_ids"] and [
        row["seq_lengths"] for row in packed
    ] == theirs["seq_lengths"]
    for ours, labels in zip(packed, theirs["labels"]):
        starts = [place for place, position in enumerate(ours["position_ids"]) if position == 0]
        assert len(starts) == len(ours["seq_lengths"]) and all(
            ours["labels"][start] == -100 for start in starts
        )
        assert ours["labels"] == [
            -100 if place in starts else label for place, label in enumerate(labels)
        ]  # as TRL's collator does it
        assert ours["position_ids"] == [
            place for length in ours["seq_lengths"] for place in range(length)
        ]


@pytest.mark.parametrize("lengths", [[3, 0], [3, 11]])
def test_best_fit_refuses_what_it_would_have_to_cut(lengths):
    with pytest.raises(Qwen3labError, match="Row 2 has"):
        packing.best_fit(lengths, 10)


def test_wrap_equals_trl():
    rows = examples([7, 3, 5, 2, 9, 4])
    ours, theirs = packing.wrap(rows, 8), by_trl(rows, 8, "wrapped")
    assert [row["input_ids"] for row in ours] == theirs["input_ids"] and [
        row["labels"] for row in ours
    ] == theirs["labels"]
    assert packing.wrap([], 8) == []


def test_padded_places():
    assert packing.padded_places([3, 5, 2, 4, 1], 2) == 5 * 2 + 4 * 2 + 1
    assert packing.padded_places([1, 2, 3, 4, 5], 2) == 2 * 2 + 4 * 2 + 5


@pytest.fixture(scope="module", params=["qwen3-tiny", "qwen3-tiny-moe"])
def loaded(request):
    model, tokenizer = models.load(request.param)
    rows = [
        chat.example(tokenizer, tasks.conversation(row))
        for row in tasks.load("knowledge", "validation")[:12]
    ]
    return model, rows


def test_packed_logits_equal_those_of_each_row_alone(loaded):
    model, rows = loaded
    packed = packing.pack(rows, packing.best_fit([len(row["input_ids"]) for row in rows], 128))
    bins = packing.best_fit([len(row["input_ids"]) for row in rows], 128)
    assert max(map(len, bins)) > 2
    for numbers, piece in zip(bins, packed):
        for number, logits in zip(numbers, packing.logits_packed(model, piece), strict=True):
            alone = packing.logits_alone(model, rows[number]["input_ids"])
            assert (
                logits.shape == alone.shape and float((logits - alone).abs().max()) < 1e-3
            )  # logits go up to about 30


def test_a_mask_of_ones_brings_the_rows_together(loaded):
    """The trap: with the right positions and an attention mask of ones, transformers no longer
    tells the rows apart.
    """
    import torch

    model, rows = loaded
    piece = packing.pack(rows, [[0, 1, 2]])[0]
    ids = torch.tensor([piece["input_ids"]])
    with torch.inference_mode():
        mixed = model(
            input_ids=ids,
            position_ids=torch.tensor([piece["position_ids"]]),
            attention_mask=torch.ones_like(ids),
        ).logits[0]
    apart = torch.cat(packing.logits_packed(model, piece))
    first = piece["seq_lengths"][0]
    assert (
        float((mixed[:first] - apart[:first]).abs().max()) < 1e-3
        and float((mixed[first:] - apart[first:]).abs().max()) > 0.5
    )


def test_a_row_does_not_read_its_neighbour_when_packed_but_does_when_wrapped(loaded):
    model, rows = loaded
    assert packing.leak(model, rows[0], rows[1:4]) < 1e-4
    assert packing.leak(model, rows[0], rows[1:4], separate=False) > 0.5


def test_training_loss_is_the_same_packed_and_alone(loaded):
    """Over the whole bin, the labels included: the mean loss of the packed row is that
    of its rows."""
    import torch
    from torch.nn.functional import cross_entropy

    model, rows = loaded
    piece = packing.pack(rows, [[0, 1, 2, 3]])[0]

    def losses(logits, labels):
        return cross_entropy(
            logits[:-1], torch.tensor(labels)[1:], ignore_index=-100, reduction="none"
        )

    packed = losses(torch.cat(packing.logits_packed(model, piece)), piece["labels"])
    alone = [
        losses(packing.logits_alone(model, row["input_ids"]), row["labels"]) for row in rows[:4]
    ]
    assert int((packed > 0).sum()) == sum(int((loss > 0).sum()) for loss in alone)
    assert abs(float(packed.sum()) - sum(float(loss.sum()) for loss in alone)) < 1e-3
