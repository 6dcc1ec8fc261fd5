"""GPU cards: their memory, and which of them a memory plan fits.

Sizes are what `nvidia-smi` reports, in MiB (2^20 bytes). The size in a card's name differs: an "80
GB" card has 81,559 or 81,920 MiB, which is 85.5 or 85.9 decimal gigabytes, and 79.6 or 80 GiB.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import planner

MIB = 2**20
# Bytes per card for the driver, CUDA's libraries and allocator fragmentation; a round figure, not a
# measurement.
RESERVE = 10**9


@dataclass(frozen=True)
class Card:
    """GPU card by its product name, with its memory in MiB."""

    name: str
    mib: int
    bfloat16: bool = True

    @property
    def bytes(self) -> int:
        """Total memory of the card."""
        return self.mib * MIB

    def share(self, plan: planner.Plan) -> float:
        """Compute the share of the card that a plan fills, with the reserve; it fits up to 1."""
        return (plan.total + RESERVE) / self.bytes


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card("T4 16 GB", 15_360, bfloat16=False),
        Card("L4 24 GB", 23_034),
        Card("RTX 4090 24 GB", 24_564),
        Card("RTX 5090 32 GB", 32_607),
        Card("A100 40 GB", 40_960),
        Card("L40S 48 GB", 46_068),
        Card("H100 80 GB", 81_559),
        Card("A100 80 GB", 81_920),
        Card("H200 141 GB", 143_771),
    )
}


def fitting(
    plan: planner.Plan, float16: planner.Plan | None = None
) -> tuple[list[Card], list[Card]]:
    """Split the cards into those that a plan fits and those that it does not, smallest first.

    `float16`: the same in float16, for the cards without bfloat16; default: as `plan`.
    """
    fits = [
        card
        for card in CARDS.values()
        if card.share(plan if card.bfloat16 else float16 or plan) <= 1
    ]
    return fits, [card for card in CARDS.values() if card not in fits]


def longest(card: Card, model: Any, method: str, most: int = 32_768, **options: Any) -> int:
    """Find the longest row, in tokens, with which a training of one row a step fits a card.

    The answer is a multiple of 256, 0 if not even that many tokens fit. On a card without bfloat16
    the plan is that of float16.

    Args:
        card: one of `CARDS`, or another.
        model, method: as in `memory.plan`.
        most: the longest to try.
        options: of `memory.plan`.
    """

    def fits(steps: int) -> bool:
        made = planner.plan(
            model, method, float16=not card.bfloat16, batch=1, length=256 * steps, **options
        )
        return card.share(made) <= 1

    return 256 * bisect.bisect_left(range(1, most // 256 + 1), True, key=lambda n: not fits(n))


def fewest(
    card: str, model: Any, method: str, shard: str = "zero3", most: int = 1024, **options: Any
) -> int:
    """Find the smallest number of equal GPUs that a sharded plan fits.

    Args:
        card: a name in `CARDS`.
        model, method, shard: as in `memory.plan`.
        most: the largest number to try.
        options: of `memory.plan`.
    Raises:
        Qwen3labError: unknown card, a plan that no number up to `most` fits, and what `memory.plan`
            raises.
    """
    if card not in CARDS:
        raise Qwen3labError(f"Unknown card {card!r}. Use one of: {', '.join(CARDS)}.")
    for gpus in range(1, most + 1):
        if CARDS[card].share(planner.plan(model, method, gpus=gpus, shard=shard, **options)) <= 1:
            return gpus
    raise Qwen3labError(
        f"No number of {card} cards up to {most} is enough. Make the batch or its rows shorter."
    )
