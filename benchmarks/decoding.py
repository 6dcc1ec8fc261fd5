"""Benchmark the KV cache, prompt lookup and speculative decoding, in passes and seconds.

`python benchmarks/decoding.py` decodes one text at a time: first qwen3-tiny with qwen3-tiny-draft
on 50 prompts, five of each task of the chat set, by `qwen3lab.from_scratch.speculative` and by
transformers; all answers are greedy and must be equal. Then released shapes with random weights,
cut to a few layers in the same proportion (`--whole` takes all layers, for a GPU): there the time
of every pass is real, and a guess is kept with a given probability, because random weights agree on
nothing. Writes `data/benchmarks/decoding.json`; with `--shapes-only` only the second part.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch

from qwen3lab import family, paths
from qwen3lab.from_scratch import speculative

EACH, LONGEST, DRAFTED, LOOKED_UP = 5, 96, 4, 10
ASSISTED = {
    "num_assistant_tokens": DRAFTED,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.0,
}
PAIRS = (("4B", "0.6B"),)
WHOLE = (("8B", "0.6B"), ("32B", "0.6B"))
LAYERS = 4  # of the target, on a CPU
ACCEPTANCES = (0.6, 0.7, 0.8, 0.9)


class Passes:
    """A counter of a model's forward passes."""

    def __init__(self, model: Any):
        self.count = 0
        model.register_forward_pre_hook(lambda *_: setattr(self, "count", self.count + 1))


def ways(
    target: Any, draft: Any
) -> dict[str, Callable[[list[int]], list[int] | speculative.Decoded]]:
    """Define every decoding method: ours return a `Decoded`, transformers' the ids."""

    def ours(**options: Any):
        return lambda ids: speculative.generate(target, ids, max_new_tokens=LONGEST, **options)

    def theirs(**options: Any):
        return lambda ids: target.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=LONGEST,
            **options,
        )[0, len(ids) :].tolist()

    return {
        "by hand, no KV cache": ours(cache=False),
        "by hand, plain": ours(),
        "by hand, prompt lookup": lambda ids: speculative.generate(
            target, ids, speculative.Lookup(), drafted=LOOKED_UP, max_new_tokens=LONGEST
        ),
        "by hand, draft": ours(draft=draft, drafted=DRAFTED),
        "transformers, no KV cache": theirs(use_cache=False),
        "transformers, plain": theirs(),
        "transformers, prompt lookup": theirs(prompt_lookup_num_tokens=LOOKED_UP),
        "transformers, draft": theirs(assistant_model=draft),
    }


def tiny(rounds: int) -> dict[str, Any]:
    """Benchmark the bundled pair."""
    from qwen3lab import models
    from qwen3lab.chat import encode
    from qwen3lab.data import tasks

    (target, tokenizer), (draft, _) = (
        models.load("qwen3-tiny", dtype="float32"),
        models.load("qwen3-tiny-draft", dtype="float32"),
    )
    for key, value in ASSISTED.items():
        setattr(draft.generation_config, key, value)
    rows = tasks.load("chat", "test")
    chosen = [
        row
        for name in sorted({row["task"] for row in rows})
        for row in [row for row in rows if row["task"] == name][:EACH]
    ]
    prompts = [
        encode(tokenizer, row["messages"], thinking=row["thinking"], tools=row.get("tools"))
        for row in chosen
    ]
    passes, of_draft = Passes(target), Passes(draft)
    every, answers, lines = ways(target, draft), {}, {}
    seconds: dict[str, list[list[float]]] = {name: [] for name in every}
    with torch.inference_mode():
        for number in range(rounds + 1):  # the first round warms up and counts
            order = list(every)[number % len(every) :] + list(every)[: number % len(every)]
            for name in order:
                took = []
                for place, ids in enumerate(prompts):
                    passes.count = of_draft.count = 0
                    started = time.perf_counter()
                    found = every[name](ids)
                    took.append(time.perf_counter() - started)
                    if number == 0:
                        new = found.ids if isinstance(found, speculative.Decoded) else found
                        answers.setdefault(place, new)
                        line = {
                            "equal": new == answers[place],
                            "tokens": len(new),
                            "target passes": passes.count,
                            "draft passes": of_draft.count,
                        }
                        if isinstance(found, speculative.Decoded):
                            line |= {
                                "drafted": found.drafted,
                                "accepted": found.accepted,
                                "rejected": found.rejected,
                            }
                        lines.setdefault(name, []).append(line)
                if number:
                    seconds[name].append(took)
                print(number, name, round(sum(took), 2), flush=True)
    result: dict[str, Any] = {}
    for name in every:
        plain = seconds[name.split(",")[0] + ", plain"]
        total = {key: sum(line[key] for line in lines[name]) for key in lines[name][0]}
        per_task = {}
        for task in sorted({row["task"] for row in chosen}):
            places = [place for place, row in enumerate(chosen) if row["task"] == task]
            keys = (
                "tokens",
                "target passes",
                *(("drafted", "accepted", "rejected") if "drafted" in total else ()),
            )
            ratios = [
                sum(p[i] for i in places) / sum(own[i] for i in places)
                for own, p in zip(seconds[name], plain)
            ]
            per_task[task] = {
                key: sum(lines[name][place][key] for place in places) for key in keys
            } | {"times faster than plain": middle(ratios)}
        result[name] = total | {
            "passes a token": round(total["target passes"] / total["tokens"], 4),
            "seconds": [round(sum(took), 3) for took in seconds[name]],
            "tokens a second": round(
                total["tokens"] / statistics.median(sum(took) for took in seconds[name]), 1
            ),
            "times faster than plain": middle(
                [sum(p) / sum(own) for own, p in zip(seconds[name], plain)]
            ),
            "slowest round": round(
                min(sum(p) / sum(own) for own, p in zip(seconds[name], plain)), 3
            ),
            "by task": per_task,
        }
        if total.get("drafted"):
            result[name] |= {
                "acceptance": round(total["accepted"] / total["drafted"], 4),
                "stays": round(total["accepted"] / (total["accepted"] + total["rejected"]), 4),
            }
    middle_text = max(prompts, key=len)[:96]
    costs = cost(target, draft, middle_text)
    found = result["by hand, draft"]
    return {
        "prompts": len(prompts),
        "tasks": len({row["task"] for row in chosen}),
        "rounds": rounds,
        "drafted": DRAFTED,
        "looked up": LOOKED_UP,
        "ways": result,
        "cost": costs,
        "formula": round(
            speculative.expected_speedup(
                found["stays"], DRAFTED, costs["draft pass / target pass"]
            ),
            3,
        ),
    }


def middle(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def cost(target: Any, draft: Any, ids: list[int], repeats: int = 15) -> dict[str, float]:
    """Measure milliseconds per pass after a text, as medians.

    The passes are over one new token, and for the target also over DRAFTED + 1.
    """

    def timed(model: Any, new: int) -> float:
        reader, took = speculative.Reader(model), []
        reader.read(ids, 1)
        for _ in range(repeats):
            started = time.perf_counter()
            reader.read(ids + ids[:new], new).argmax(
                -1
            ).tolist()  # tolist() waits until a GPU has finished
            took.append(time.perf_counter() - started)
            reader.forget(len(ids))
        return 1000 * statistics.median(took)

    with torch.inference_mode():
        one, five, small = timed(target, 1), timed(target, DRAFTED + 1), timed(draft, 1)
    return {
        "target pass, ms": round(one, 3),
        "target pass over 5, ms": round(five, 3),
        "draft pass, ms": round(small, 3),
        "draft pass / target pass": round(small / one, 4),
        "pass over 5 / pass over 1": round(five / one, 4),
    }


def graphed(model: Any, new: int, repeats: int = 30) -> float:
    """Measure milliseconds of a pass over `new` tokens replayed as a CUDA graph, as servers do it.

    This avoids the kernel launches that eager Python makes one by one. The pass reads no KV cache,
    which for a text of a hundred tokens is negligible beside the weights.
    """
    ids, stream = torch.full((1, new), 7, device="cuda"), torch.cuda.Stream()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(input_ids=ids, use_cache=False)
        torch.cuda.synchronize()
        graph, took = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph):
            model(input_ids=ids, use_cache=False)
        for _ in range(repeats):
            started = time.perf_counter()
            graph.replay()
            torch.cuda.synchronize()
            took.append(time.perf_counter() - started)
    return 1000 * statistics.median(took)


def shaped(name: str, layers: int | None, device: str) -> Any:
    """Create a released shape with random weights, with all its layers or cut to `layers`."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = family.config(name, **({"num_hidden_layers": layers} if layers else {}))
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16 if device != "cpu" else torch.float32)
        model = AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    return model.eval()


def simulated(
    target: Any, draft: Any, ids: list[int], acceptance: float | None, new: int, seed: int
) -> tuple[float, speculative.Decoded]:
    """Time `new` tokens, plain (`acceptance=None`) or with simulated acceptance.

    Each guess is kept independently with probability `acceptance`. Returns the seconds and the
    result.
    """
    original, generator = speculative.accept, torch.Generator().manual_seed(seed)

    def coin(
        p: torch.Tensor, q: torch.Tensor, drafted: list[int], _: Any = None
    ) -> tuple[int, int]:
        kept = original(p, q, drafted, generator)[1] * 0  # the rule's own work is part of the time
        while kept < len(drafted) and torch.rand((), generator=generator) < acceptance:
            kept += 1
        return kept, int(p[kept].argmax())

    speculative.accept = coin if acceptance is not None else original
    try:
        started = time.perf_counter()
        out = speculative.generate(
            target,
            ids,
            draft if acceptance is not None else None,
            drafted=DRAFTED,
            max_new_tokens=new,
            ends=set(),
            generator=generator,
        )
        return time.perf_counter() - started, out
    finally:
        speculative.accept = original


def shapes(pairs: Any, whole: bool, device: str, new: int, rounds: int) -> list[dict[str, Any]]:
    """Benchmark released shapes; the draft's layers are cut in proportion to the target's."""
    lines = []
    ids = torch.randint(0, 150_000, (128,), generator=torch.Generator().manual_seed(0)).tolist()
    for big, small in pairs:
        cut = (
            (None, None)
            if whole
            else (
                LAYERS,
                max(1, round(LAYERS * family.shape(small).layers / family.shape(big).layers)),
            )
        )
        target, draft = shaped(big, cut[0], device), shaped(small, cut[1], device)
        costs = cost(target, draft, ids)
        simulated(target, draft, ids, 0.8, 8, 0)  # warm-up
        line: dict[str, Any] = {
            "target": big,
            "draft": small,
            "layers": [target.config.num_hidden_layers, draft.config.num_hidden_layers],
            "whole": whole,
            "cost": costs,
            "new tokens": new,
            "speed-ups": [],
        }
        took: dict[Any, list[float]] = {a: [] for a in (None, *ACCEPTANCES)}
        kept: dict[float, list[int]] = {a: [0, 0, 0] for a in ACCEPTANCES}
        for number in range(rounds):
            for a in took:
                seconds, out = simulated(target, draft, ids, a, new, number)
                took[a].append(seconds)
                if a is not None:
                    kept[a] = [
                        x + y
                        for x, y in zip(kept[a], (out.drafted, out.accepted, out.target_passes))
                    ]
        for a in ACCEPTANCES:
            ratios = [plain / own for plain, own in zip(took[None], took[a])]
            line["speed-ups"].append(
                {
                    "acceptance": a,
                    "accepted of drafted": round(kept[a][1] / kept[a][0], 4),
                    "times faster": middle(ratios),
                    "slowest round": round(min(ratios), 3),
                    "tokens a pass": round(new * rounds / kept[a][2], 3),
                    "formula": round(
                        speculative.expected_speedup(a, DRAFTED, costs["draft pass / target pass"]),
                        3,
                    ),
                }
            )
        if device != "cpu":
            one, five, small_pass = (
                graphed(target, 1),
                graphed(target, DRAFTED + 1),
                graphed(draft, 1),
            )
            line["cost, CUDA graphs"] = {
                "target pass, ms": round(one, 3),
                "target pass over 5, ms": round(five, 3),
                "draft pass, ms": round(small_pass, 3),
                "draft pass / target pass": round(small_pass / one, 4),
                "pass over 5 / pass over 1": round(five / one, 4),
            }
            for entry in line["speed-ups"]:
                entry["times faster, CUDA graphs, from the passes' times"] = round(
                    speculative.expected_tokens(entry["acceptance"], DRAFTED)
                    * one
                    / (DRAFTED * small_pass + five),
                    3,
                )
        line["plain, tokens a second"] = round(new / statistics.median(took[None]), 2)
        lines.append(line)
        print(line, flush=True)
        del target, draft
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes-only", action="store_true", help="only the released shapes")
    parser.add_argument("--whole", action="store_true", help="all layers, for a GPU with 80 GB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "decoding.json")
    args = parser.parse_args()
    result = {} if args.shapes_only else {"tiny": tiny(args.rounds)}
    result["shapes"] = shapes(
        WHOLE if args.whole else PAIRS,
        args.whole,
        args.device,
        96 if args.whole else 24,
        args.rounds,
    )
    if args.device != "cpu":
        result["device"] = torch.cuda.get_device_name()
    options = " ".join(
        name
        for name, on in (
            ("--shapes-only", args.shapes_only),
            ("--whole", args.whole),
            (f"--device {args.device}", args.device != "cpu"),
        )
        if on
    )
    record.write(
        args.out, result, f"decoding.py {options}".strip(), ("torch", "transformers"), args.note
    )


if __name__ == "__main__":
    main()
