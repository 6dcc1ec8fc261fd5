"""Tabulate the benchmark of LoRA on pictures, in the form that `plots.share_dots` draws."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qwen3lab.results.tables import over_seeds, seconds

MEASURES = {
    "company": "company's tags",
    "tag": "other tags",
    "scene": "shapes",
    "text": "questions on a text",
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
        for kind, measure in MEASURES.items():
            told = over_seeds([run[kind] for run in runs])
            lines.append({"recipe": recipe, "measure": measure} | told | {"seconds": seconds(runs)})
    return pd.DataFrame(lines)
