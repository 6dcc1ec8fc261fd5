"""Shared chart style: colours, markers, hatches, a figure without a frame, interval lines.

Every chart can be read in black and white: what differs in colour also differs in marker, line or
hatch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1f4e79", "#c04000", "#4a7c2f", "#7a5195")
MARKERS = "osD^"
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....", "xx")


@lru_cache
def chart_class() -> type[Figure]:
    """Return a figure class that displays itself as the last line of a notebook cell.

    It needs no pyplot with its hidden list of open figures.
    """
    from io import BytesIO

    from matplotlib.figure import Figure

    class Chart(Figure):
        def _repr_png_(self) -> bytes:
            image = BytesIO()
            self.savefig(image, format="png", dpi=96)
            return image.getvalue()

    return Chart


def axes_of(width: float = 6.4, height: float = 3.6, columns: int = 1, **options: Any):
    """Create a figure and its axes, without the frame's upper and right edge."""
    figure = chart_class()(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[0] if columns == 1 else axes


def whiskers(ax, *place, **errors: Any) -> None:
    """Give interval lines a light edge, so that they can be seen on a dark bar too."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=3, foreground="white")]
    drawn = ax.errorbar(*place, fmt="none", ecolor="black", elinewidth=1, capsize=3, **errors)
    for line in (*drawn.lines[1], *drawn.lines[2]):
        line.set_path_effects(edge)
