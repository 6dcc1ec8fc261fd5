"""Benchmark the forward pass of one layer of experts, by each implementation that runs on a CPU.

`python benchmarks/experts.py`. The router and the experts of a Qwen3 MoE layer with random weights
read random tokens. Only transformers' way of multiplying differs: a loop over experts (`eager`), a
copy of the chosen weights for every token (`batched_mm`), or tokens sorted by expert (`grouped_mm`,
the default). Writes `data/benchmarks/experts.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import record
import torch
from transformers import AutoModelForCausalLM

from qwen3lab import family, paths
from qwen3lab import measure as qwen3lab_measure

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
SIZES = {16: 4, 128: 8}  # experts per layer: per token; as qwen3-tiny-moe and Qwen3-30B-A3B
HIDDEN, WIDTH = 256, 128


def layer(experts: int, seed: int = 0) -> torch.nn.Module:
    """Create a one-layer model with random weights, whose layer of experts is measured."""
    torch.manual_seed(seed)
    config = family.config(
        "30B-A3B",
        num_hidden_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=64,
        bos_token_id=None,
        eos_token_id=None,
        moe_intermediate_size=WIDTH,
        num_experts=experts,
        num_experts_per_tok=SIZES[experts],
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@torch.inference_mode()
def measure(experts: int, tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Measure median, fastest and slowest of `repeats` passes per implementation.

    After a warm-up pass, CPU seconds are measured on one thread, which do not grow when other
    programs run. The implementations take turns, so that a busy moment of the machine affects all
    of them. Raises AssertionError when their results disagree.
    """
    model, x = layer(experts), torch.randn(1, tokens, HIDDEN)
    block, outputs, seconds = model.model.layers[0].mlp, {}, {name: [] for name in IMPLEMENTATIONS}
    for turn in range(repeats + 1):
        for name in IMPLEMENTATIONS:
            model.set_experts_implementation(name)
            started = time.process_time()
            outputs[name] = block(x)
            if turn:
                seconds[name].append(time.process_time() - started)
    assert all((outputs[name] - outputs["eager"]).abs().max() < 1e-5 for name in IMPLEMENTATIONS), (
        "the implementations disagree"
    )
    return [
        {
            "experts": experts,
            "experts a token": SIZES[experts],
            "implementation": name,
            "tokens": tokens,
            "repeats": repeats,
            "seconds": statistics.median(values),
            "fastest": min(values),
            "slowest": max(values),
            "tokens/s": tokens / statistics.median(values),
        }
        for name, values in seconds.items()
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "experts.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for experts in SIZES for row in measure(experts, args.tokens, args.repeats)]
    layer = {
        "hidden": HIDDEN,
        "width of an expert": WIDTH,
        "dtype": "float32",
        "threads": 1,
        "seconds": "of the processor",
    }
    record.write(
        args.out, {"layer": layer, "rows": rows}, "experts.py", ("torch", "transformers"), args.note
    )
    for row in rows:
        qwen3lab_measure.note(
            f"{row['experts']:>3} experts, {row['implementation']:<10} {row['seconds'] * 1000:8.1f}"
            f" ms ({row['tokens/s']:,.0f} tokens/s)"
        )


if __name__ == "__main__":
    main()
