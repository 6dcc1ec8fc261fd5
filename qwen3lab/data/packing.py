"""Packing: several short rows side by side in one long one, so that no place of a batch is spent on
padding.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qwen3lab.chat import IGNORED
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Example = Mapping[str, Sequence[int]]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into bins of `capacity` tokens by best fit, the longest row first ("best-fit
    decreasing").

    Each row goes to the bin with the least room that still holds it; of equal ones to the one that
    has waited longest. So the bins are those of TRL's `pack_dataset(strategy="bfd")` for up to
    1,000 rows, which is how many TRL packs at a time. Ding et al. 2024, "Fewer Truncations Improve
    Language Modeling". No row is cut.

    Args:
        lengths: tokens of each row.
        capacity: tokens of a bin.
    Returns:
        For each bin the numbers of its rows, counted from 0.
    Raises:
        Qwen3labError: a row has no tokens, or more than a bin holds.
    """
    for row, length in enumerate(lengths, start=1):
        if not 0 < length <= capacity:
            raise Qwen3labError(
                f"Row {row} has {length} tokens, and a bin holds 1 to {capacity}. Leave the row"
                " out, split it, or take larger bins."
            )
    bins: list[list[int]] = []
    open_bins: list[
        tuple[int, int, int]
    ] = []  # (room, when it got that room, number of the bin), sorted
    for turn, row in enumerate(sorted(range(len(lengths)), key=lambda row: -lengths[row])):
        place = bisect_left(open_bins, (lengths[row],))
        if place == len(open_bins):
            room, number = capacity, len(bins)
            bins.append([])
        else:
            room, _, number = open_bins.pop(place)
        bins[number].append(row)
        if room > lengths[row]:
            insort(open_bins, (room - lengths[row], turn, number))
    return bins


def pack(examples: Sequence[Example], bins: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """Write the rows of each bin one behind the other.

    Returns:
        A dict a bin: input_ids and labels; position_ids, which begin at 0 in every row and by which
            transformers tells
        the rows apart (when no attention mask is given); seq_lengths, the rows' lengths. The label
        of each row's first token is -100, else the end of one row would be trained to predict the
        start of the next.
    """
    return [
        {
            "input_ids": [token for row in rows for token in examples[row]["input_ids"]],
            "labels": [label for row in rows for label in (IGNORED, *examples[row]["labels"][1:])],
            "position_ids": [
                place for row in rows for place in range(len(examples[row]["input_ids"]))
            ],
            "seq_lengths": [len(examples[row]["input_ids"]) for row in rows],
        }
        for rows in bins
    ]


def wrap(examples: Sequence[Example], capacity: int) -> list[dict[str, list[int]]]:
    """Write all rows one behind the other and cut the whole every `capacity` tokens, wherever that
    falls.

    Equals TRL's `pack_dataset(strategy="wrapped")`, which is meant for plain text: rows are cut,
    and nothing tells the rows of a piece apart, so each token reads the rows before its own.
    """
    stream = {
        key: [token for row in examples for token in row[key]] for key in ("input_ids", "labels")
    }
    return [
        {key: values[start : start + capacity] for key, values in stream.items()}
        for start in range(0, len(stream["input_ids"]), capacity)
    ]


def padded_places(lengths: Sequence[int], batch_size: int) -> int:
    """Places that batches of `batch_size` rows take, in the order given: every row as long as the
    longest of its batch.
    """
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches)


def logits_alone(model: PreTrainedModel, input_ids: Sequence[int]) -> torch.Tensor:
    """The logits [tokens, vocabulary] of one row on its own."""
    import torch

    with torch.inference_mode():
        return model(
            input_ids=torch.tensor([list(input_ids)], device=model.device), use_cache=False
        ).logits[0]


def logits_packed(
    model: PreTrainedModel, packed: Example, *, separate: bool = True
) -> list[torch.Tensor]:
    """The logits of every row of one bin, in a single pass over the bin.

    With the positions and without an attention mask, transformers gives each token only its own row
    to read (`masking_utils.py`, packed sequences). `separate=False` leaves the positions out, as
    for a wrapped piece: then a token reads everything before it.

    Returns:
        A tensor [tokens of the row, vocabulary] for each row of the bin.
    """
    import torch

    places = (
        {"position_ids": torch.tensor([list(packed["position_ids"])], device=model.device)}
        if separate
        else {}
    )
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([list(packed["input_ids"])], device=model.device),
            use_cache=False,
            **places,
        ).logits[0]
    return list(logits.split(list(packed["seq_lengths"])))


def leak(
    model: PreTrainedModel, row: Example, neighbours: Sequence[Example], *, separate: bool = True
) -> float:
    """How much the logits of `row` change when another row stands before it: the largest difference
    over `neighbours`.

    All neighbours are cut to the length of the shortest, so that nothing but their words differs. 0
    means no leak.
    """
    shortest = min(len(neighbour["input_ids"]) for neighbour in neighbours)
    seen = []
    for neighbour in neighbours:
        before = {key: list(neighbour[key])[:shortest] for key in ("input_ids", "labels")}
        seen.append(logits_packed(model, pack([before, row], [[0, 1]])[0], separate=separate)[1])
    return max(float((logits - seen[0]).abs().max()) for logits in seen[1:])
