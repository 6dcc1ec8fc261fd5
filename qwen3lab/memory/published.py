"""Published memory figures (data/published_memory.toml) beside the planner's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import paths
from qwen3lab.family import shape
from qwen3lab.memory import planner
from qwen3lab.memory.gpus import MIB

if TYPE_CHECKING:
    import pandas as pd


FILE = paths.DATA / "published_memory.toml"


def load(path: Path = FILE) -> dict[str, Any]:
    """Load the published figures.

    Raises:
        Qwen3labError: the file is missing or cannot be read.
    """
    return paths.read_toml(path, "file")


def inference() -> pd.DataFrame:
    """Compare inference memory with Qwen's own benchmark: published and planned (GB), error (%).

    One row per model, format ("bf16", "awq") and prompt length. Planned are the weights (NF4 for
    AWQ's) and the key-value cache of the prompt and the tokens generated, with no overhead at all.
    """
    import pandas as pd

    table, rows = load()["inference"], []
    for form in ("bf16", "awq"):
        for model, sizes in table[form].items():
            for length, mib in zip(table["lengths"], sizes, strict=True):
                planned = planner.plan(
                    model, "inference", tokens=length + table["generated"], four_bit=form == "awq"
                ).total
                rows.append(
                    {
                        "model": model,
                        "format": form,
                        "prompt": length,
                        "published": mib * MIB / 1e9,
                        "planned": planned / 1e9,
                    }
                )
    return _with_error(pd.DataFrame(rows))


def growth() -> pd.DataFrame:
    """Compare memory growth per token in bfloat16 with the planned key-value cache, by model.

    Columns: planned (the key-value cache's bytes per token), published (growth between the first
    clean prompt length and the longest) and error (%); from_one_token and its error (%), the growth
    from the prompt of one token on, where some figures of the table are too low.
    """
    import pandas as pd

    table = load()["inference"]
    lengths, first = table["lengths"], table["first"]

    def slope(sizes: list[int], start: int) -> float:
        return (sizes[-1] - sizes[start]) * MIB / (lengths[-1] - lengths[start])

    rows = {
        model: {
            "planned": shape(model).kv_bytes(),
            "published": slope(sizes, first),
            "from_one_token": slope(sizes, 0),
        }
        for model, sizes in table["bf16"].items()
    }
    frame = _with_error(pd.DataFrame.from_dict(rows, orient="index"))
    frame["error_from_one_token"] = 100 * (frame.planned / frame.from_one_token - 1)
    return frame


def training() -> pd.DataFrame:
    """Compare published training runs with the plan, one row per run.

    Columns: published and planned (GB per GPU), figure, outcome, error (%) and fits. `figure` says
    whether the published number is the memory "used" or the size of the "card"; an error is
    meaningful only for the first. `fits` is whether the plan is smaller than the published number,
    which it must be for every run that succeeded.
    """
    import pandas as pd

    rows = {}
    for row in load()["training"]:
        size = row["gb"] * (2**30 / 1e9 if row.get("unit") == "GiB" else 1)
        planned = planner.plan(row["model"], row["method"], **row["options"]).total / 1e9
        rows[row["what"]] = {
            "published": size,
            "planned": planned,
            "figure": row["figure"],
            "outcome": row["outcome"],
            "fits": planned <= size,
        }
    frame = _with_error(pd.DataFrame.from_dict(rows, orient="index"))
    frame.loc[frame.figure == "card", "error"] = float("nan")
    return frame


def _with_error(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the planner's error in percent of the published figure."""
    frame["error"] = 100 * (frame.planned.astype(float) / frame.published.astype(float) - 1)
    return frame
