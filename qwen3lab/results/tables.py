"""Tabulate the committed benchmark records, one function per benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from qwen3lab.data import tasks
from qwen3lab.evaluation.statistics import bootstrap_groups, wilson

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
        Columns recipe, measure, seeds, n (questions, the same for each seed), share (mean over
        seeds), low, high (Wilson for n questions, 95 %: a question that is asked of five models is
        one question), lowest and highest (a single seed's share).
    """
    return pd.DataFrame(
        [
            {"recipe": row["recipe"], "measure": name, "seeds": len(row["runs"])}
            | _of_counts([run[key] for run in row["runs"]], record["n"][key])
            for row in record["rows"]
            for key, name in THINKING_MEASURES.items()
        ]
    )


def _of_counts(counts: Sequence[int], n: int) -> dict[str, float]:
    """Average counts of right answers over seeds, with Wilson's interval for the n questions."""
    share = sum(counts) / len(counts) / n
    low, high = wilson(share * n, n)
    extremes = {"lowest": min(counts) / n, "highest": max(counts) / n}
    return {"n": n, "share": share, "low": low, "high": high} | extremes


STAGE_MEASURES = {
    "taught": "taught in chat",
    "read": "only in the text",
    "completed": "its sentence",
    "old": "old tasks",
}


def stages(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate continued pre-training and its controls, one line per way and measure.

    Args:
        record: the content of data/benchmarks/stages.json.
    Returns:
        Columns way, measure, seeds, n, share, low, high, lowest, highest as `thinking_survival`,
        and steps of all stages together, and perplexity of the text (mean over seeds).
    """
    return pd.DataFrame(
        [
            {"way": row["way"], "measure": name, "seeds": len(row["runs"])}
            | {"steps": sum(row["steps"])}
            | _of_counts([run[key] for run in row["runs"]], record["n"][key])
            | {"perplexity": sum(run["perplexity"] for run in row["runs"]) / len(row["runs"])}
            for row in record["rows"]
            for key, name in STAGE_MEASURES.items()
        ]
    )


STUDENTS = {"half": "half the layers", "quarter": "a quarter of the weights"}


def distillation(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the distillation benchmark, one line per student and training method.

    Args:
        record: the content of data/benchmarks/distillation.json.
    Returns:
        Columns student, way, seeds, n (test questions, the same for each seed), share (mean over
        seeds), low, high (Wilson for as many facts as the test asks about, 95 %: neither a second
        seed nor a second wording is another fact), lowest and highest (a single seed's share), kept
        (the share divided by the teacher's), old (share of the old tasks).
    """
    lines = []
    facts = len({row["fact"] for row in tasks.load("knowledge", "test")})
    for row in record["rows"]:
        counts, each = [run["new"] for run in row["runs"]], record["n"]["new"]
        low, high = wilson(row["new"]["share"] * facts, facts)
        lines.append(
            {
                "student": STUDENTS[row["student"]],
                "way": row["way"],
                "seeds": len(counts),
                "n": each,
                "share": row["new"]["share"],
                "low": low,
                "high": high,
                "lowest": min(counts) / each,
                "highest": max(counts) / each,
                "kept": row["kept"],
                "old": row["old"]["share"],
            }
        )
    return pd.DataFrame(lines)


def distilled_tasks(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate what a student keeps of each task of the mixture, against its teacher.

    Args:
        record: the content of data/benchmarks/distilled_tasks.json.
    Returns:
        One line a task, and "all": n; before, student and teacher (shares right: the student
        before and after, there a mean over seeds, and the teacher); gained and its 95 % interval
        low and high (after against before, paired, bootstrap over questions); kept (the student's
        share divided by the teacher's).
    """
    names = record["tasks"]["test"]
    before, above = (averaged([record[name]["test"]]) for name in ("student before", "teacher"))
    after = averaged([run["right"] for run in record["runs"]])
    lines = []
    for task in [*dict.fromkeys(names), "all"]:
        of = [place for place, name in enumerate(names) if task in (name, "all")]
        shares = {
            name: float(one[of].mean())
            for name, one in (("before", before), ("student", after), ("teacher", above))
        }
        gained = paired(before[of], after[of], of)
        kept = shares["student"] / shares["teacher"] if shares["teacher"] else float("nan")
        told = {"gained": gained["share"], "low": gained["low"], "high": gained["high"]}
        lines.append({"task": task, "n": len(of)} | shares | told | {"kept": kept})
    return pd.DataFrame(lines)


def averaged(runs: Sequence[str]) -> np.ndarray:
    """Average the digits of `benchmarks/record.digits` over runs: one value a question."""
    return np.mean([[int(one) for one in run] for run in runs], axis=0)


def paired(
    before: np.ndarray, after: np.ndarray, units: Sequence[Any] | None = None
) -> dict[str, float]:
    """Compare two systems on the same questions: the mean difference and its 95 % interval.

    Args:
        before, after: one value a question, in the same order.
        units: the name of each question; default: its place.
    Returns: share, low, high (bootstrap over questions).
    """
    low, high = bootstrap_groups(after - before, range(len(before)) if units is None else units)
    return {"share": float(after.mean() - before.mean()), "low": low, "high": high}


def seconds(runs: Sequence[dict[str, Any]]) -> float:
    """Average the seconds of training over runs; a model that was not trained took none."""
    return float(np.mean([run.get("seconds", 0) for run in runs]))


def low_bits(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the low-bit benchmark, one line per form and task.

    Args:
        record: the content of data/benchmarks/low_bits.json.
    Returns:
        Columns task, form, method, bits, group (weights a scale; of GGUF files none), MB, kl
        (nats per token, with kl_low and kl_high), n, accuracy with its 95 % bootstrap interval low
        and high over questions (for the company over facts), and lost: the share lost against the
        model in float32 on the same questions.
    """
    facts = [row["fact"] for row in tasks.load("knowledge", "test")]
    before = {line["task"]: line["right"] for line in record["lines"] if line["bits"] == 32}
    lines = []
    for line in record["lines"]:
        task, groups = line["task"], facts if line["task"] == "company facts" else None
        told = over_seeds([line["right"]], groups)
        whole = before[task].count("1") / len(before[task])
        lines.append(
            {
                "task": task,
                "form": line["form"],
                "method": line["method"],
                "bits": line["bits"],
                "group": line.get("group"),
                "MB": line["bytes"] / 1e6,
                **{name: line[name] for name in ("kl", "kl_low", "kl_high")},
                "n": told["n"],
                "accuracy": told["share"],
                "low": told["low"],
                "high": told["high"],
                "lost": whole - told["share"],
            }
        )
    return pd.DataFrame(lines)


def over_seeds(
    runs: Sequence[Sequence[Any]], groups: Sequence[Any] | None = None
) -> dict[str, float]:
    """Average one value a question over seeds, with a 95 % bootstrap interval over the questions.

    Where all values are alike there is nothing to resample, and the interval is Wilson's.

    Args:
        runs: for each seed the values of all questions, in the same order; digits of a text will
            do.
        groups: what each question is about, if it is that which is resampled (its fact).
    Returns:
        n (questions), share (mean over seeds), low, high, lowest and highest (a single seed's).
    """
    values = np.array([[float(one) for one in run] for run in runs])
    by_question, seeds = values.mean(axis=0), values.mean(axis=1)
    units = groups or range(len(by_question))
    if by_question.min() == by_question.max():
        n = len(set(units))
        low, high = wilson(float(by_question[0] * n), n)
    else:
        low, high = bootstrap_groups(by_question, units)
    return {
        "n": len(by_question),
        "share": float(by_question.mean()),
        "low": low,
        "high": high,
        "lowest": float(seeds.min()),
        "highest": float(seeds.max()),
    }


def frontier(record: dict[str, Any], split: str | None = None) -> pd.DataFrame:
    """Tabulate the recipe benchmark: new facts and old tasks by rate, steps and rehearsal.

    Args:
        record: the content of data/benchmarks/recipe.json.
        split: "validation" or "test"; default: the record's own, on which the recipe was chosen.
    Returns:
        Columns setting (with old rows or not), value (rate and steps), accuracy of the new facts
        and old (shares, means over seeds), with 95 % bootstrap intervals low and high, old_low and
        old_high: of the first over facts, of the second over questions.
    """
    split = split or record["split"]
    lines = []
    for line in record["lines"]:
        scored = [run[split] for run in line["runs"]]
        new = over_seeds([run["new"] for run in scored], record["facts"][split])
        old = over_seeds([run["old"] for run in scored])
        lines.append(
            {
                "setting": "with old rows:" if line["rehearsal"] else "facts alone",
                "value": f"rate {line['rate']:g}, {line['runs'][0]['steps']} steps",
                "accuracy": new["share"],
                "low": new["low"],
                "high": new["high"],
                "old": old["share"],
                "old_low": old["low"],
                "old_high": old["high"],
            }
        )
    return pd.DataFrame(lines)


def forgetting(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the forgetting benchmark: new facts and old tasks by method, rate and rehearsal.

    Args:
        record: the content of data/benchmarks/forgetting.json.
    Returns:
        Columns setting (method, with old rows or not), value (rate), seeds, accuracy of the new
        facts, old (tasks that no recipe rehearses) and again (the rehearsed tasks): means over
        seeds, with 95 % bootstrap intervals low and high, old_low and old_high, again_low and
        again_high: of the first over facts, of the others over questions.
    """
    names = {"full": "all weights", "lora": "LoRA"}
    again = [task in record["rehearsed"] for task in record["tasks"]]
    lines = []
    for row in record["rows"]:
        mixed = ", old rows" if row["rehearsal"] else ""
        line = {"setting": f"{names[row['method']]}{mixed}:", "value": f"rate {row['rate']:g}"}
        line["seeds"] = len(row["runs"])
        parts = {"": [run["new"] for run in row["runs"]]}
        for key, wanted in (("old_", False), ("again_", True)):
            kept = [mine == wanted for mine in again]
            parts[key] = [list(compress(run["old"], kept)) for run in row["runs"]]
        for key, digits in parts.items():
            found = over_seeds(digits, None if key else record["facts"])
            line |= {
                key.rstrip("_") or "accuracy": found["share"],
                f"{key}low": found["low"],
                f"{key}high": found["high"],
            }
        lines.append(line)
    return pd.DataFrame(lines)


def maths(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the maths case: word problems by kind of operation, and sums, for each way.

    Args:
        record: the content of data/benchmarks/maths.json.
    Returns:
        Indexed by way and part ("all problems", the kinds, "sums"): n questions, share (mean over
        seeds), low, high (95 %, bootstrap over questions), lowest and highest (single seeds).
    """
    kinds, lines = record["kinds"], []
    for way, runs in {"before": [record["before"]], **record["runs"]}.items():
        parts = {"all problems": [run["problems"] for run in runs]}
        for kind in sorted(set(kinds)):
            own = [one == kind for one in kinds]
            parts[kind] = [list(compress(run["problems"], own)) for run in runs]
        parts["sums"] = [run["sums"] for run in runs]
        lines += [{"way": way, "part": part} | over_seeds(digits) for part, digits in parts.items()]
    return pd.DataFrame(lines).set_index(["way", "part"])


def maths_faults(record: dict[str, Any]) -> pd.DataFrame:
    """Count the first fault of each wrong word problem: way by fault, the mean over seeds.

    Args:
        record: the content of data/benchmarks/maths.json.
    Returns:
        One row per way, one column per fault (`arithmetic.fault`), the most frequent first; and
        wrong, their sum.
    """
    found = {}
    for way, runs in {"before": [record["before"]], **record["runs"]}.items():
        counts = Counter()
        for run in runs:
            for key, count in run["faults"].items():
                counts[key.rpartition(" | ")[2]] += count / len(runs)
        found[way] = counts
    table = pd.DataFrame(found).T.fillna(0.0)
    table = table[table.sum().sort_values(ascending=False).index]
    return table.assign(wrong=table.sum(axis=1))


def tone(record: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the tone benchmark: marks, answers inside and old tasks, before and after.

    Args:
        record: the content of data/benchmarks/tone.json.
    Returns:
        Indexed by way and measure: n, share (mean over seeds), its 95 % bootstrap interval over
        questions, and the lowest and highest seed.
    """
    names = {
        "all": "all three marks",
        "thanks": "thanks by name",
        "motto": "the motto ends it",
        "inside": "answer inside right",
        "old": "old tasks",
    }
    ways = {"before": [record["before"]["test"]], **record["runs"]}
    lines = []
    for way, runs in ways.items():
        lines += [
            {"way": way, "measure": name} | over_seeds([run[key] for run in runs])
            for key, name in names.items()
        ]
    return pd.DataFrame(lines).set_index(["way", "measure"])


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
