"""Tabulate the benchmarks of rewards and preferences, in the form that `plots.share_dots` draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from qwen3lab.results.tables import averaged, over_seeds, paired, seconds


def repaired(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate what GRPO and rejection sampling repaired.

    Args:
        record: the content of data/benchmarks/rewards.json.
    Returns:
        One line a recipe and measure (reading, of it answered in the text and open, company facts):
        n, share (mean over seeds), low and high (95 %, bootstrap over questions, for facts over
        facts), lowest and highest seed, seconds of training (mean).
    """
    half = len(record["questions"]) // 2
    lines = []
    for recipe, runs in ({"before": [record["before"]]} | record["runs"]).items():
        reading = [run["reading"]["right"] for run in runs]
        facts = [run["facts"]["right"] for run in runs]
        for measure, digits, groups in (
            ("reading", reading, None),
            ("with an answer", [one[:half] for one in reading], None),
            ("without an answer", [one[half:] for one in reading], None),
            ("company facts", facts, record["facts"]),
        ):
            line = {"recipe": recipe, "measure": measure} | over_seeds(digits, groups)
            lines.append(line | {"seconds": seconds(runs)})
    return pd.DataFrame(lines)


def gains(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate each seed's reading and facts against before, on the same questions.

    Args:
        record: the content of data/benchmarks/rewards.json.
    """

    def share(digits: str) -> float:
        return digits.count("1") / len(digits)

    before, lines = record["before"], []
    for recipe, runs in record["runs"].items():
        for run in runs:
            gained = paired(*(averaged([way["reading"]["right"]]) for way in (before, run)))
            lines.append(
                {
                    "recipe": recipe,
                    "seed": run["seed"],
                    "reading": share(run["reading"]["right"]),
                    "gain": gained["share"],
                    "low": gained["low"],
                    "high": gained["high"],
                    "facts": share(run["facts"]["right"]) - share(before["facts"]["right"]),
                    "seconds": run["seconds"],
                }
            )
    return pd.DataFrame(lines)


def invention(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate invented answers and taught facts: before, SFT with refusals, DPO.

    Args:
        record: the content of data/benchmarks/preferences.json.
    Returns: columns as `repaired`.
    """
    part = record["invention"]
    return _declining(record, {"facts alone": [part["before"]]} | part["runs"])


def collapse(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate what the reward +1, 0, -1 made of the models with refusals, seed by seed.

    Argument and columns as of `invention`.
    """
    before = {"before": record["invention"]["runs"]["SFT with refusals"]}
    return _declining(record, before | {"after": record["collapse"]})


def _declining(record: dict[str, Any], ways: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    lines = []
    for recipe, runs in ways.items():
        for measure, key in (
            ("invented", "invented"),
            ("taught facts right", "facts"),
            ("taught facts declined", "facts refused"),
        ):
            groups = record["facts"] if key.startswith("facts") else None
            told = over_seeds([run[key] for run in runs], groups)
            line = {"recipe": recipe, "measure": measure} | told
            lines.append(line | {"seconds": seconds(runs)})
    return pd.DataFrame(lines)


def brevity(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the taste for brief replies: win rate, facts, old tasks, stock phrases a reply.

    Args:
        record: the content of data/benchmarks/brevity.json.
    Returns:
        Columns as `repaired`, and phrases (a right reply's, mean). The model before has no win rate
        but that against itself, 0.5.
    """
    before = record["before"]["test"]
    lines = []
    for recipe, runs in ({"before": [before]} | record["runs"]).items():
        phrases = [one for run in runs for one in run["phrases"] if one is not None]
        wins = [run.get("wins", [0.5] * len(run["phrases"])) for run in runs]
        right = [[one is not None for one in run["phrases"]] for run in runs]
        for measure, values, groups in (
            ("win rate", wins, record["facts"]),
            ("fact right", right, record["facts"]),
            ("old tasks", [run["old"] for run in runs], None),
        ):
            line = {"recipe": recipe, "measure": measure} | over_seeds(values, groups)
            lines.append(line | {"phrases": float(np.mean(phrases)), "seconds": seconds(runs)})
    return pd.DataFrame(lines)


def cost(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Compare the old tasks after each recipe of `brevity` with before, on the same questions.

    Returns the difference's mean over seeds and its 95 % interval: share, low, high.
    """
    before = averaged([record["before"]["test"]["old"]])
    return {
        recipe: paired(before, averaged([run["old"] for run in runs]))
        for recipe, runs in record["runs"].items()
    }
