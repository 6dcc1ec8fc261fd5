"""Charts of pictures as tokens: pictures with captions, patches, positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab.plots.style import COLOURS, LINES, MARKERS, axes_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def captioned(pictures: Sequence[Any], captions: Sequence[str], width: float = 2.3) -> Figure:
    """Draw pictures side by side, each pixel as it is, with a caption below each."""
    many = len(pictures)
    figure, axes = axes_of(width * many, width + 0.16 * _lines(captions), columns=many)
    for ax, picture, caption in zip([axes] if many == 1 else axes, pictures, captions):
        ax.imshow(picture, interpolation="nearest")
        ax.set_xlabel(caption, fontsize="small")
        ax.set(xticks=[], yticks=[])
    return figure


def _lines(captions: Sequence[str]) -> int:
    return 2 + max(caption.count("\n") for caption in captions)


def patch_grid(picture: np.ndarray, patch: int, merge: int = 2) -> Figure:
    """Draw a picture cut into patches (thin lines) and image tokens (thick), tokens numbered."""
    height, width = picture.shape[:2]
    figure, ax = axes_of(3.4, 3.5)
    ax.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    for step, thick in ((patch, 0.5), (patch * merge, 1.8)):
        for place in range(0, width + 1, step):
            ax.axvline(place, color="black", linewidth=thick)
        for place in range(0, height + 1, step):
            ax.axhline(place, color="black", linewidth=thick)
    side, columns = patch * merge, width // (patch * merge)
    for token in range(height // side * columns):
        row, column = divmod(token, columns)
        ax.text(column * side + 1, row * side + 1, str(token), fontsize=8, va="top")
    ax.set(
        xlabel=f"{patch} x {patch} pixels a patch, {merge} x {merge} patches a token",
        xticks=[],
        yticks=[],
    )
    return figure


def token_positions(positions: np.ndarray, is_image: Sequence[bool]) -> Figure:
    """Draw M-RoPE's time, row and column [3, T] of each token; the picture's tokens are shaded."""
    figure, ax = axes_of(6.4, 3.2)
    places = [place for place, image in enumerate(is_image) if image]
    if places:
        ax.axvspan(places[0] - 0.5, places[-1] + 0.5, color="#eef2f6", label="image tokens")
    for axis, name in enumerate(("time", "row", "column")):
        ax.plot(
            positions[axis],
            linestyle=LINES[axis],
            marker=MARKERS[axis],
            color=COLOURS[axis],
            markersize=3.5 - 0.5 * axis,
            linewidth=1,
            label=name,
        )
    ax.set(xlabel="token", ylabel="position")
    ax.legend(frameon=False, fontsize="small")
    return figure
