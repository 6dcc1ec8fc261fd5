"""Tabulate the benchmark of LoRA on pictures, in the form that `plots.share_dots` draws."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qwen3lab.results.tables import over_seeds, seconds

MEASURES = {  # and the kinds of questions that it counts
    "company's tags": ("company",),
    "other tags, receipts": ("tag", "receipt"),
    "shapes": ("scene",),
    "questions on a text": ("text",),
}


def learned_and_forgotten(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate what adapters on the company's tags learned, and what was forgotten for them.

    Args:
        record: the content of data/benchmarks/vision.json.
    Returns:
        One line a recipe (before, adapters on the decoder, on decoder and encoder) and measure: n,
        share (mean over seeds), low and high (95 %, over questions), lowest and highest seed,
        seconds of training (mean).
    """
    lines = []
    for recipe, runs in ({"before": [record["before"]]} | record["runs"]).items():
        for measure, kinds in MEASURES.items():
            told = over_seeds(["".join(run[kind] for kind in kinds) for run in runs])
            lines.append({"recipe": recipe, "measure": measure} | told | {"seconds": seconds(runs)})
    return pd.DataFrame(lines)
