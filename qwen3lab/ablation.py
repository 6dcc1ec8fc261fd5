"""Read what `benchmarks/lora.py` measured: one setting of LoRA changed at a time, several seeds each, as a table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qwen3lab.evaluation import wilson


def table(record: dict[str, Any]) -> pd.DataFrame:
    """One line a setting and value, all seeds together.

    Args:
        record: the content of data/benchmarks/lora.json.
    Returns:
        Columns setting, value, seeds, trained (parameters), n and right (new facts, all seeds), accuracy, low, high (Wilson, 95 %),
        lowest and highest (accuracy of a single seed), old (share right of the old tasks), old_low, old_high.
    """
    lines = []
    for row in record["rows"]:
        runs = row["runs"]
        right, n, old, old_n = (sum(run[key] for run in runs) for key in ("right", "n", "old right", "old n"))
        shares = [run["right"] / run["n"] for run in runs]
        (low, high), (old_low, old_high) = wilson(right, n), wilson(old, old_n)
        lines.append({"setting": row["setting"], "value": row["value"], "seeds": len(runs), "trained": runs[0]["trained"], "n": n, "right": right,
                      "accuracy": right / n, "low": low, "high": high, "lowest": min(shares), "highest": max(shares),
                      "old": old / old_n, "old_low": old_low, "old_high": old_high})
    return pd.DataFrame(lines)
