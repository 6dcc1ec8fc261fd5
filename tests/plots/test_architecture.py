"""The drawn architecture, measured on the canvas for every model: no text over text, none over a
line, all within its box.
"""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from qwen3lab import family
from qwen3lab.errors import Qwen3labError
from qwen3lab.plots import architecture

NAMES = [*family.FAMILY, "qwen3-tiny", "qwen3-tiny-moe"]


def drawn(name):
    figure = architecture.architecture(name)
    figure.canvas.draw()
    ax = figure.axes[0]
    texts = [(text.get_text(), text.get_window_extent()) for text in ax.texts]
    lines = [
        ax.transData.transform(line.get_xydata()) for line in ax.lines if len(line.get_xydata()) > 1
    ]
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
    return figure, texts, lines, boxes


def crosses(bbox, start, end):
    """Whether a segment enters a text's rectangle, looked at in 200 points."""
    points = start + np.linspace(0, 1, 200)[:, None] * (end - start)
    return bool(((points > [bbox.x0, bbox.y0]) & (points < [bbox.x1, bbox.y1])).all(axis=1).any())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_lies_over_anything(name):
    figure, texts, lines, boxes = drawn(name)
    for number, (text, bbox) in enumerate(texts):
        assert (
            figure.bbox.x0 <= bbox.x0
            and bbox.x1 <= figure.bbox.x1
            and figure.bbox.y0 <= bbox.y0
            and bbox.y1 <= figure.bbox.y1
        ), text
        for other, other_bbox in texts[number + 1 :]:
            assert Bbox.intersection(bbox, other_bbox) is None, (text, other)
        for line in lines:
            assert not any(crosses(bbox, a, b) for a, b in zip(line, line[1:])), text
        centre = (bbox.x0 + bbox.x1) / 2, (bbox.y0 + bbox.y1) / 2
        around = [box for box in boxes if box.contains(*centre)]
        if around:
            smallest = min(around, key=lambda box: box.width * box.height)
            assert (
                smallest.x0 + 2 <= bbox.x0
                and bbox.x1 <= smallest.x1 - 2
                and smallest.y0 <= bbox.y0
                and bbox.y1 <= smallest.y1
            ), text


@pytest.mark.parametrize("name", ["8B", "30B-A3B", "qwen3-tiny", "qwen3-tiny-moe"])
def test_the_numbers_are_the_shape_s(name):
    s = family.shape(name)
    words = "\n".join(text for text, _ in drawn(name)[1])
    wanted = [
        f"block, {s.layers} times",
        f"{s.vocab:,} × {s.hidden:,}",
        f"{s.hidden:,} → {s.heads} × {s.head_dim}",
        f"{s.hidden:,} → {s.kv_heads} × {s.head_dim}",
        f"{s.heads // s.kv_heads} query heads share one",
        f"2 × [{s.kv_heads}, T, {s.head_dim}] a layer",
    ]
    experts, network = (
        [f"{s.hidden:,} → {s.experts}, softmax", f"{s.top_k} of {s.experts}", f"→ {s.moe_ffn:,} →"],
        [f"{s.hidden:,} → {s.ffn:,}", f"{s.ffn:,} → {s.hidden:,}"],
    )
    wanted += experts if s.is_moe else network
    assert not [text for text in wanted if text not in words]
    assert ("the embedding table again" in words) is s.tied and ("router" in words) is s.is_moe


@pytest.mark.parametrize("name", ["30B-A3B", "qwen3-tiny-moe"])
def test_as_many_experts_are_dark_as_a_token_uses(name):
    from matplotlib.colors import to_rgba

    s, patches = family.shape(name), architecture.architecture(name).axes[0].patches
    dark = [patch for patch in patches if patch.get_facecolor() == to_rgba(architecture.CHOSEN)]
    size = dark[0].get_width(), dark[0].get_height()
    assert (
        len(dark) == s.top_k
        and len([patch for patch in patches if (patch.get_width(), patch.get_height()) == size])
        == s.experts
    )


def test_the_same_picture_every_time_and_no_unknown_names():
    assert (
        architecture.architecture("30B-A3B")._repr_png_()
        == architecture.architecture("30B-A3B")._repr_png_()
    )
    with pytest.raises(Qwen3labError, match="neither one of the eight"):
        architecture.architecture("9B")
