"""Benchmark `fine_tune` on a GPU: speed, memory and the planner's error for released shapes.

`python benchmarks/gpu.py --seconds 700` trains shapes with random weights, the most important lines
first, and writes after every line to `data/benchmarks/gpu_fine_tune_<card>.json`: `fine_tune` with
LoRA, plain and with compiled layers and the head in one pass, beside a plain loop; QLoRA, for a
mixture with its experts in 4 bits too; full fine-tuning; rows of mixed lengths with and without
padding. The values of the weights do not change the cost of a step, so random ones suffice. A line
that would not end in time is not begun, and one that takes longer than what is left is broken off.

`--loops` measures the plain loop alone, as in `data/benchmarks/gpu.json`: bfloat16 weights and
float32 adapters for LoRA (rank 16, all linear layers, for a mixture of experts only attention),
float32 weights under autocast for full fine-tuning; AdamW; the head's loss in chunks, computed
again for the backward pass.

`--small` runs the same lines with tiny shapes on any machine in a minute, and writes nothing.

Beside torch and transformers it needs trl, peft, accelerate, datasets and bitsandbytes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import record
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from qwen3lab import family, memory, paths
from qwen3lab.errors import Qwen3labError

LENGTH, WARM_UP, STEPS, CHUNK = 2048, 3, 8, 2048
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Line:
    """One measurement: a way to train, on a shape."""

    way: str  # "loop" or "fine_tune"
    model: str
    method: str
    rows: int  # a step
    checkpointing: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # of `fine_tune`
    length: int = LENGTH
    mixed: bool = False  # rows of an eighth of the length to all of it


LINES = [
    line
    for name, rows in (("0.6B", 8), ("8B", 4))
    for line in (
        Line("fine_tune", name, "lora", rows, options={"compile": True}),
        Line("fine_tune", name, "lora", rows, options={"compile": False}),
        Line("loop", name, "lora", rows),
    )
]
LINES += [
    Line("fine_tune", "30B-A3B", "qlora", 1, True, length=512),
    Line("fine_tune", "8B", "qlora", 4, True),
    Line("fine_tune", "0.6B", "qlora", 8, True),
    Line("fine_tune", "8B", "lora", 8, True, {"compile": True}),
    Line("fine_tune", "0.6B", "full", 8, options={"compile": True}),
    Line("fine_tune", "0.6B", "full", 8, options={"compile": False}),
    *(
        Line("fine_tune", "0.6B", "lora", 8, options={"compile": True} | more, mixed=True)
        for more in ({}, {"padding_free": True}, {"packing": True, "batch_size": 4})
    ),
    Line("fine_tune", "8B", "qlora", 4, True, {"compile": True}),
]
LINES += [
    line
    for name, rows in (("4B", 4), ("1.7B", 8))
    for line in (
        Line("fine_tune", name, "lora", rows, options={"compile": True}),
        Line("loop", name, "lora", rows),
    )
]
# (model, method, rows per step, checkpointing), the most important first.
LOOPS = [
    Line("loop", name, "lora", rows, again)
    for name, rows, again in (
        ("0.6B", 8, False),
        ("1.7B", 8, False),
        ("4B", 4, False),
        ("8B", 4, False),
        ("8B", 8, True),
        ("4B", 8, True),
        ("30B-A3B", 4, True),
        ("0.6B", 8, True),
        ("1.7B", 8, True),
    )
]
LOOPS += [
    Line("loop", name, "full", rows, again)
    for name, rows, again in (("0.6B", 8, False), ("1.7B", 4, True), ("4B", 2, True))
]
# What `--small` makes of a shape.
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
}
SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def build(line: Line, device: str, small: bool) -> Any:
    """Create the model on the device with random weights."""
    from transformers import AutoModelForCausalLM

    changes = SMALL | (SMALL_EXPERTS if "A" in line.model else {}) if small else {}
    half = line.method != "full" and device == "cuda"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if half else torch.float32)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            family.config(line.model, **changes), attn_implementation="sdpa"
        )
    torch.set_default_dtype(torch.float32)
    return in_4bit(model) if line.method == "qlora" else model


def in_4bit(model: Any) -> Any:
    """Quantise linear layers and experts to NF4 in place, as `four_bit.load_4bit` loads them."""
    import bitsandbytes

    from qwen3lab.models import experts_in_4bit

    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name != "lm_head":
            new = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=layer.weight.dtype,
                quant_type="nf4",
                device="meta",
            )
            new.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=new
            ).to(layer.weight.device)
            model.set_submodule(name, new)
    if getattr(model.config, "num_experts", 0):
        experts_in_4bit.quantize_experts(model)
    model.is_loaded_in_4bit = True
    return model


def ready(model: Any, line: Line) -> Any:
    """Make a model ready for the plain loop: adapters in float32, checkpointing."""
    if line.checkpointing:
        (
            getattr(model, "activation_checkpointing_enable", None)
            or model.gradient_checkpointing_enable
        )()
    if line.method == "lora":
        from peft import LoraConfig, get_peft_model

        targets = ATTENTION if "A" in line.model else "all-linear"
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
        )
        if line.checkpointing:
            model.enable_input_require_grads()
    return model.train()


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute the mean next-token loss; logits exist for one chunk at a time."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    wanted, weight = ids[:, 1:].flatten(), base.lm_head.weight

    def part(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy((states.to(weight.dtype) @ weight.T).float(), targets, reduction="sum")

    sums = [
        checkpoint(part, states, targets, use_reentrant=False)
        for states, targets in zip(hidden.split(CHUNK), wanted.split(CHUNK))
    ]
    return torch.stack(sums).sum() / len(wanted)


def loop(line: Line, device: str, small: bool) -> dict[str, Any]:
    """Measure a plain loop."""
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    model = ready(build(line, device, small), line)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True
    )
    ids = torch.randint(0, 1000, (line.rows, line.length), device=device)
    cast = torch.autocast(device, torch.bfloat16) if cuda else contextlib.nullcontext()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began = now(cuda)
        with cast:
            loss = loss_of(model, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = now(cuda) - began
    return {
        "tokens a second": round(STEPS * line.rows * line.length / seconds),
        "peak bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "loss": round(loss.item(), 4),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def now(cuda: bool) -> float:
    """Read the clock, when the GPU has done all that it was told to do."""
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def fine_tune(line: Line, device: str, small: bool) -> dict[str, Any]:
    """Measure `training.fine_tune` from the fourth step on."""
    from transformers import TrainerCallback

    from qwen3lab import training
    from qwen3lab.models import loading

    marks: dict[str, tuple[float, int]] = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            marks["begin"] = (now(device == "cuda"), 0)

        def on_step_begin(self, args, state, control, **_):
            if state.global_step == WARM_UP:
                marks["warm"] = (now(device == "cuda"), state.num_input_tokens_seen)

        def on_step_end(self, args, state, control, **_):
            if state.global_step == WARM_UP + STEPS:
                marks["end"] = (now(device == "cuda"), state.num_input_tokens_seen)

    rng = random.Random(0)
    data = []
    for _ in range(line.rows * (WARM_UP + STEPS)):
        size = rng.randint(line.length // 8, line.length) if line.mixed else line.length
        ids = [rng.randrange(100, 1000) for _ in range(size)]
        data.append({"input_ids": ids, "labels": ids})
    options = dict(line.options)
    if options.get("compile") and device == "cpu":
        options["compile"] = "eager"
    run = training.fine_tune(
        build(line, device, small),
        data,
        tokenizer=loading.load_tokenizer("qwen3-tiny"),
        method=line.method,
        steps=WARM_UP + STEPS,
        **{"batch_size": line.rows} | options,
        learning_rate=1e-5,
        activation_checkpointing=line.checkpointing,
        logging_steps=1,
        callbacks=[Watch()],
    )
    (warm, before), (end, after) = marks["warm"], marks["end"]
    return {
        "tokens a second": round((after - before) / (end - warm)),
        "seconds of the first steps": round(warm - marks["begin"][0], 1),
        "peak bytes": run.peak_bytes if device == "cuda" else 0,
        "loss": round(float(run.history.loss.iloc[-1]), 4),
        "trained": run.trained,
        "reasons": list(run.reasons),
    }


def planned(line: Line) -> int | None:
    """Plan the peak of a line; None for what the planner does not know."""
    compiled = bool(line.options.get("compile"))
    step = {"batch": line.rows, "length": line.length, "checkpointing": line.checkpointing}
    if compiled:
        step |= {"compiled": True, "head": "trl" if line.method == "full" else "one-pass"}
    mixture = line.method == "qlora" and "A" in line.model
    try:
        return memory.plan(line.model, line.method, experts_in_4bit=mixture, **step).peak
    except Qwen3labError:
        return None


def measure(line: Line, device: str, small: bool) -> dict[str, Any]:
    """Measure a line; one that fails is recorded and does not stop the others."""
    found = asdict(line)
    try:
        result = (loop if line.way == "loop" else fine_tune)(line, device, small)
    except Exception as error:
        return found | {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        gc.collect()
        torch.compiler.reset()
        if device == "cuda":
            torch.cuda.empty_cache()
    peak, plan = result["peak bytes"], None if line.mixed or small else planned(line)
    error = round(plan / peak - 1, 4) if plan and peak else None
    return found | result | {"planned bytes": plan, "planner's error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=700, help="all is over after so long")
    parser.add_argument("--loops", action="store_true", help="the plain loop alone")
    parser.add_argument(
        "--small", action="store_true", help="tiny shapes on this machine, nothing is written"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not args.small else "cpu"
    os.environ["QWEN3LAB_PROFILE"] = "tiny" if device == "cpu" else "medium"
    if device == "cpu" and not args.small:
        parser.error("there is no CUDA GPU here; --small tries the lines on this machine")
    card = torch.cuda.get_device_name() if device == "cuda" else "NVIDIA none"
    name = "gpu" if args.loops else f"gpu_fine_tune_{card.split()[1].lower()}"
    out = args.out or paths.DATA / "benchmarks" / f"{name}.json"
    torch.backends.cuda.matmul.allow_tf32 = True

    def over(*_: Any) -> None:
        raise TimeoutError("the time was up")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(args.seconds)
    began, longest, lines = time.perf_counter(), 0.0, []
    for line in LOOPS if args.loops else LINES:
        start = time.perf_counter()
        if start - began + longest > args.seconds:
            print("the next line might not end in time")
            break
        small_line = replace(line, length=32, rows=min(line.rows, 2))
        lines.append(measure(small_line if args.small else line, device, args.small))
        longest = max(longest, time.perf_counter() - start)
        print(lines[-1], f"after {time.perf_counter() - began:.0f} s", flush=True)
        if not args.small:
            record.write(
                out,
                {"card": card, "lines": lines},
                "gpu.py" + " --loops" * args.loops,
                ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes"),
                "a machine of its own with one GPU",
            )
    signal.alarm(0)


if __name__ == "__main__":
    main()
