"""Qwen3-VL by hand equals the library's, and each of its parts is needed for that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import qwen3, qwen3_vl

CLOSE = 1e-5


def pictures(*sizes, patch=4):
    """Random pictures as patches."""
    rng = np.random.default_rng(0)
    return [
        qwen3_vl.patchify(rng.integers(0, 256, (*size, 3), dtype=np.uint8), patch) for size in sizes
    ]


def library(tied=True, seed=0):
    """A random Qwen3-VL of the library's; larger weights than it would draw, so that all counts."""
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(qwen3_vl.shrunk(tied)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def theirs(model, ids, seen):
    """The library's logits [T, vocabulary]."""
    ids = torch.tensor([ids])
    extra = {}
    if seen:
        extra = {
            "pixel_values": torch.cat([patches for patches, _ in seen]),
            "image_grid_thw": torch.tensor([grid for _, grid in seen]),
            "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        }
    with torch.inference_mode():
        return model(ids, **extra).logits[0]


def ours(model, ids, seen):
    """Our logits [T, vocabulary] with the same weights."""
    config = qwen3_vl.read_config(model.config)
    mine = qwen3_vl.load_weights(qwen3_vl.Qwen3VL(config), model.state_dict())
    with torch.inference_mode():
        return mine(ids, seen)


def text(*parts):
    """Ids 1, 2, 3, ... with runs of image tokens where a part is given as `[n]`."""
    ids = []
    for part in parts:
        ids += [150] * part[0] if isinstance(part, list) else range(1, part + 1)
    return ids


CASES = {
    "no picture": (text(9), []),
    "one": (text(3, [6], 5), [(16, 24)]),
    "tall, then wide": (text(2, [6], 3, [3], 4), [(24, 16), (8, 24)]),
    "larger than the table": (text(1, [35], 2), [(56, 40)]),
    "one token": (text(1, [1], 2), [(8, 8)]),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case, tied):
    ids, sizes = CASES[case]
    model, seen = library(tied), pictures(*sizes)
    expected = theirs(model, ids, seen)
    assert expected.std() > 0.3
    assert (ours(model, ids, seen) - expected).abs().max() < CLOSE


def not_interleaved(positions, head_dim, theta, section):
    """M-RoPE as Qwen2-VL has it: time takes the first pairs, then row, then column."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = positions[:, :, None].float() * frequencies
    parts = torch.split(angles, list(section), dim=-1)
    mixed = torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
    return torch.cat([mixed, mixed], -1).cos(), torch.cat([mixed, mixed], -1).sin()


@pytest.mark.parametrize("broken", ["interleaving", "DeepStack", "merger", "places"])
def test_each_part_counts(broken, monkeypatch):
    ids, sizes = CASES["tall, then wide"]
    model, seen = library(), pictures(*sizes)
    if broken == "interleaving":
        monkeypatch.setattr(qwen3_vl, "mrope", not_interleaved)
    elif broken == "DeepStack":
        encode = qwen3_vl.VisionEncoder.forward
        monkeypatch.setattr(
            qwen3_vl.VisionEncoder, "forward", lambda *given: (encode(*given)[0], [])
        )
    elif broken == "merger":
        wrong = lambda self, x: self.linear_fc2(
            torch.relu(
                self.linear_fc1(
                    self.norm(x.view(-1, self.norm.weight.numel())).view(-1, self.joined)
                )
            )
        )
        monkeypatch.setattr(qwen3_vl.Merger, "forward", wrong)
    else:
        monkeypatch.setattr(
            qwen3_vl,
            "places",
            lambda grid, merge: (
                torch.arange(grid[1]).repeat_interleave(grid[2]),
                torch.arange(grid[2]).repeat(grid[1]),
            ),
        )
    assert (ours(model, ids, seen) - theirs(model, ids, seen)).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("case", CASES)
def test_positions_equal_transformers(case):
    ids, sizes = CASES[case]
    model, seen = library(), pictures(*sizes)
    grids = [grid for _, grid in seen]
    expected, _ = model.model.get_rope_index(
        torch.tensor([ids]),
        (torch.tensor([ids]) == 150).int(),
        torch.tensor(grids) if grids else None,
    )
    found = qwen3_vl.token_positions(ids, grids, qwen3_vl.read_config(model.config))
    assert torch.equal(found, expected[:, 0])


def processor(patch, smallest, largest):
    """The library's image processor for Pillow and numpy, with Qwen3-VL's values."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=patch,
        size={"shortest_edge": smallest, "longest_edge": largest},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 128), (70, 100), (31, 40), (500, 333)])
def test_pixel_values_equal_the_image_processor(size, patch):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    smallest, largest = 64 * 64, 128 * 128
    expected = processor(patch, smallest, largest)(images=image, return_tensors="pt")
    height, width = qwen3_vl.fit(*size, 2 * patch, smallest, largest)
    if size != (height, width):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    patches, grid = qwen3_vl.patchify(np.asarray(image), patch)
    assert expected.image_grid_thw.tolist() == [list(grid)]
    assert (patches - expected.pixel_values).abs().max() < 1e-6


def test_an_upright_text_turns_as_in_qwen3():
    """Without pictures the three positions are alike, and M-RoPE is RoPE."""
    positions = torch.arange(7).expand(3, -1)
    for mine, plain in zip(
        qwen3_vl.mrope(positions, 16, 1e4, (3, 3, 2)), qwen3.rope(0, 7, 16, 1e4)
    ):
        assert torch.equal(mine, plain)


def test_what_does_not_fit_is_refused():
    config = qwen3_vl.read_config(qwen3_vl.shrunk())
    for ids, grids in (
        (text(2, [5], 1), [(1, 4, 6)]),
        (text(2, [6], 1), []),
        (text(3), [(1, 4, 6)]),
        (text(1, [3], 1, [3]), [(1, 4, 6)]),
    ):
        with pytest.raises(Qwen3labError, match="image tokens and the pictures need"):
            qwen3_vl.token_positions(ids, grids, config)
    with pytest.raises(Qwen3labError, match="no whole number of image tokens"):
        qwen3_vl.patchify(np.zeros((12, 8, 3), np.uint8), 4)
    with pytest.raises(Qwen3labError, match="no colour picture"):
        qwen3_vl.patchify(np.zeros((8, 8), np.uint8), 4)
    with pytest.raises(Qwen3labError, match="of type 'qwen3'"):
        qwen3_vl.read_config({"model_type": "qwen3"})
    weights = dict(library().state_dict())
    weights.pop("model.visual.merger.norm.bias")
    with pytest.raises(
        Qwen3labError, match="lack 1 of the tensors .* model.visual.merger.norm.bias"
    ):
        qwen3_vl.load_weights(qwen3_vl.Qwen3VL(config), weights)
