"""Architecture diagram of a Qwen3 model: the whole model, its attention and its feed-forward part.

Reads from top to bottom. Nothing depends on colour: dashed frames are repeated or kept, dark
squares are chosen experts.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from qwen3lab import family
from qwen3lab.plots.style import chart_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PretrainedConfig


WIDTH, HEIGHT = 72.0, 80.0  # tenths of an inch
SMALL, NORMAL = 9.0, 10.0  # points
INK, FILL, CHOSEN = "#222222", "#eef2f6", "#1f4e79"
# The marker that points in a direction.
HEADS = {(0, -1): "v", (0, 1): "^", (1, 0): ">", (-1, 0): "<"}


class _Canvas:
    """Canvas for boxes, text and arrows, in tenths of an inch from the lower-left corner."""

    def __init__(self) -> None:
        self.figure = chart_class()(figsize=(WIDTH / 10, HEIGHT / 10))
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
        self.ax.axis("off")

    def text(self, x: float, y: float, text: str, size: float = SMALL, **options: Any) -> None:
        self.ax.text(
            x,
            y,
            text,
            fontsize=size,
            **({"color": INK, "ha": "center", "va": "center", "linespacing": 1.25} | options),
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        text: str = "",
        size: float = SMALL,
        **options: Any,
    ) -> None:
        """Draw a rectangle around (x, y) with its text in the middle."""
        from matplotlib.patches import Rectangle

        style = {"facecolor": FILL, "edgecolor": INK, "linewidth": 1.1} | options
        self.ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **style))
        if text:
            self.text(x, y, text, size)

    def sign(self, x: float, y: float, sign: str) -> None:
        """Draw a plus or a times in a circle."""
        from matplotlib.patches import Circle

        self.ax.add_patch(Circle((x, y), 1.1, facecolor="white", edgecolor=INK, linewidth=1.1))
        half = 0.55
        strokes = (
            [((-half, half), (0, 0)), ((0, 0), (-half, half))]
            if sign == "+"
            else [((-half, half), (-half, half)), ((-half, half), (half, -half))]
        )
        for dx, dy in strokes:
            self.ax.plot([x + d for d in dx], [y + d for d in dy], color=INK, linewidth=1.1)

    def arrow(self, *points: tuple[float, float], head: bool = True, **options: Any) -> None:
        """Draw a horizontal or vertical line through the points, with a head at its end."""
        xs, ys = zip(*points)
        style = {"color": INK, "linewidth": 1.1, "solid_joinstyle": "miter"} | options
        if head:
            (x0, y0), (x1, y1) = points[-2:]
            direction = (int(x1 > x0) - int(x1 < x0), int(y1 > y0) - int(y1 < y0))
            # Back by the marker's own size, so that its tip ends at the point.
            tip = (x1 - 0.55 * direction[0], y1 - 0.55 * direction[1])
            self.ax.plot(*tip, HEADS[direction], color=style["color"], markersize=5)
            xs, ys = (*xs[:-1], tip[0]), (*ys[:-1], tip[1])
        self.ax.plot(xs, ys, **style)


def architecture(model: str | family.Shape | PretrainedConfig) -> Figure:
    """Draw the architecture of a Qwen3 model: dense with its SwiGLU, or a mixture of experts.

    Args:
        model: what `family.shape` takes: an official name, a bundled checkpoint's name, a config or
            a shape.
    Returns:
        A figure of 7.2 by 8 inches. T is the number of tokens of a text.
    Raises:
        Qwen3labError: an unknown name.
    """
    s = family.shape(model)
    canvas = _Canvas()
    _whole(canvas, s)
    _attention(canvas, s)
    (_mixture if s.is_moe else _swiglu)(canvas, s)
    return canvas.figure


def _whole(c: _Canvas, s: family.Shape) -> None:
    x, wide, hidden = 16.0, 19.0, f"[T, {s.hidden:,}]"
    ffn = "mixture of experts" if s.is_moe else "SwiGLU network"
    c.text(x, 78, "token ids  [T]")
    c.arrow((x, 77), (x, 74.6))
    c.box(x, 72.3, wide, 4.6, f"embedding table\n{s.vocab:,} × {s.hidden:,}")
    # The block, repeated: two branches, each behind a norm, each added to the line that runs past
    # it.
    c.box(x, 42, 28, 47, facecolor="none", linestyle="--")
    c.text(3.2, 63.6, f"block, {s.layers} times", ha="left", size=NORMAL, weight="bold")
    c.arrow((x, 70), (x, 58.1))
    c.text(x + 0.9, 67.7, hidden, ha="left")
    for top, label in ((60.6, "attention"), (38.6, ffn)):
        c.box(x, top - 4, wide, 3, "RMSNorm")
        c.arrow((x, top - 5.5), (x, top - 8))
        c.box(x, top - 10, wide, 4, label, size=NORMAL)
        c.arrow((x, top - 12), (x, top - 15.2))
        c.arrow((x, top), (4, top), (4, top - 16.3), (x - 1.1, top - 16.3))
        c.sign(x, top - 16.3, "+")
    c.arrow((x, 43.2), (x, 36.1))
    c.arrow((x, 21.2), (x, 15.5))
    c.box(x, 14, wide, 3, "RMSNorm")
    c.arrow((x, 12.5), (x, 10.2))
    c.box(
        x,
        7.9,
        wide,
        4.6,
        "head\n" + ("the embedding table again" if s.tied else f"{s.hidden:,} × {s.vocab:,}"),
    )
    c.arrow((x, 5.6), (x, 3.2))
    c.text(x, 2.2, f"a score for each next token  [T, {s.vocab:,}]")


def _panel(c: _Canvas, low: float, high: float, title: str, target: float) -> None:
    """Draw the frame of a detail, with dotted lines from the box that it shows.

    The box is on the left, at height `target`.
    """
    c.box(52.25, (low + high) / 2, 38.5, high - low, facecolor="white", linewidth=0.8)
    c.text(34, high - 1.6, title, ha="left", size=NORMAL, weight="bold")
    for y, corner in ((target + 2, high), (target - 2, low)):
        c.ax.plot([25.5, 33], [y, corner], color=INK, linewidth=0.8, linestyle=":")


def _attention(c: _Canvas, s: family.Shape) -> None:
    (q, k, v), middle = (40.2, 53.2, 65.2), 52.25
    _panel(c, 41.5, 79.2, "attention", 50.6)
    c.text(k, 76, f"x  [T, {s.hidden:,}]")
    c.arrow((k, 75), (k, 72.4))
    c.arrow((k, 73.9), (q, 73.9), (q, 72.4))
    c.arrow((k, 73.9), (v, 73.9), (v, 72.4))
    for x, name, heads, wide in (
        (q, "Q", s.heads, 13.2),
        (k, "K", s.kv_heads, 11.6),
        (v, "V", s.kv_heads, 11.6),
    ):
        c.box(
            x,
            70,
            wide,
            4.8,
            f"{name}: {heads} heads\n{s.hidden:,} → {heads} × {s.head_dim}",
            size=8.4,
        )
    for x in (q, k):
        c.arrow((x, 67.6), (x, 66))
        c.box(x, 64.6, 11.6, 2.8, "QK-norm")
        c.arrow((x, 63.2), (x, 61.6))
        c.box(x, 60.2, 11.6, 2.8, "RoPE")
    c.box(
        (k + v) / 2,
        56,
        23.6,
        2.8,
        f"KV cache: 2 × [{s.kv_heads}, T, {s.head_dim}] a layer",
        facecolor="white",
        linestyle="--",
    )
    c.arrow((k, 58.8), (k, 57.4))
    c.arrow((v, 67.6), (v, 57.4))
    c.arrow((q, 58.8), (q, 53.2))
    c.arrow((k, 54.6), (k, 53.2))
    c.arrow((v, 54.6), (v, 53.2))
    group = s.heads // s.kv_heads
    c.box(
        middle,
        50.6,
        37.4,
        5.2,
        f"softmax( Q · K / √{s.head_dim} ) · V, no token sees later ones\n"
        + (
            f"{group} query heads share one key-value head"
            if group > 1
            else "one key-value head for each query head"
        ),
    )
    c.arrow((middle, 48), (middle, 46.6))
    c.box(middle, 45.2, 24.75, 2.8, f"output: {s.heads} × {s.head_dim} → {s.hidden:,}")
    c.arrow((middle, 43.8), (middle, 41.5))


def _swiglu(c: _Canvas, s: family.Shape) -> None:
    left, middle, right = 42.4, 52.25, 62.1
    _panel(c, 2, 38.5, "SwiGLU network", 28.6)
    c.text(middle, 34.6, f"x  [T, {s.hidden:,}]")
    c.arrow((middle, 33.6), (middle, 32), (left, 32), (left, 29.8))
    c.arrow((middle, 32), (right, 32), (right, 29.8))
    c.box(left, 27.4, 15, 4.8, f"gate\n{s.hidden:,} → {s.ffn:,}")
    c.box(right, 27.4, 15, 4.8, f"up\n{s.hidden:,} → {s.ffn:,}")
    c.arrow((left, 25), (left, 22.4))
    c.box(left, 21, 15, 2.8, "SiLU")
    c.arrow((left, 19.6), (left, 16.5), (middle - 1.1, 16.5))
    c.arrow((right, 25), (right, 16.5), (middle + 1.1, 16.5))
    c.sign(middle, 16.5, "×")
    c.arrow((middle, 15.4), (middle, 12.2))
    c.text(middle + 0.9, 13.9, f"[T, {s.ffn:,}]", ha="left")
    c.box(middle, 9.8, 24.75, 4.8, f"down\n{s.ffn:,} → {s.hidden:,}")
    c.arrow((middle, 7.4), (middle, 2))


def _mixture(c: _Canvas, s: family.Shape) -> None:
    middle, left = 52.25, 35.6
    _panel(c, 2, 38.5, "mixture of experts", 28.6)
    c.text(middle, 35, f"x  [T, {s.hidden:,}]")
    c.arrow((middle, 34), (middle, 31.9))
    c.box(
        middle,
        29.3,
        28,
        5.2,
        f"router: {s.hidden:,} → {s.experts}, softmax,\nkeep the {s.top_k} largest, make their"
        " sum 1",
    )
    c.arrow((middle, 26.7), (middle, 24.1))
    c.text(middle + 0.9, 25.5, f"numbers [T, {s.top_k}]", ha="left")
    # The experts, eight or sixteen in a row. Which ones are dark is an example, the same on every
    # call.
    columns = 8 if s.experts <= 32 else 16
    rows = -(-s.experts // columns)
    wide, high, few = 28.8 / columns, min(3.4, 10.4 / rows), rows <= 2
    chosen, top = random.Random(s.top_k).sample(range(s.experts), s.top_k), 23.4
    low = top - rows * high - 4.6
    c.box(middle, (24.1 + low) / 2, 30, 24.1 - low, facecolor="none", linewidth=0.8)
    for number in range(s.experts):
        x, y, dark = (
            middle - 14.4 + (number % columns + 0.5) * wide,
            top - (number // columns + 0.5) * high,
            number in chosen,
        )
        c.box(x, y, wide * 0.86, high * 0.8, facecolor=CHOSEN if dark else "white", linewidth=0.8)
        if few:
            c.text(x, y, str(number), color="white" if dark else INK)
    c.text(
        middle,
        low + 2.4,
        f"dark: the {s.top_k} of {s.experts} that one token uses,\neach a SwiGLU {s.hidden:,} →"
        f" {s.moe_ffn:,} → {s.hidden:,}",
    )
    # x reaches the experts past the router, and the weights reach the sum past the experts.
    c.arrow((middle, 33), (69.6, 33), (69.6, (24.1 + low) / 2), (67.25, (24.1 + low) / 2))
    c.arrow((38.25, 29.3), (left, 29.3), (left, 5.6), (38.25, 5.6))
    c.text(left - 1.2, 15, f"weights [T, {s.top_k}]", rotation=90)
    c.arrow((middle, low), (middle, 7))
    c.box(middle, 5.6, 28, 2.8, "sum of their outputs, times the weights")
    c.arrow((middle, 4.2), (middle, 2))
