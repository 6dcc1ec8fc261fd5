"""Shared chart style: colours, markers, hatches, a figure without a frame, interval lines.

Every chart can be read in black and white: what differs in colour also differs in marker, line or
hatch.
"""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qwen3lab.locale import language, translate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1f4e79", "#c04000", "#4a7c2f", "#7a5195")
MARKERS = "osD^"
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....", "xx")
CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Microsoft YaHei"),
    *("SimHei", "Arial Unicode MS", "Droid Sans Fallback"),
)


@lru_cache
def chart_class() -> type[Figure]:
    """Return a figure class that displays itself as the last line of a notebook cell.

    It needs no pyplot with its hidden list of open figures.
    """
    from io import BytesIO

    from matplotlib.figure import Figure

    class Chart(Figure):
        def draw(self, renderer: Any) -> None:
            if language() != "en":
                speak(self)
            super().draw(renderer)

        def _repr_png_(self) -> bytes:
            image = BytesIO()
            self.savefig(image, format="png", dpi=96)
            return image.getvalue()

    return Chart


@lru_cache
def chinese_font() -> str:
    """Find a font with Chinese letters; "" where there is none, which is said once."""
    from matplotlib import font_manager

    there = set(font_manager.get_font_names())
    found = next((name for name in CHINESE_FONTS if name in there), "")
    # Few of them come in bold, which is said again and again.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    if not found:
        print(
            "这台机器上没有中文字体，图中的文字保留英文。安装 Noto Sans CJK 后重启内核即可。",
            file=sys.stderr,
        )
    return found


def speak(figure: Figure) -> None:
    """Translate the fixed words of a chart in place, where a font can show them."""
    from matplotlib.text import Text

    font = chinese_font()
    if not font:
        return
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [tick.get_text() for tick in axis.get_ticklabels()]
            said = [translate(label, "chart") for label in labels]
            if said != labels:
                axis.set_ticks(axis.get_ticklocs(), said)
    for text in figure.findobj(Text):
        text.set_text(translate(text.get_text(), "chart"))
        if font not in text.get_fontfamily():
            text.set_fontfamily([*text.get_fontfamily(), font])


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
