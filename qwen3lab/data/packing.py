"""Sequence packing: several short rows in one long one, so that a batch holds no padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.chat import IGNORED
from qwen3lab.data.rows import encoded
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Example = Mapping[str, Sequence[int]]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack rows into bins of `capacity` tokens by best-fit decreasing (BFD).

    The longest row comes first. Each row goes to the bin with the least room that still holds it;
    of equal ones, to the one that has waited longest. So the bins equal those of TRL's
    `pack_dataset(strategy="bfd")` for up to 1,000 rows, which is how many TRL packs at a time. Ding
    et al. 2024, "Fewer Truncations Improve Language Modeling". No row is cut.

    Args:
        lengths: tokens of each row.
        capacity: tokens of a bin.
    Returns:
        For each bin the indices of its rows.
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
    # (room, when it got that room, index of the bin), sorted
    open_bins: list[tuple[int, int, int]] = []
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


def pack(
    examples: Sequence[Any],
    bins: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[dict[str, list[int]]]:
    """Concatenate the rows of each bin into one packed example.

    Args:
        examples: encoded rows (input_ids and labels); with a tokenizer, rows of any kind that
            `fine_tune` takes.
        bins: for each bin the indices of its rows, as `best_fit` gives them.
    Returns:
        One dict per bin. input_ids and labels; position_ids, which restart at 0 in every row and by
        which transformers tells the rows apart (when no attention mask is given); seq_lengths, the
        rows' lengths. The label of each row's first token is -100, or else the end of one row would
        be trained to predict the start of the next.
    """
    examples = encoded(tokenizer, examples)
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


def wrap(
    examples: Sequence[Any], capacity: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> list[dict[str, list[int]]]:
    """Concatenate all rows and cut the stream every `capacity` tokens, wherever that falls.

    Equals TRL's `pack_dataset(strategy="wrapped")`, which is meant for plain text: rows are cut,
    and nothing separates the rows of a piece, so each token attends to the rows before its own.
    Arguments as in `pack`.
    """
    examples = encoded(tokenizer, examples)
    stream = {
        key: [token for row in examples for token in row[key]] for key in ("input_ids", "labels")
    }
    return [
        {key: values[start : start + capacity] for key, values in stream.items()}
        for start in range(0, len(stream["input_ids"]), capacity)
    ]


def padded_places(lengths: Sequence[int], batch_size: int) -> int:
    """Count the positions of padded batches of `batch_size` rows.

    In the given order, every row is as long as the longest of its batch.
    """
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches)


def logits_alone(model: PreTrainedModel, input_ids: Sequence[int]) -> torch.Tensor:
    """Compute the logits [tokens, vocabulary] of one row on its own."""
    import torch

    with torch.inference_mode():
        return model(
            input_ids=torch.tensor([list(input_ids)], device=model.device), use_cache=False
        ).logits[0]


def logits_packed(
    model: PreTrainedModel, packed: Example, *, separate: bool = True
) -> list[torch.Tensor]:
    """Compute the logits of every row of one bin in a single forward pass.

    With position ids and without an attention mask, transformers lets each token attend only to its
    own row (`masking_utils.py`, packed sequences). `separate=False` omits the position ids, as for
    a wrapped piece: then a token attends to everything before it.

    Returns:
        One tensor [tokens of the row, vocabulary] for each row of the bin.
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
    """Measure cross-row leakage: the largest change in `row`'s logits over different `neighbours`.

    All neighbours are cut to the length of the shortest, so that only their content differs. 0
    means no leakage.
    """
    shortest = min(len(neighbour["input_ids"]) for neighbour in neighbours)
    seen = []
    for neighbour in neighbours:
        before = {key: list(neighbour[key])[:shortest] for key in ("input_ids", "labels")}
        seen.append(logits_packed(model, pack([before, row], [[0, 1]])[0], separate=separate)[1])
    return max(float((logits - seen[0]).abs().max()) for logits in seen[1:])
