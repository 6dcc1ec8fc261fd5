"""Training of the tiny Qwen3-VL: a chat model gets a vision encoder and learns to read pictures.

Several questions stand behind one picture; each sees the picture and itself alone, at the positions
that it would have as the only one. So a picture is read once for all of its questions. Rows of text
are mixed in, so that the old tasks stay. The data of a step depends on the seed and the step alone.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from qwen3lab import chat
from qwen3lab.from_scratch.qwen3_vl import patchify
from qwen3lab.models.vision import encode
from qwen3lab.world import corpus, pictures
from scripts.tiny_models.muon import Muon
from scripts.tiny_models.pretrain import load_state, save_state, update

SIDE = pictures.SIZE // 16  # image tokens along a side: patches of 8 pixels, 2 x 2 merged


@dataclass
class Recipe:
    """Recipe of a stage: what a step reads, and the rates of old and of new weights.

    The rate warms up, stays, and cools down until the steps end.
    """

    name: str
    steps: int
    pictures: int  # a step
    questions: int = 3  # of one picture
    texts: int = 3  # rows of text a step
    text_lr: float = 0.01  # Muon, the decoder's matrices
    vision_lr: float = 0.02  # Muon, the encoder's and the mergers' matrices; 0: they are frozen
    other_lr: float = 2e-3  # AdamW, all else
    warmup: int = 20
    cooldown: float = 0.5
    seed: int = 0

    def rate(self, step: int) -> float:
        """Compute the learning rate of a step as a fraction of the full one."""
        return min(1.0, (step + 1) / self.warmup, (1.02 - step / self.steps) / self.cooldown)


ENCODER = Recipe("vision-encoder", steps=2000, pictures=48, cooldown=0.4)
WHOLE = Recipe("vision-chat", steps=1800, pictures=24, texts=4, vision_lr=0.0)


def processor():
    """Build the image processor: Qwen3-VL's, for patches of 8 pixels and small pictures."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=8,
        size={"shortest_edge": pictures.SIZE**2, "longest_edge": (2 * pictures.SIZE) ** 2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


class Encoder:
    """Encoder of pictures with questions, and of rows of text, to (ids, weights, positions, parts).

    parts says which question a token belongs to; 0 is the picture, which all of them see.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.prompt = lru_cache(maxsize=None)(lambda text: encode(tokenizer, text, SIDE**2))
        self.image, end = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|vision_end|>"])
        self.shared = self.prompt("").index(end) + 1  # tokens of a prompt as far as the question

    def answer(self, text: str) -> list[int]:
        """Encode an answer with its end token."""
        return [*chat.plain_ids(self.tokenizer, text), self.tokenizer.eos_token_id]

    def row(self, questions) -> tuple[list[int], list[float], torch.Tensor, list[int]]:
        """Encode a picture with questions."""
        ids = self.prompt("")[: self.shared]
        weights, parts = [0.0] * len(ids), [0] * len(ids)
        first = ids.index(self.image)
        row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        time = torch.zeros(SIDE**2, dtype=torch.long)
        grid = first + torch.stack([time, row.flatten(), column.flatten()])
        places = [torch.arange(first).expand(3, -1), grid, torch.full((3, 1), first + SIDE)]
        for number, question in enumerate(questions, 1):
            prompt, answer = self.prompt(question.text)[self.shared :], self.answer(question.answer)
            ids += prompt + answer
            weights += [0.0] * len(prompt) + [len(answer) ** -0.5] * len(answer)
            parts += [number] * (len(prompt) + len(answer))
            places.append(first + SIDE + 1 + torch.arange(len(prompt) + len(answer)).expand(3, -1))
        return ids, weights, torch.cat(places, 1), parts

    def text(self, row: corpus.Row) -> tuple[list[int], list[float], torch.Tensor, list[int]]:
        """Encode a row of text, its last answer trained."""
        ids = chat.encode(self.tokenizer, row.messages[:-1])
        answer = self.answer(row.messages[-1]["content"])
        weights = [0.0] * len(ids) + [len(answer) ** -0.5] * len(answer)
        ids += answer
        return ids, weights, torch.arange(len(ids)).expand(3, -1), [0] * len(ids)


def batches(recipe: Recipe, encoder: Encoder, step: int, size: int = 16):
    """Build the micro-batches of a step: lists of (row, patches or None), alike in length."""
    rng = random.Random(f"{recipe.name}-{recipe.seed}-{step}")
    rows = []
    for number in range(recipe.pictures):
        seen = pictures.draw(f"{recipe.name}-{recipe.seed}-{step}-{number}")
        asked = rng.sample(seen.questions, min(recipe.questions, len(seen.questions)))
        rows.append((encoder.row(asked), patchify(seen.pixels, 8)[0]))
    while len(rows) < recipe.pictures + recipe.texts:
        row = corpus.sample(rng, 1.0)
        if not row.tools and not row.thinking:
            encoded = encoder.text(row)
            if len(encoded[0]) <= 256:
                rows.append((encoded, None))
    rows.sort(key=lambda row: (row[1] is None, len(row[0][0])))
    for first in range(0, recipe.pictures, size):
        yield rows[first : min(first + size, recipe.pictures)]
    if recipe.texts:
        yield rows[recipe.pictures :]


def collate(rows, pad: int) -> dict:
    """Pad rows on the right: ids and weights [B, T], positions [3, B, T], the mask [B, 1, T, T]."""
    width = max(len(ids) for (ids, *_), _ in rows)
    many = len(rows)
    ids, weights = torch.full((many, width), pad), torch.zeros(many, width)
    positions, parts = torch.zeros(3, many, width, dtype=torch.long), torch.zeros(many, width)
    for number, ((row, weight, place, part), _) in enumerate(rows):
        n = len(row)
        ids[number, :n], weights[number, :n] = torch.tensor(row), torch.tensor(weight)
        positions[:, number, :n], parts[number, :n] = place, torch.tensor(part).float()
    alike = (parts[:, :, None] == parts[:, None, :]) | (parts[:, None, :] == 0)
    mask = (alike & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
    batch = {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
    patches = [patches for _, patches in rows if patches is not None]
    if patches:
        grid = torch.tensor([[1, 2 * SIDE, 2 * SIDE]] * len(patches))
        batch |= {"pixel_values": torch.cat(patches), "image_grid_thw": grid}
    return batch | {"weights": weights}


def loss_sum(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the weighted loss sum and the sum of the weights, as the text models' stages do."""
    batch = dict(batch)
    weights = batch.pop("weights")[:, 1:]
    hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    chosen = weights > 0
    logits = hidden[chosen] @ model.get_output_embeddings().weight.T
    losses = F.cross_entropy(logits.float(), batch["input_ids"][:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum(), weights.sum()


def contents(picture: pictures.Picture) -> torch.Tensor:
    """List what lies in each image token, [N, 3]: colour, shape, digit; 0 is nothing."""
    found = torch.zeros(SIDE**2, 3, dtype=torch.long)
    for word, x, y in picture.marks:
        token = int(min(y, pictures.SIZE - 1) // 16 * SIDE + min(x, pictures.SIZE - 1) // 16)
        if word.isdigit():
            found[token, 2] = 1 + int(word)
        else:
            colour, shape = word.split()
            found[token, 0] = 1 + list(pictures.COLOURS).index(colour)
            found[token, 1] = 1 + list(pictures.SHAPES).index(shape)
    return found


class Words(torch.nn.Module):
    """Loss of an image token as a word: near the embeddings of the words for what lies in it.

    A token with a red circle should look like " red", like the same in Chinese and like a piece of
    " circle" that no other shape has; an empty one like a full stop. Nothing here is trained.
    """

    def __init__(self, tokenizer, table: torch.Tensor):
        super().__init__()
        one = lambda text: chat.plain_ids(tokenizer, text)[-1]
        pieces = {shape: chat.plain_ids(tokenizer, f" {shape}") for shape in pictures.SHAPES}
        own = [
            next(p for p in pieces[shape] if sum(p in other for other in pieces.values()) == 1)
            for shape in pictures.SHAPES
        ]
        english = [one(f" {colour}") for colour in pictures.COLOURS]
        chinese = [one(zh) for zh, _ in pictures.COLOURS.values()]
        lists = (english, chinese, own, [one(str(digit)) for digit in range(10)])
        self.ids = [torch.tensor([-100, *ids]) for ids in lists]
        self.empty, self.table = one("."), table.detach()

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        said = F.rms_norm(features, features.shape[-1:]) @ self.table.T
        columns = (0, 0, 1, 2)
        full = [
            F.cross_entropy(said, ids[target[:, column]], reduction="sum")
            for column, ids in zip(columns, self.ids)
        ]
        bare = target.sum(-1) == 0
        blank = F.cross_entropy(said[bare], torch.full((int(bare.sum()),), self.empty))
        return sum(full) / (target[:, [*columns]] > 0).sum() + 0.3 * blank


class Heads(torch.nn.Module):
    """Heads for DeepStack's features: from an image token to what lies in it."""

    def __init__(self, width: int):
        super().__init__()
        sizes = (len(pictures.COLOURS) + 1, len(pictures.SHAPES) + 1, 11)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, size) for size in sizes)

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        features = F.rms_norm(features, features.shape[-1:])
        parts = zip(self.heads, target.unbind(-1))
        return sum(F.cross_entropy(head(features), wanted) for head, wanted in parts)


def train_encoder(model, tokenizer, recipe: Recipe, folder: Path) -> dict:
    """Train the encoder and its mergers alone, so that image tokens look like words to the decoder.

    Released models begin so, too: with an encoder that was trained before (SigLIP 2), and a stage
    that aligns it with the words. Afterwards the tokens are scaled to the words' size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    visual = model.model.visual
    table = model.get_input_embeddings().weight
    torch.manual_seed(recipe.seed)
    heads = torch.nn.ModuleList(
        [Words(tokenizer, table), Heads(table.shape[1]), Heads(table.shape[1])]
    )
    matrices = [p for n, p in visual.named_parameters() if p.ndim == 2 and "pos_embed" not in n]
    other = [p for n, p in visual.named_parameters() if p.ndim != 2 or "pos_embed" in n]
    optims = [
        Muon(matrices, lr=recipe.vision_lr),
        torch.optim.AdamW(
            [*other, *heads.parameters()], lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]
    began, recent = time.time(), []
    for step in range(recipe.steps):
        rate = recipe.rate(step)
        seen = [
            pictures.draw(f"{recipe.name}-{recipe.seed}-{step}-{number}")
            for number in range(recipe.pictures)
        ]
        target = torch.cat([contents(picture) for picture in seen])
        out = visual(
            torch.cat([patchify(picture.pixels, 8)[0] for picture in seen]),
            grid_thw=torch.tensor([[1, 2 * SIDE, 2 * SIDE]] * len(seen)),
        )
        features = (out.pooler_output, *out.deepstack_features)
        loss = sum(head(tokens, target) for head, tokens in zip(heads, features)) / 3
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *other], 1.0)
        update(optims, rate)
        recent.append(loss.item())
        seconds = round(time.time() - began, 1)
        if (step + 1) % 20 == 0:
            _log(folder, recipe, step + 1, recent, seconds=seconds, rate=round(rate, 4))
            recent = []
    if recent:
        _log(folder, recipe, recipe.steps, recent, seconds=seconds)
    mergers = (visual.merger, *visual.deepstack_merger_list)
    with torch.no_grad():
        size = table.pow(2).mean().sqrt()
        for merger, tokens in zip(mergers, features):
            scale = size / tokens.pow(2).mean().sqrt()
            merger.linear_fc2.weight *= scale
            merger.linear_fc2.bias *= scale
    return {
        "step": recipe.steps,
        "pictures": recipe.steps * recipe.pictures,
        "tokens": recipe.steps * recipe.pictures * SIDE**2,
        "seconds": seconds,
        "recipe": {
            name: value
            for name, value in asdict(recipe).items()
            if name not in ("questions", "texts", "text_lr")
        },
    }


def build(start: Path, tokenizer, seed: int = 0):
    """Build the model: the chat model's weights under their new names, a random vision encoder."""
    from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

    from scripts.tiny_models import shapes

    chat_model = Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(shapes.vision(tokenizer, chat_model.config))
    model.model.language_model.load_state_dict(chat_model.model.state_dict())
    model.tie_weights()
    return model


def optimizers(model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Build Muon for the matrices of layers and mergers, AdamW for all else."""
    old, new, other = [], [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim == 2 and ".layers." in name:
            old.append(p)
        elif p.ndim == 2 and (".blocks." in name or "merger" in name):
            new.append(p)
        else:
            other.append(p)
    return [
        Muon(old, lr=recipe.text_lr),
        *([Muon(new, lr=recipe.vision_lr)] if new else []),
        torch.optim.AdamW(other, lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(model, tokenizer, recipe: Recipe, folder: Path, *, save_every: int = 50, on_save=None):
    """Run (or resume) the training and return its totals: steps, pictures, tokens, seconds.

    Writes `log.jsonl` and a resumable state into `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder, pad = Encoder(tokenizer), tokenizer.pad_token_id
    model.train()
    model.model.visual.requires_grad_(recipe.vision_lr > 0)
    optims = optimizers(model, recipe)
    totals = {"step": 0, "pictures": 0, "tokens": 0, "trained_tokens": 0, "seconds": 0.0}
    if (folder / "step.json").exists():
        totals = load_state(folder, model, optims)
    began, recent = time.time() - totals["seconds"], []
    for step in range(totals["step"], recipe.steps):
        rate = recipe.rate(step)
        parts = [collate(rows, pad) for rows in batches(recipe, encoder, step)]
        whole = sum(part["weights"].sum() for part in parts)
        loss = 0.0
        for part in parts:
            share = loss_sum(model, part)[0] / whole
            share.backward()
            loss += share.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        update(optims, rate)
        recent.append(loss)
        totals.update(
            step=step + 1,
            pictures=totals["pictures"] + recipe.pictures,
            tokens=totals["tokens"] + sum(int((p["input_ids"] != pad).sum()) for p in parts),
            trained_tokens=totals["trained_tokens"]
            + sum(int((p["weights"] > 0).sum()) for p in parts),
            seconds=round(time.time() - began, 1),
        )
        if (step + 1) % 10 == 0:
            told = {"seconds": totals["seconds"], "rate": round(rate, 4), "norm": round(norm, 3)}
            _log(folder, recipe, step + 1, recent, **told)
            recent = []
        if (step + 1) % save_every == 0:
            _save(folder, model, optims, totals, on_save)
    if recent:
        _log(folder, recipe, totals["step"], recent, seconds=totals["seconds"])
    _save(folder, model, optims, totals, on_save)
    return {**totals, "recipe": asdict(recipe), "workers": 1}


def _log(folder: Path, recipe: Recipe, step: int, losses: list[float], **told: float) -> None:
    """Write a line of the log: the mean loss since the last one, and what is told beside it."""
    line = {"stage": recipe.name, "step": step, "loss": round(sum(losses) / len(losses), 4)}
    with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps(line | told) + "\n")


def _save(folder: Path, model, optims, totals: dict, on_save) -> None:
    spent = {name: value for name, value in totals.items() if name != "step"}
    save_state(folder, model, optims, totals["step"], spent)
    if on_save:
        on_save(model, totals["step"])
        model.train()
