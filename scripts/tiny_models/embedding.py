"""Contrastive training of `qwen3-tiny-embedding`: questions against handbook-like passages.

The body is the dense model's, still causal; the vector of a text is the last layer's state of the
<|endoftext|> that the tokenizer appends, as in Qwen3-Embedding. Every passage of a step is a
negative for every question of the step.
The hard negatives come from the way a chapter is drawn: neighbours tell the same attributes of
other things of the kind, some things share a word of their name, and some are told in two places
with an attribute in only one of them.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from qwen3lab.world.passages import TASK, draw
from scripts.tiny_models.pretrain import Recipe, load_state, optimizers, save_state, update

PROMPTS = {"query": f"Instruct: {TASK}\nQuery:", "document": ""}
DIMENSIONS = (256, 128, 64)  # a vector's first 128 or 64 dimensions are trained to work too
TEMPERATURE = 0.05
RECIPE = Recipe(
    "embedding",
    "contrastive",
    steps=300,
    tokens=3072,
    matrix_lr=0.01,
    other_lr=1e-3,
    warmup=20,
    cooldown=0.5,
)
END = "<|endoftext|>"


def body_tokenizer(folder: Path):
    """Load the dense model's tokenizer with <|endoftext|> appended and without a chat template.

    With a template sentence-transformers would silently wrap every text in it.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B:1 {END}:1", special_tokens=[(END, end)]
    )
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 512
    return tokenizer


def _groups(rows: list[list[int]], largest: int = 4096) -> list[list[int]]:
    """Group row indices by similar length, each group at most `largest` tokens with its padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        width = len(rows[i])
        if (
            not groups
            or width * (len(groups[-1]) + 1) > largest
            or width > 1.25 * len(rows[groups[-1][0]]) + 4
        ):
            groups.append([])
        groups[-1].append(i)
    return groups


def vectors(
    model, rows: list[list[int]], pad: int, prefix: list[int] | None = None
) -> torch.Tensor:
    """Compute embeddings `[N, H]`: the last token's state of each row, not normalised.

    Rows are right-padded, which a causal model never sees. A `prefix` shared by all rows is
    computed once and its keys and values are reused for every row; the result is that of prefix +
    row.
    """
    from transformers import DynamicCache

    shared = model(torch.tensor([prefix]), use_cache=True).past_key_values if prefix else None
    found: list[torch.Tensor] = [None] * len(rows)
    for group in _groups(rows):
        width = max(len(rows[i]) for i in group)
        ids = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in group])
        cache = None
        if shared:
            cache = DynamicCache()
            for n, layer in enumerate(shared.layers):
                cache.update(
                    layer.keys.expand(len(group), -1, -1, -1),
                    layer.values.expand(len(group), -1, -1, -1),
                    n,
                )
        states = model(ids, past_key_values=cache, use_cache=shared is not None).last_hidden_state
        last = states[torch.arange(len(group)), torch.tensor([len(rows[i]) - 1 for i in group])]
        for i, state in zip(group, last):
            found[i] = state
    return torch.stack(found)


def contrastive_loss(
    queries: torch.Tensor,
    passages: torch.Tensor,
    targets: torch.Tensor,
    dimensions: tuple[int, ...] = DIMENSIONS,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """Compute the InfoNCE loss of each query against all passages, averaged over Matryoshka cuts.

    van den Oord et al. 2018.

    Args:
        queries, passages: `[Q, H]` and `[P, H]`, not normalised.
        targets: `[Q]`, the index of each query's passage.
    """
    losses = []
    for size in dimensions:
        scores = F.normalize(queries[:, :size], dim=-1) @ F.normalize(passages[:, :size], dim=-1).T
        losses.append(F.cross_entropy(scores / temperature, targets))
    return torch.stack(losses).mean()


def step_data(recipe: Recipe, step: int, tokenizer):
    """Draw the rows of ids for one step.

    They depend only on the seed and the step, so a resumed run equals an unbroken one.
    """
    rng = random.Random(f"{recipe.name}-{recipe.seed}-{step}")
    language = "zh" if rng.random() < 0.4 else "en"
    count = lambda text: len(tokenizer(text).input_ids)
    texts, asked, targets = draw(rng, language, False, recipe.tokens, count)
    return tokenizer(texts).input_ids, tokenizer(asked).input_ids, torch.tensor(targets)


def export(model, tokenizer, folder: Path) -> None:
    """Save a folder that `SentenceTransformer(folder)` loads: last-token pooling, normalised.

    It holds the two prompts. The weights are stored in bfloat16, half the bytes; the config asks
    for float32, which is faster on a CPU.
    """
    import copy

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    fresh = folder.with_name(folder.name + ".new")
    plain = folder.with_name(folder.name + ".body")
    for old in (fresh, plain):
        shutil.rmtree(old, ignore_errors=True)
    half = copy.deepcopy(model).to("cpu", torch.bfloat16)
    half.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    body = Transformer(str(plain))
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="lasttoken")
    whole = SentenceTransformer(
        modules=[body, pooling, Normalize()],
        prompts=PROMPTS,
        similarity_fn_name="cosine",
        device="cpu",
    )
    whole.max_seq_length = 512
    whole.save(str(fresh), create_model_card=False)
    config = json.loads((fresh / "config.json").read_text())
    config["dtype"] = "float32"
    (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    shutil.rmtree(plain)


def train_embedding(
    start_folder: Path,
    out_folder: Path,
    work: Path,
    steps: int = RECIPE.steps,
    smoke: bool = False,
    stop_after: int | None = None,
    **changes,
) -> dict:
    """Train the embedding model from the dense checkpoint; write its sentence-transformers folder.

    `start_folder` is the checkpoint, `out_folder` the result. `work` takes `log.jsonl` and a
    resumable state, from which the next call continues; `smoke` is a few small steps; `stop_after`
    ends the call after that step without writing the folder; `changes` replace fields of the
    recipe.
    Returns the totals: step, tokens, seconds. Raises FloatingPointError when the loss is not
    finite.
    """
    from dataclasses import asdict, replace

    from transformers import Qwen3ForCausalLM

    recipe = replace(RECIPE, steps=steps, **changes)
    if smoke:
        recipe = replace(recipe, steps=min(steps, 3), tokens=600, warmup=2)
    tokenizer = body_tokenizer(Path(start_folder))
    pad = tokenizer.pad_token_id
    prefix = tokenizer(PROMPTS["query"], add_special_tokens=False).input_ids
    lm = Qwen3ForCausalLM.from_pretrained(start_folder, dtype=torch.float32).train()
    optims = optimizers(lm, recipe)
    work.mkdir(parents=True, exist_ok=True)
    totals = {"step": 0, "tokens": 0, "seconds": 0.0}
    if (work / "step.json").exists():
        totals = load_state(work, lm, optims)
    began, recent = time.time() - totals["seconds"], []
    for step in range(totals["step"], recipe.steps):
        texts, asked, targets = step_data(recipe, step, tokenizer)
        passages, queries = vectors(lm.model, texts, pad), vectors(lm.model, asked, pad, prefix)
        loss = contrastive_loss(queries, passages, targets)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss of step {step} is {loss.item()}. Lower the learning rates of the recipe."
            )
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0).item()
        update(optims, recipe.rate(step))
        with torch.no_grad():
            right = (
                (
                    (F.normalize(queries, dim=-1) @ F.normalize(passages, dim=-1).T).argmax(1)
                    == targets
                )
                .float()
                .mean()
                .item()
            )
        recent.append((loss.item(), right))
        totals.update(
            step=step + 1,
            tokens=totals["tokens"] + sum(map(len, texts)) + sum(map(len, asked)),
            seconds=round(time.time() - began, 1),
        )
        last = step + 1 in (recipe.steps, stop_after)
        if (step + 1) % 20 == 0 or last:
            means = [round(sum(column) / len(recent), 4) for column in zip(*recent)]
            line = {
                "stage": "embedding",
                "step": step + 1,
                "loss": means[0],
                "first": means[1],
                "passages": len(texts),
                "questions": len(asked),
                "rate": round(recipe.rate(step), 4),
                "norm": round(norm, 3),
                "tokens": totals["tokens"],
                "seconds": totals["seconds"],
            }
            with open(work / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            recent = []
        if (step + 1) % 50 == 0 or last:
            save_state(work, lm, optims, step + 1, {k: v for k, v in totals.items() if k != "step"})
        if step + 1 == stop_after:
            return totals
    totals["recipe"] = asdict(recipe) | {"dimensions": DIMENSIONS, "temperature": TEMPERATURE}
    (work / "done.json").write_text(json.dumps(totals))
    export(lm.model.eval(), tokenizer, Path(out_folder))
    return totals


def evaluate(
    folder: Path,
    language: str,
    passages: int = 16_000,
    ks: tuple[int, ...] = (1, 3, 5),
    seed: int = 11,
) -> dict:
    """Evaluate recall@k of the model and of BM25 on held-out names, over one pool of passages.

    Args:
        folder: the model.
        passages: the size of the pool in tokens (16,000 are about 200 passages).
    Returns:
        {"n": questions, "passages": passages, "dense@1": share, ..., "bm25@1": share, ...}.
    """
    from sentence_transformers import SentenceTransformer

    from qwen3lab.retrieval.chunking import Chunk
    from qwen3lab.retrieval.index import Keywords

    model = SentenceTransformer(str(folder), device="cpu")
    count = lambda text: len(model.tokenizer(text).input_ids)
    texts, asked, targets = draw(
        random.Random(f"evaluate-{seed}"), language, True, passages, count, questions=1
    )
    scores = model.encode_query(asked) @ model.encode_document(texts).T
    dense = (-scores).argsort(axis=1, kind="stable")[:, : max(ks)]
    keywords = Keywords([Chunk(i, text, page=1, chapter="") for i, text in enumerate(texts)])
    words = [[hit.chunk.id for hit in hits] for hits in keywords.search(asked, max(ks))]
    found = {"n": len(asked), "passages": len(texts)}
    for name, ranked in (("dense", dense), ("bm25", words)):
        for k in ks:
            found[f"{name}@{k}"] = sum(t in list(r[:k]) for t, r in zip(targets, ranked)) / len(
                asked
            )
    return found
