"""Training loop of the tiny language models: packed plain text, then chat rows by length.

Chat batches hold rows of equal length. The data of step `s` depends only on the seed and `s`, so a
resumed run equals an uninterrupted one. With several workers each takes its share of every step's
rows and gradients are summed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from qwen3lab.world import corpus
from scripts.tiny_models.encode import Encoder
from scripts.tiny_models.muon import Muon


@dataclass
class Recipe:
    """Recipe of one training stage: `steps` of about `tokens` tokens, and a learning-rate schedule.

    The learning rate warms up, stays, and cools down.
    """

    name: str
    # "text": every token of packed documents; "chat": the assistant's tokens of chat rows
    stage: str
    steps: int
    tokens: int = 6144
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    warmup: int = 50
    cooldown: float = 0.4
    start: float = 0.0  # where on the curriculum the stage begins
    until: float = 1.0  # and where it ends
    worked: float = 0.0  # share of rows that are sums with thoughts, beyond the curriculum's own
    block: int = 256
    seed: int = 0
    balance: float = 0.0  # weight of the load-balancing loss

    def rate(self, step: int) -> float:
        """Compute the learning rate of `step` as a fraction of the full one."""
        left = (self.steps - step) / max(1, round(self.steps * self.cooldown))
        return min(1.0, (step + 1) / self.warmup, left)


def batches(
    recipe: Recipe, encoder: Encoder, step: int, worker: int, workers: int, largest: int = 4096
):
    """Build the micro-batches of one worker in one step.

    They are lists of (ids, weights), at most `largest` tokens with padding.
    """
    rng = random.Random(f"{recipe.name}-{recipe.stage}-{recipe.seed}-{step}-{worker}")
    budget, rows = recipe.tokens // workers, []
    if recipe.stage == "text":
        stream: list[int] = []
        while len(stream) < budget:
            stream += encoder.document(corpus.plain_text(rng))
        size = recipe.block
        rows = [(stream[i : i + size], [1.0] * size) for i in range(0, budget - size + 1, size)]
    else:
        progress = recipe.start + (recipe.until - recipe.start) * step / recipe.steps
        while budget > 0:
            row = encoder.row(corpus.sample(rng, progress, worked=recipe.worked))
            if len(row[0]) <= 512:
                rows.append(row)
                budget -= len(row[0])
    rows.sort(key=lambda r: len(r[0]))
    batch: list = []
    for row in rows:
        if (
            batch
            and len(row[0]) * (len(batch) + 1) > largest
            or batch
            and len(row[0]) > 1.3 * len(batch[0][0]) + 8
        ):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def collate(batch, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad ids `[B, S]` and target weights `[B, S]`; causal attention never sees padding."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([i + [pad] * (width - len(i)) for i, _ in batch])
    weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in batch])
    return ids, weights


def loss_sum(
    model, ids, weights, pad: int, balance: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the weighted loss sum, the sum of the weights, and the load-balancing loss.

    The last is 0 for a dense model. The head is applied only to the trained positions: most
    positions are prompt.
    """
    extra = {"output_router_logits": True} if balance else {}
    out = model.model(ids, use_cache=False, **extra)
    target_weights = weights[:, 1:]
    chosen = target_weights > 0
    logits = out.last_hidden_state[:, :-1][chosen] @ model.get_output_embeddings().weight.T
    losses = F.cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")
    w = target_weights[chosen]
    aux = torch.zeros((), device=ids.device)
    if balance:
        from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

        # Layer by layer: given all layers at once, the function averages them, and layers that each
        # use their own few experts pass for balanced.
        experts, k, mask = (
            model.config.num_experts,
            model.config.num_experts_per_tok,
            (ids != pad).long(),
        )
        aux = sum(
            load_balancing_loss_func((logits,), experts, k, mask) for logits in out.router_logits
        ) / len(out.router_logits)
    return (losses * w).sum(), w.sum(), aux


def optimizers(model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Build the optimisers: Muon for the blocks' matrices, AdamW for embeddings, norms, routers."""
    matrices, other = [], []
    for name, p in model.named_parameters():
        inside = ".layers." in name and p.ndim >= 2 and ".gate.weight" not in name
        (matrices if inside else other).append(p)
    return [
        Muon(matrices, lr=recipe.matrix_lr),
        torch.optim.AdamW(
            other, lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def update(optims: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Take a step of each optimiser at a fraction of its full rate, then drop the gradients."""
    for optim in optims:
        optim.param_groups[0]["lr"] = optim.defaults["lr"] * rate
        optim.step()
        optim.zero_grad(set_to_none=True)


def save_state(folder: Path, model, optims, step: int, spent: dict) -> None:
    """Save model, optimiser tensors and step as safetensors and JSON, then swap the folder in."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {id(p): n for n, p in model.named_parameters()}
    tensors = {}
    for i, optim in enumerate(optims):
        for p, state in optim.state.items():
            for key, value in state.items():
                tensors[f"{i}/{names[id(p)]}/{key}"] = (
                    torch.as_tensor(value).detach().contiguous().cpu()
                )
    save_file(tensors, folder / "optimizer.safetensors.new", metadata={"step": str(step)})
    save_file(
        {n: p.detach().contiguous().cpu() for n, p in model.named_parameters()},
        folder / "weights.safetensors.new",
    )
    for name in ("optimizer", "weights"):
        (folder / f"{name}.safetensors.new").replace(folder / f"{name}.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step, **spent}))


def load_state(folder: Path, model, optims) -> dict:
    """Load a saved state into `model` and `optims`; return the step and the totals so far."""
    weights = load_file(folder / "weights.safetensors")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name, field = key.split("/")
        p = parameters[name]
        optims[int(index)].state[p][field] = value.to(p.device) if field != "step" else value
    return json.loads((folder / "step.json").read_text())


def train(
    model,
    tokenizer,
    recipe: Recipe,
    folder: Path,
    *,
    save_every: int = 100,
    on_save=None,
    device: str = "cpu",
) -> dict:
    """Run (or resume) one stage and return its totals: steps, tokens, trained tokens, seconds.

    Writes `log.jsonl` (step, loss, learning rate, tokens, seconds) and a resumable state into
    `folder`; `on_save(model, step)` is called after each save.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    worker, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    encoder, pad = Encoder(tokenizer), tokenizer.pad_token_id
    model.to(device).train()
    optims = optimizers(model, recipe)
    totals = {"step": 0, "tokens": 0, "trained_tokens": 0, "seconds": 0.0}
    if (folder / "step.json").exists():
        totals = load_state(folder, model, optims)
    parameters = [p for p in model.parameters()]
    began, recent = time.time() - totals["seconds"], []
    for step in range(totals["step"], recipe.steps):
        rate = recipe.rate(step)
        sums = torch.zeros(4)  # loss, weight, tokens, trained tokens
        parts = list(batches(recipe, encoder, step, worker, workers))
        for part in parts:
            ids, weights = (t.to(device) for t in collate(part, pad))
            loss, weight, aux = loss_sum(model, ids, weights, pad, recipe.balance)
            (loss + recipe.balance * aux * weight.detach()).backward()
            sums += torch.tensor(
                [
                    loss.item(),
                    weight.item(),
                    float(sum(len(i) for i, _ in part)),
                    float((weights > 0).sum()),
                ]
            )
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        if workers > 1:
            dist.all_reduce(flat)
            dist.all_reduce(sums)
        flat /= sums[1]
        norm = flat.norm().item()
        flat *= min(1.0, 1.0 / (norm + 1e-6))
        at = 0
        for p in parameters:
            if p.grad is not None:
                p.grad.copy_(flat[at : at + p.numel()].view_as(p))
                at += p.numel()
        update(optims, rate)
        loss = (sums[0] / sums[1]).item()
        if loss != loss or loss == float("inf"):
            raise FloatingPointError(
                f"The loss of step {step} is {loss}. Lower the learning rates of the recipe."
            )
        recent.append(loss)
        totals.update(
            step=step + 1,
            tokens=totals["tokens"] + int(sums[2]),
            trained_tokens=totals["trained_tokens"] + int(sums[3]),
            seconds=round(time.time() - began, 1),
        )
        if worker == 0 and ((step + 1) % 20 == 0 or step + 1 == recipe.steps):
            line = {
                "stage": recipe.stage,
                "step": step + 1,
                "loss": round(sum(recent) / len(recent), 4),
                "rate": round(rate, 4),
                "norm": round(norm, 3),
                "tokens": totals["tokens"],
                "seconds": totals["seconds"],
            }
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            recent = []
        if worker == 0 and ((step + 1) % save_every == 0 or step + 1 == recipe.steps):
            save_state(
                folder, model, optims, step + 1, {k: v for k, v in totals.items() if k != "step"}
            )
            if on_save:
                on_save(model, step + 1)
                model.train()
    if workers > 1:
        dist.barrier()  # the next stage starts from what the first worker has just saved
    return {**totals, "recipe": asdict(recipe), "workers": workers}
