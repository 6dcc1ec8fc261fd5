"""Benchmark fine-tuning on a GPU: speed, memory and the planner's error for released shapes.

`python benchmarks/gpu.py` trains shapes with random weights by LoRA and full fine-tuning in a plain
loop: bfloat16 weights and float32 adapters for LoRA (rank 16, all linear layers, for a mixture of
experts only attention), float32 weights under autocast for full fine-tuning; AdamW; the head's loss
computed in chunks, as TRL does. The values of the weights do not change the cost of a step, so
random ones suffice. Writes its results after every line, to `data/benchmarks/gpu.json` or `--out`.

`--fast` also measures LoRA with what makes it fast: each decoder layer compiled, and the head's
loss and gradient in one pass. With bfloat16 adapters and, as in the plain loop, with float32 ones.
Written to `data/benchmarks/gpu_fast_<card>.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

import record
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from qwen3lab import family, memory, paths

LENGTH, WARM_UP, STEPS, CHUNK = 2048, 3, 8, 2048
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# (model, method, rows per step, checkpointing), the most important first.
LINES = [
    (name, "lora", rows, again)
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
LINES += [("0.6B", "full", 8, False), ("1.7B", "full", 4, True), ("4B", "full", 2, True)]


# (model, rows per step, adapters' dtype); the plain line of the same model is measured first, on
# the same GPU.
FAST = [
    (name, rows, kind)
    for name, rows in (("8B", 4), ("0.6B", 8), ("4B", 4), ("1.7B", 8))
    for kind in ("bfloat16", "float32")
]


class HeadLoss(torch.autograd.Function):
    """Fused loss of a frozen head: summed next-token loss and its gradient in the same pass.

    It takes two products per chunk, where recomputing takes three.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        total, gradient = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(hidden)
        for start in range(0, len(wanted), CHUNK):
            piece = slice(start, start + CHUNK)
            loss, slope = _loss_and_slope(hidden[piece] @ weight.T, wanted[piece])
            total += loss
            gradient[piece] = slope @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.saved_tensors[0] * above.to(ctx.saved_tensors[0].dtype), None, None


def _loss_and_slope(
    logits: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the summed loss of one chunk, and softmax minus one-hot in the logits' dtype."""
    logp = logits.float().log_softmax(-1)
    places = torch.arange(logits.shape[-1], device=logits.device)
    return -logp.gather(1, wanted[:, None]).sum(), (
        logp.exp() - (places == wanted[:, None]).float()
    ).to(logits.dtype)


def build(name: str, method: str, again: bool, device: str, adapters: str = "float32") -> Any:
    """Create the model on the device with random weights, ready to train."""
    from transformers import AutoModelForCausalLM

    config = family.config(name)
    torch.set_default_dtype(torch.bfloat16 if method == "lora" else torch.float32)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    if again:
        (
            getattr(model, "activation_checkpointing_enable", None)
            or model.gradient_checkpointing_enable
        )()
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        targets = ATTENTION if "A" in name else "all-linear"
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, adapters))
        if again:
            model.enable_input_require_grads()
    return model.train()


def speed_up(model: Any, backend: str = "inductor") -> None:
    """Compile each decoder layer, and the chunks of the head's loss."""
    global _loss_and_slope
    # what was compiled for the model before counts towards a limit, after which nothing is compiled
    torch.compiler.reset()
    for layer in model.get_base_model().model.layers:
        layer.compile(backend=backend)
    if not hasattr(_loss_and_slope, "_torchdynamo_orig_callable"):
        _loss_and_slope = torch.compile(_loss_and_slope, backend=backend)


def loss_of(model: Any, ids: torch.Tensor, fused: bool = False) -> torch.Tensor:
    """Compute the mean next-token loss; logits exist for one chunk at a time.

    `fused`: compute the gradient in the same pass (only for a frozen head).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    wanted, weight = ids[:, 1:].flatten(), base.lm_head.weight

    if fused:
        return HeadLoss.apply(hidden.to(weight.dtype), wanted, weight) / len(wanted)

    def part(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy((states.to(weight.dtype) @ weight.T).float(), targets, reduction="sum")

    sums = [
        checkpoint(part, states, targets, use_reentrant=False)
        for states, targets in zip(hidden.split(CHUNK), wanted.split(CHUNK))
    ]
    return torch.stack(sums).sum() / len(wanted)


def measure(
    name: str,
    method: str,
    rows: int,
    again: bool,
    device: str,
    length: int,
    *,
    fast: bool = False,
    adapters: str = "float32",
) -> dict[str, Any]:
    """Measure tokens per second and peak memory of one line."""
    cuda = device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build(name, method, again, device, adapters)
    if fast:
        speed_up(model, "inductor" if cuda else "aot_eager")
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True
    )
    ids = torch.randint(0, 1000, (rows, length), device=device)
    half = adapters == "bfloat16"  # nothing left to cast
    cast = (
        contextlib.nullcontext()
        if half or (method == "lora" and not cuda)
        else torch.autocast(device, torch.bfloat16)
    )
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
        with cast:
            loss = loss_of(model, ids, fast)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    planned = memory.plan(name, method, batch=rows, length=length, checkpointing=again).peak
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return {
        "model": name,
        "method": method,
        "rows": rows,
        "length": length,
        "checkpointing": again,
        "tokens a second": round(STEPS * rows * length / seconds),
        "peak bytes": peak,
        "planned bytes": planned,
        "planner's error": round(planned / peak - 1, 4) if peak else None,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "loss": round(loss.item(), 3),
        "adapters": adapters if method == "lora" else None,
        "compiled": fast,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="no new line is begun after so long"
    )
    parser.add_argument(
        "--try-out", action="store_true", help="one short line on this machine, nothing is written"
    )
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "gpu.json")
    parser.add_argument(
        "--fast", action="store_true", help="LoRA again, compiled, beside the plain loop"
    )
    args = parser.parse_args()
    if args.try_out and args.fast:
        for adapters, fast in (("bfloat16", False), ("bfloat16", True)):
            print(measure("0.6B", "lora", 1, False, "cpu", 64, fast=fast, adapters=adapters))
        return
    if args.try_out:
        for method in ("lora", "full"):
            print(measure("0.6B", method, 1, True, "cpu", 64))
        return
    torch.backends.cuda.matmul.allow_tf32 = True
    began, lines = time.perf_counter(), []
    if args.fast:
        plan = [
            ((name, "lora", rows, False), options)
            for name, rows, kind in FAST
            for options in ([{}] if kind == "bfloat16" else []) + [{"fast": True, "adapters": kind}]
        ]
        args.out = args.out.with_name(
            f"gpu_fast_{torch.cuda.get_device_name().split()[1].lower()}.json"
        )
    else:
        plan = [(line, {}) for line in LINES]
    for line, options in plan:
        if time.perf_counter() - began > args.seconds:
            break
        try:
            lines.append(measure(*line, "cuda", LENGTH, **options))
        except Exception as error:  # a line that fails is recorded and does not stop the others
            lines.append(
                dict(zip(("model", "method", "rows", "checkpointing"), line))
                | options
                | {"failed": f"{type(error).__name__}: {error}"[:200]}
            )
        print(lines[-1], f"after {time.perf_counter() - began:.0f} s", flush=True)
        record.write(
            args.out,
            {"card": torch.cuda.get_device_name(), "lines": lines},
            "gpu.py",
            ("torch", "transformers", "peft"),
            "a machine of its own with one GPU",
        )


if __name__ == "__main__":
    main()
