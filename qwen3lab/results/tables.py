"""Tabulate the committed benchmark records, one function per benchmark."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qwen3lab.evaluation.statistics import wilson

WHEN_TO_USE = {
    "transformers generate": (
        "to hold the others against; batches without a clock; a model that is too new for engines"
    ),
    "llama.cpp in process": "inside a program: laptop, phone, a job at night",
    "llama.cpp over HTTP": "a machine without a GPU, few users, all of them known",
    "llama.cpp behind the guard": "the same, where what users write is not to be trusted",
    "vLLM": "a GPU and many users at once (here on a CPU)",
    "TensorRT-LLM": "NVIDIA GPUs and a model that stays: docs/tensorrt_llm.md, not run here",
}


def engine_summary(record: dict[str, Any]) -> pd.DataFrame:
    """Summarise the inference engines: throughput, peak memory, and when to use which.

    Throughput in answer tokens per second with the fewest concurrent requests and with the most;
    peak memory in MB.
    """
    found = engine_speeds(record)
    levels = found.index.get_level_values("concurrent")
    few, many = (
        found["tokens a second"].xs(level, level="concurrent")
        for level in (levels.min(), levels.max())
    )
    memory = found.memory.groupby("engine").first() / 1e6
    columns = {
        f"tokens/s, {levels.min()}": few,
        f"tokens/s, {levels.max()}": many,
        "memory MB": memory,
        "take it for": pd.Series(WHEN_TO_USE),
    }
    return pd.DataFrame(columns).reindex(list(WHEN_TO_USE))


def engine_speeds(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the serving benchmark by engine and number of concurrent requests (the index).

    `record` is the content of data/benchmarks/serving.json; the columns are those of a measurement.
    """
    lines = [
        {"engine": name, "concurrent": int(level), "memory": engine["memory"]} | measured
        for name, engine in record["engines"].items()
        for level, measured in engine["load"].items()
    ]
    return pd.DataFrame(lines).set_index(["engine", "concurrent"])


def decoding(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the speculative decoding benchmark on the bundled pair, one line per method.

    Args:
        record: the content of data/benchmarks/decoding.json.
    Returns:
        Indexed by method: prompts, tokens, "passes a token" (of the target), accepted (share of the
        drafted tokens), stays (how often a guess is kept if those before it were; both nan where
        unknown), "tokens a second", "times faster" (than plain decoding by the same code, median of
        the rounds), slowest (round).
    """
    told = record["tiny"]
    lines = [
        {
            "prompts": told["prompts"],
            "tokens": way["tokens"],
            "passes a token": way["passes a token"],
            "accepted": way.get("acceptance", float("nan")),
            "stays": way.get("stays", float("nan")),
            "tokens a second": way["tokens a second"],
            "times faster": way["times faster than plain"],
            "slowest": way["slowest round"],
        }
        for way in told["ways"].values()
    ]
    return pd.DataFrame(lines, index=list(told["ways"]))


def decoding_shapes(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate speculative decoding on released shapes with random weights.

    One line per model pair and probability that a guess is kept.

    Returns:
        Columns pair, layers, stays, "draft cost" (draft pass / target pass), "check cost" (target
        pass over 5 tokens / over 1), "times faster" (eager passes, measured), graphs (computed from
        the times of passes replayed as CUDA graphs; nan on a CPU).
    """
    graphs = "times faster, CUDA graphs, from the passes' times"
    return pd.DataFrame(
        [
            {
                "pair": f"{line['target']} with {line['draft']}",
                "layers": "all" if line["whole"] else " and ".join(map(str, line["layers"])),
                "stays": entry["acceptance"],
                "draft cost": line["cost"]["draft pass / target pass"],
                "check cost": line["cost"]["pass over 5 / pass over 1"],
                "times faster": entry["times faster"],
                "graphs": entry.get(graphs, float("nan")),
            }
            for line in record["shapes"]
            for entry in line["speed-ups"]
        ]
    )


THINKING_MEASURES = {
    "thinks": "thinks",
    "sums": "sums right",
    "problems": "word problems right",
    "answers": "new facts right",
}


def thinking_survival(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate whether thinking survives fine-tuning, one line per recipe and measure.

    Args:
        record: the content of data/benchmarks/survival.json.
    Returns:
        Columns recipe, measure, seeds, n (questions of all seeds), right, share, low, high (Wilson,
        95 %), lowest and highest (a single seed's share).
    """
    lines = []
    for row in record["rows"]:
        for key, name in THINKING_MEASURES.items():
            counts, each = [run[key] for run in row["runs"]], record["n"][key]
            right, n = sum(counts), each * len(counts)
            low, high = wilson(right, n)
            lines.append(
                {
                    "recipe": row["recipe"],
                    "measure": name,
                    "seeds": len(counts),
                    "n": n,
                    "right": right,
                    "share": right / n,
                    "low": low,
                    "high": high,
                    "lowest": min(counts) / each,
                    "highest": max(counts) / each,
                }
            )
    return pd.DataFrame(lines)


STUDENTS = {"half": "half the layers", "quarter": "a quarter of the weights"}


def distillation(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the distillation benchmark, one line per student and training method.

    Args:
        record: the content of data/benchmarks/distillation.json.
    Returns:
        Columns student, way, seeds, n and right (test questions of all seeds), share, low, high
        (Wilson, 95 %), lowest and highest (a single seed's share), kept (the share divided by the
        teacher's), old (share of the old tasks).
    """
    lines = []
    for row in record["rows"]:
        counts, each = [run["new"] for run in row["runs"]], record["n"]["new"]
        lines.append(
            {
                "student": STUDENTS[row["student"]],
                "way": row["way"],
                "seeds": len(counts),
                "n": each * len(counts),
                "right": sum(counts),
                **row["new"],
                "lowest": min(counts) / each,
                "highest": max(counts) / each,
                "kept": row["kept"],
                "old": row["old"]["share"],
            }
        )
    return pd.DataFrame(lines)


def ablation(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the LoRA ablation, one line per setting and value, the mean over the seeds.

    Args:
        record: the content of data/benchmarks/lora.json.
    Returns:
        Columns setting, value, seeds, trained (parameters), n (questions, the same for each seed),
        right (new facts, all seeds), accuracy, low, high (Wilson for n questions, 95 %: a question
        that is asked of three models is one question), lowest and highest (accuracy of a single
        seed), old (accuracy on the old tasks), old_low, old_high.
    """
    lines = []
    for row in record["rows"]:
        runs = row["runs"]
        shares = [run["right"] / run["n"] for run in runs]
        line = {
            "setting": row["setting"],
            "value": row["value"],
            "seeds": len(runs),
            "trained": runs[0]["trained"],
            "n": runs[0]["n"],
            "right": sum(run["right"] for run in runs),
        }
        for name, right, n in (("", "right", "n"), ("old", "old right", "old n")):
            asked = runs[0][n]
            mean = sum(run[right] for run in runs) / len(runs)
            low, high = wilson(mean, asked)
            before = f"{name}_" if name else ""
            line |= {name or "accuracy": mean / asked, f"{before}low": low, f"{before}high": high}
        lines.append(line | {"lowest": min(shares), "highest": max(shares)})
    return pd.DataFrame(lines)
