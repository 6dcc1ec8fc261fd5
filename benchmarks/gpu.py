"""`python benchmarks/gpu.py`: LoRA and full fine-tuning of released shapes with random weights on a GPU: speed, memory, the planner's error.

A plain loop: bfloat16 weights and float32 adapters for LoRA (rank 16, all linear layers, attention alone for a mixture), float32
weights under autocast for full fine-tuning; AdamW; the head's loss taken in chunks, as TRL does. Weights do not change what a step
costs, so random ones serve. Writes what it has after every line, to `data/benchmarks/gpu.json` or `--out`.
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

LENGTH, WARM_UP, STEPS, CHUNK = 2048, 2, 4, 2048
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# (model, method, rows a step, checkpointing), the most wanted first.
LINES = [(name, "lora", rows, again) for name, rows, again in (
    ("0.6B", 8, False), ("1.7B", 8, False), ("4B", 4, False), ("8B", 4, False), ("8B", 8, True), ("4B", 8, True), ("30B-A3B", 4, True), ("0.6B", 8, True), ("1.7B", 8, True))]
LINES += [("0.6B", "full", 8, False), ("1.7B", "full", 4, True), ("4B", "full", 2, True)]


def build(name: str, method: str, again: bool, device: str) -> Any:
    """The model on the device with random weights, ready to train, or None where it has no room."""
    from transformers import AutoModelForCausalLM

    config = family.config(name)
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16 if method == "lora" else torch.float32)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    if again:
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        targets = ATTENTION if "A" in name else "all-linear"
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if again:
            model.enable_input_require_grads()
    return model.train()


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Mean loss of the next tokens; logits exist for one chunk at a time."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    wanted, weight = ids[:, 1:].flatten(), base.lm_head.weight

    def part(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy((states.to(weight.dtype) @ weight.T).float(), targets, reduction="sum")

    sums = [checkpoint(part, states, targets, use_reentrant=False) for states, targets in zip(hidden.split(CHUNK), wanted.split(CHUNK))]
    return torch.stack(sums).sum() / len(wanted)


def measure(name: str, method: str, rows: int, again: bool, device: str, length: int) -> dict[str, Any]:
    """Steps a second and the peak of one line."""
    cuda = device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build(name, method, again, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    ids = torch.randint(0, 1000, (rows, length), device=device)
    cast = torch.autocast(device, torch.bfloat16) if method == "full" or cuda else contextlib.nullcontext()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
        with cast:
            loss = loss_of(model, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    planned = memory.plan(name, method, batch=rows, length=length, checkpointing=again).peak
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return {"model": name, "method": method, "rows": rows, "length": length, "checkpointing": again, "tokens a second": round(STEPS * rows * length / seconds),
            "peak bytes": peak, "planned bytes": planned, "planner's error": round(planned / peak - 1, 4) if peak else None,
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad), "loss": round(loss.item(), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1e9, help="no new line is begun after so long")
    parser.add_argument("--try-out", action="store_true", help="one short line on this machine, nothing is written")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "gpu.json")
    args = parser.parse_args()
    if args.try_out:
        for method in ("lora", "full"):
            print(measure("0.6B", method, 1, True, "cpu", 64))
        return
    torch.backends.cuda.matmul.allow_tf32 = True
    began, lines = time.perf_counter(), []
    for line in LINES:
        if time.perf_counter() - began > args.seconds:
            break
        try:
            lines.append(measure(*line, "cuda", LENGTH))
        except Exception as error:  # a line that fails is told and does not end the others
            lines.append(dict(zip(("model", "method", "rows", "checkpointing"), line)) | {"failed": f"{type(error).__name__}: {error}"[:200]})
        print(lines[-1], f"after {time.perf_counter() - began:.0f} s", flush=True)
        record.write(args.out, {"card": torch.cuda.get_device_name(), "lines": lines}, "gpu.py", ("torch", "transformers", "peft"), "a machine of its own with one GPU")


if __name__ == "__main__":
    main()
