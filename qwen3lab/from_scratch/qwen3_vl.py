"""Qwen3-VL from scratch: how a picture becomes tokens between the words of a Qwen3.

Patches, then the vision encoder, then its features in the sequence and, once more, in the first
decoder layers (DeepStack). There is no cross-attention: image tokens stand among the text tokens,
and the decoder's own attention reads both. The logits equal those of transformers'
`Qwen3VLForConditionalGeneration`; the decoder layers are those of `from_scratch.qwen3`.

Shapes in the comments: P patches of all pictures, N = P / merge^2 image tokens, T tokens, W vision
width, H hidden. Qwen3-VL Technical Report (arXiv 2511.21631), section 2; DeepStack (arXiv
2406.04334).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import qwen3

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Grid = tuple[int, int, int]  # a picture's patches: frames (1), rows, columns


@dataclass(frozen=True)
class Config:
    """Configuration: the decoder's, and the shape of the vision encoder."""

    text: qwen3.Config
    section: tuple[int, int, int]  # pairs of a head that turn by time, row and column
    image_token: int  # the id that an image token has among the text's ids
    width: int
    depth: int
    heads: int
    ffn: int
    patch: int  # pixels along the side of a patch
    side: int  # the learned positions are a table of side x side
    deepstack: tuple[int, ...]  # encoder layers whose features the first decoder layers get
    merge: int = 2  # patches along the side of an image token
    frames: int = 2  # pictures in a patch; a still picture is given twice


# From a picture to patches: what the library's image processor does.


def fit(height: int, width: int, factor: int, smallest: int, largest: int) -> tuple[int, int]:
    """Compute the size that a picture is resized to: sides divisible by `factor`, near its own.

    `factor` is patch times merge; the number of pixels is kept between `smallest` and `largest`.
    """
    rows, columns = (round(side / factor) * factor for side in (height, width))
    if rows * columns > largest:
        shrink = sqrt(height * width / largest)
        rows, columns = (
            max(factor, floor(side / shrink / factor) * factor) for side in (height, width)
        )
    elif rows * columns < smallest:
        grow = sqrt(smallest / (height * width))
        rows, columns = (ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


def patchify(
    pixels: np.ndarray, patch: int, merge: int = 2, frames: int = 2
) -> tuple[Tensor, Grid]:
    """Cut a picture into patches: [P, 3 * frames * patch * patch], and its grid (1, rows, columns).

    `pixels` is uint8 [height, width, 3]; values 0 to 255 become -1 to 1. The merge x merge patches
    that one image token is made of lie next to each other.

    Raises:
        Qwen3labError: no colour picture of bytes, or sides that are not whole image tokens.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise Qwen3labError(
            f"This is an array of shape {pixels.shape} and type {pixels.dtype}, no colour picture."
            " Give bytes [height, width, 3], such as np.asarray(image.convert('RGB'))."
        )
    height, width = pixels.shape[:2]
    if height % (patch * merge) or width % (patch * merge) or not pixels.size:
        raise Qwen3labError(
            f"A picture of {height} x {width} pixels is no whole number of image tokens of"
            f" {patch * merge} x {patch * merge}. Resize it to the size that `fit` names."
        )
    x = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
    rows, columns = height // patch, width // patch
    # [3, rows / m, m, patch, columns / m, m, patch], then the blocks' axes to the front
    x = x.view(3, rows // merge, merge, patch, columns // merge, merge, patch)
    x = x.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)
    x = x.expand(*x.shape[:5], frames, patch, patch)  # the same picture in every frame
    return x.reshape(rows * columns, -1), (1, rows, columns)


def places(grid: Grid, merge: int) -> tuple[Tensor, Tensor]:
    """Compute the row and the column [P] of each patch, in the order of `patchify`."""
    _, rows, columns = grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")

    def blocks(x: Tensor) -> Tensor:
        return x.view(rows // merge, merge, columns // merge, merge).transpose(1, 2).flatten()

    return blocks(row), blocks(column)


# Positions: learned and rotary ones for patches, M-RoPE for tokens.


def learned_positions(table: Tensor, row: Tensor, column: Tensor, grid: Grid) -> Tensor:
    """Read the learned position [P, W] of each patch off a table [side, side, W].

    The table's corners lie on the picture's corners; between its entries we interpolate linearly
    in both directions, so that one table serves pictures of any size.
    """
    side = table.shape[0]
    y = row * (side - 1) / max(grid[1] - 1, 1)
    x = column * (side - 1) / max(grid[2] - 1, 1)
    top, left = y.long(), x.long()
    bottom, right = (top + 1).clamp(max=side - 1), (left + 1).clamp(max=side - 1)
    down, over = (y - top)[:, None], (x - left)[:, None]
    upper = table[top, left] * (1 - over) + table[top, right] * over
    lower = table[bottom, left] * (1 - over) + table[bottom, right] * over
    return upper * (1 - down) + lower * down


def axial_rope(row: Tensor, column: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Compute the encoder's cosines and sines [P, d]: half turn by row, half by column."""
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    angles = torch.cat([row[:, None] * frequencies, column[:, None] * frequencies], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def token_positions(ids: Sequence[int], grids: Sequence[Grid], config: Config) -> Tensor:
    """Compute the M-RoPE positions [3, T] of a text's tokens: time, row and column of each.

    A text token counts on in all three. The tokens of a picture share one time, and their rows and
    columns count from there; the text goes on after the longer side of the picture.

    Raises:
        Qwen3labError: other pictures than the image tokens leave room for.
    """
    found, where, at, left = [], 0, 0, list(grids)
    while where < len(ids):
        if ids[where] != config.image_token:
            found.append(torch.full((3, 1), at))
            where, at = where + 1, at + 1
            continue
        rows, columns = (side // config.merge for side in left.pop(0)[1:]) if left else (0, 0)
        tokens = list(ids[where : where + rows * columns])
        if not tokens or tokens != [config.image_token] * (rows * columns):
            raise _does_not_fit(ids, grids, config)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        time = torch.zeros(rows * columns, dtype=torch.long)
        found.append(at + torch.stack([time, row.flatten(), column.flatten()]))
        where, at = where + rows * columns, at + max(rows, columns)
    if left:
        raise _does_not_fit(ids, grids, config)
    return torch.cat(found, dim=1)


def _does_not_fit(ids, grids, config: Config) -> Qwen3labError:
    room = sum(number == config.image_token for number in ids)
    needed = sum(rows * columns // config.merge**2 for _, rows, columns in grids)
    return Qwen3labError(
        f"The text has {room} image tokens and the pictures need {needed}. Write one image token"
        f" for {config.merge} x {config.merge} patches, a picture's in one run, in the same order."
    )


def mrope(
    positions: Tensor, head_dim: int, theta: float, section: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Compute interleaved M-RoPE: cosines and sines [T, d] for positions [3, T].

    The pairs of a head take turns: time, row, column, time, ... so that each of the three has fast
    and slow pairs. `section` counts the pairs of each; what is left at the slow end goes to time.
    Qwen3-VL Technical Report, section 2.1.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = positions[:, :, None].float() * frequencies  # [3, T, d / 2]
    mixed = angles[0].clone()
    for axis in (1, 2):
        turns = slice(axis, 3 * section[axis], 3)
        mixed[:, turns] = angles[axis, :, turns]
    mixed = torch.cat([mixed, mixed], dim=-1)
    return mixed.cos(), mixed.sin()


# The vision encoder. The names of its weights are those of the released checkpoints.


class PatchEmbedding(nn.Module):
    """Patch embedding: a convolution whose stride is its kernel, thus one linear layer a patch."""

    def __init__(self, c: Config):
        super().__init__()
        kernel = (c.frames, c.patch, c.patch)
        self.proj = nn.Conv3d(3, c.width, kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    """Self-attention of a picture's patches: each sees all of them."""

    def __init__(self, c: Config):
        super().__init__()
        self.heads = c.heads
        self.qkv, self.proj = nn.Linear(c.width, 3 * c.width), nn.Linear(c.width, c.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        )  # [heads, P, d]
        q, k = qwen3.rotate(q, cos, sin), qwen3.rotate(k, cos, sin)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return self.proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


class VisionMLP(nn.Module):
    """Feed-forward layer of the encoder, with GELU."""

    def __init__(self, c: Config):
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(c.width, c.ffn), nn.Linear(c.ffn, c.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    """Encoder layer: attention, then feed-forward, each behind a norm and beside a residual."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c.width, eps=1e-6), nn.LayerNorm(c.width, eps=1e-6)
        self.attn, self.mlp = VisionAttention(c), VisionMLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Merger: merge x merge neighbouring patches side by side, then two layers to one image token.

    The last merger normalises each patch, those of DeepStack the patches side by side.
    """

    def __init__(self, c: Config, norm_after: bool):
        super().__init__()
        self.joined, self.norm_after = c.width * c.merge**2, norm_after
        self.norm = nn.LayerNorm(self.joined if norm_after else c.width, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.joined, self.joined)
        self.linear_fc2 = nn.Linear(self.joined, c.text.shape.hidden)

    def forward(self, x: Tensor) -> Tensor:  # [P, W] -> [N, H]
        joined = lambda x: x.view(-1, self.joined)
        x = self.norm(joined(x)) if self.norm_after else joined(self.norm(x))
        return self.linear_fc2(gelu(self.linear_fc1(x)))


class VisionEncoder(nn.Module):
    """Vision encoder: patches to image tokens, and to the features of DeepStack."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.patch_embed = PatchEmbedding(c)
        self.pos_embed = nn.Embedding(c.side**2, c.width)
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.depth))
        self.merger = Merger(c, norm_after=False)
        self.deepstack_merger_list = nn.ModuleList(Merger(c, norm_after=True) for _ in c.deepstack)

    def forward(self, patches: Tensor, grid: Grid) -> tuple[Tensor, list[Tensor]]:
        """Encode one picture: its image tokens [N, H], and DeepStack's features, [N, H] a layer."""
        c = self.config
        row, column = places(grid, c.merge)
        table = self.pos_embed.weight.view(c.side, c.side, c.width)
        x = self.patch_embed(patches) + learned_positions(table, row, column, grid)
        cos, sin = axial_rope(row, column, c.width // c.heads)
        features = []
        for number, block in enumerate(self.blocks):
            x = block(x, cos, sin)
            if number in c.deepstack:
                features.append(self.deepstack_merger_list[c.deepstack.index(number)](x))
        return self.merger(x), features


# The decoder that reads both.


class Decoder(nn.Module):
    """Qwen3's decoder layers; the first ones are followed by a sum with DeepStack's features."""

    def __init__(self, c: Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.text.shape.vocab, c.text.shape.hidden)
        self.layers = nn.ModuleList(qwen3.Block(c.text) for _ in range(c.text.shape.layers))
        self.norm = qwen3.RMSNorm(c.text.shape.hidden, c.text.eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, is_image: Tensor, features: Sequence[Tensor]
    ) -> Tensor:
        for number, block in enumerate(self.layers):
            x = block(x, cos, sin, None, number)
            if number < len(features):
                x = x.clone()
                x[:, is_image] += features[number]
        return self.norm(x)


class Qwen3VL(nn.Module):
    """Qwen3-VL for one text with any number of pictures."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict(
            {"visual": VisionEncoder(config), "language_model": Decoder(config)}
        )
        shape = config.text.shape
        self.lm_head = None if shape.tied else nn.Linear(shape.hidden, shape.vocab, bias=False)

    def forward(self, ids: Sequence[int], pictures: Sequence[tuple[Tensor, Grid]] = ()) -> Tensor:
        """Compute the next-token logits [T, vocabulary] of a text of T ids.

        Args:
            pictures: results of `patchify`, in the order of their image tokens.
        Raises:
            Qwen3labError: other pictures than the image tokens leave room for.
        """
        c, text = self.config, self.model["language_model"]
        positions = token_positions(ids, [grid for _, grid in pictures], c)
        cos, sin = mrope(positions, c.text.shape.head_dim, c.text.theta, c.section)
        is_image = torch.tensor(ids) == c.image_token
        x, features = text.embed_tokens(torch.tensor([ids])), []
        if pictures:
            seen = [self.model["visual"](patches, grid) for patches, grid in pictures]
            x = x.clone()
            x[:, is_image] = torch.cat([tokens for tokens, _ in seen])  # instead of the embedding
            features = [torch.cat(layer) for layer in zip(*(deep for _, deep in seen))]
        hidden = text(x, cos, sin, is_image, features)[0]
        head = text.embed_tokens if self.lm_head is None else self.lm_head
        return linear(hidden, head.weight)


def read_config(config: PretrainedConfig | Mapping[str, Any]) -> Config:
    """Read transformers' config of a Qwen3-VL, or the contents of its config.json.

    Raises:
        Qwen3labError: another model, or one with experts, which this file does not build.
    """
    fields = dict(config) if isinstance(config, Mapping) else config.to_dict()
    if fields.get("model_type") != "qwen3_vl":
        raise Qwen3labError(
            f"This config is of type {fields.get('model_type')!r}. Give the config of a dense"
            " Qwen3-VL."
        )
    text, vision = dict(fields["text_config"]), fields["vision_config"]
    rotary = text.get("rope_parameters") or text.get("rope_scaling") or {}
    tied = bool(fields.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    plain = {"rope_type": "default", "rope_theta": rotary.get("rope_theta", text.get("rope_theta"))}
    text |= {"model_type": "qwen3", "rope_parameters": plain, "tie_word_embeddings": tied}
    return Config(
        qwen3.read_config(text),
        tuple(rotary.get("mrope_section", (24, 20, 20))),
        fields["image_token_id"],
        vision["hidden_size"],
        vision["depth"],
        vision["num_heads"],
        vision["intermediate_size"],
        vision["patch_size"],
        round(vision["num_position_embeddings"] ** 0.5),
        tuple(vision["deepstack_visual_indexes"]),
        vision["spatial_merge_size"],
        vision["temporal_patch_size"],
    )


def load_weights(model: Qwen3VL, weights: Mapping[str, Tensor]) -> Qwen3VL:
    """Load weights into a model by the names that `save_pretrained` writes; return the model.

    Raises as `qwen3.load_weights`.
    """
    if model.lm_head is None:  # the head is the embedding table once more
        weights = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    return qwen3.load_weights(model, weights)


def shrunk(tied: bool = True) -> PretrainedConfig:
    """Build a small transformers config of a Qwen3-VL: 3 decoder and 4 encoder layers."""
    from transformers import Qwen3VLConfig

    rotary = {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_section": [3, 3, 2]}
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=160,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_parameters=rotary | {"mrope_interleaved": True},
        ),
        vision_config=dict(
            depth=4,
            hidden_size=48,
            num_heads=3,
            intermediate_size=80,
            patch_size=4,
            out_hidden_size=64,
            num_position_embeddings=36,
            deepstack_visual_indexes=[0, 2],
        ),
        image_token_id=150,
        video_token_id=151,
        vision_start_token_id=152,
        vision_end_token_id=153,
        tie_word_embeddings=tied,
    )
