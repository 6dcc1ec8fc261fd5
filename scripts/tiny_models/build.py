"""Build the bundled models, stage by stage; an interrupted stage resumes where it stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from scripts.tiny_models import shapes
from scripts.tiny_models import tokenizer as tokenizers
from scripts.tiny_models.pretrain import Recipe, train

TEXT = Recipe("dense", "text", steps=200, tokens=8192, cooldown=0.0)
CHAT = Recipe("dense", "chat", steps=3200)
# The last steps of each chat model, at the end of the curriculum and at a low rate.
POLISH = Recipe(
    "polish",
    "chat",
    steps=200,
    matrix_lr=0.006,
    other_lr=1e-3,
    warmup=10,
    cooldown=0.8,
    start=1.0,
    worked=0.5,
)
STAGES = ("dense", "moe", "draft", "embedding", "vision")
SMOKE = dict(steps=3, tokens=1024, warmup=2)


def tokenizer(work: Path, smoke: bool = False):
    """Load the tokenizer in `work`; train it first if it is not there."""
    from transformers import AutoTokenizer

    folder, spread = work / "tokenizer", torch.distributed.is_initialized()
    if not (folder / "tokenizer.json").exists() and _leads():
        tokenizers.build(folder, 2000 if smoke else 40_000)
    if spread:
        torch.distributed.barrier()
    return AutoTokenizer.from_pretrained(folder)


def export(model, tok, folder: Path) -> None:
    """Save a model in bfloat16 with its tokenizer, as `from_pretrained` reads it."""
    import copy

    half = copy.deepcopy(model).to("cpu", torch.bfloat16)
    half.config.dtype = "bfloat16"
    half.generation_config.update(
        do_sample=False,
        eos_token_id=[tok.eos_token_id, tok.pad_token_id],
        pad_token_id=tok.pad_token_id,
    )
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    half.save_pretrained(fresh)
    tok.save_pretrained(fresh)
    folder.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.replace(folder / file.name)
    fresh.rmdir()


def dense(work: Path, models: Path, *, smoke: bool = False, device: str = "cpu") -> None:
    """Build `qwen3-tiny-base` from plain text, then `qwen3-tiny` from chat rows."""
    from transformers import Qwen3ForCausalLM

    tok = tokenizer(work, smoke)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(shapes.dense(tok))
    for recipe, folder, name in (
        (TEXT, "dense-text", "qwen3-tiny-base"),
        (CHAT, "dense-chat", "qwen3-tiny"),
        (POLISH, "dense-polish", "qwen3-tiny"),
    ):
        _one_stage(model, tok, recipe, work / folder, models / name, smoke, device)


MOE = Recipe(
    "moe",
    "chat",
    steps=180,
    matrix_lr=0.01,
    other_lr=2e-3,
    warmup=20,
    cooldown=0.5,
    start=0.6,
    balance=0.05,
)
DRAFT = Recipe("draft", "chat", steps=2400, matrix_lr=0.02, other_lr=4e-3)
# Two layers learn to copy late: a second stage stays at the point of the curriculum with most
# repeating and looking up.
COPY = Recipe(
    "draft-copy", "chat", steps=1500, matrix_lr=0.02, other_lr=3e-3, cooldown=0.5, until=0.3
)


def moe(work: Path, models: Path, *, smoke: bool = False, device: str = "cpu") -> None:
    """Build `qwen3-tiny-moe`: upcycled from the dense model, then trained on chat rows.

    The load-balancing loss is part of the training.
    """
    from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM

    from scripts.tiny_models.upcycle import upcycle

    tok = tokenizer(work, smoke)
    start = Qwen3ForCausalLM.from_pretrained(models / "qwen3-tiny", dtype=torch.float32)
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(shapes.moe(tok))
    upcycle(start, model)
    for recipe, folder in (
        (MOE, work / "moe-chat"),
        (replace(POLISH, balance=MOE.balance), work / "moe-polish"),
    ):
        _one_stage(model, tok, recipe, folder, models / "qwen3-tiny-moe", smoke, device)


def draft(work: Path, models: Path, *, smoke: bool = False, device: str = "cpu") -> None:
    """Build `qwen3-tiny-draft`: two small layers, trained from scratch on the target's data."""
    from transformers import Qwen3ForCausalLM

    tok = tokenizer(work, smoke)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(shapes.draft(tok))
    for recipe, folder in (
        (DRAFT, work / "draft-chat"),
        (COPY, work / "draft-copy"),
        (
            replace(POLISH, steps=150, start=COPY.until, until=COPY.until, worked=0.0),
            work / "draft-polish",
        ),
    ):
        _one_stage(model, tok, recipe, folder, models / "qwen3-tiny-draft", smoke, device)


def _one_stage(
    model, tok, recipe: Recipe, folder: Path, target: Path, smoke: bool, device: str
) -> None:
    recipe = replace(recipe, **SMOKE) if smoke else recipe
    if (folder / "done.json").exists():
        # A tied head has no entry.
        model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        return
    totals = train(
        model, tok, recipe, folder, on_save=lambda m, step: export(m, tok, target), device=device
    )
    if _leads():
        (folder / "done.json").write_text(json.dumps(totals))


def _leads() -> bool:
    """Tell whether this process writes: the first worker, or the only one."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def embedding(work: Path, models: Path, *, smoke: bool = False, device: str = "cpu") -> None:
    """Build `qwen3-tiny-embedding`: the dense model's body with contrastive training.

    It is trained on the world's questions and passages.
    """
    from scripts.tiny_models.embedding import RECIPE, train_embedding

    folder = work / "embedding"
    if not (folder / "done.json").exists():
        totals = train_embedding(
            models / "qwen3-tiny",
            models / "qwen3-tiny-embedding",
            folder,
            RECIPE.steps,
            smoke=smoke,
        )
        (folder / "done.json").write_text(json.dumps(totals))


def vision(work: Path, models: Path, *, smoke: bool = False, device: str = "cpu") -> None:
    """Build `qwen3-tiny-vl`: the chat model with a vision encoder, trained on generated pictures.

    First the encoder alone, then the decoder. `device` is not used: two cores are enough.
    """
    from transformers import AutoTokenizer

    from qwen3lab import chat
    from scripts.tiny_models import vision as stages

    encoder, whole = stages.ENCODER, stages.WHOLE
    if smoke:
        encoder, whole = (replace(recipe, steps=3, pictures=4) for recipe in (encoder, whole))
    start, target = models / "qwen3-tiny", models / "qwen3-tiny-vl"
    tok = AutoTokenizer.from_pretrained(start)
    tok.chat_template = chat.template("qwen3_vl")

    def save(model, step: int) -> None:
        export(model, tok, target)
        stages.processor().save_pretrained(target)

    model, folder = stages.build(start, tok), work / encoder.name
    if (folder / "done.json").exists():
        model.model.visual.load_state_dict(load_file(folder / "weights.safetensors"))
    else:
        totals = stages.train_encoder(model, tok, encoder, folder)
        save_file(model.model.visual.state_dict(), folder / "weights.safetensors")
        (folder / "done.json").write_text(json.dumps(totals))
    if not (work / whole.name / "done.json").exists():
        totals = stages.train(model, tok, whole, work / whole.name, on_save=save)
        (work / whole.name / "done.json").write_text(json.dumps(totals))
