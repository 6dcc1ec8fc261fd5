"""What the tests of the charts read off a drawn figure: texts, bars, points, interval lines."""

from __future__ import annotations

from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer


def legend(owner) -> list[str]:
    """The labels in the legend of a figure or of a single panel."""
    found = owner.legends[0] if hasattr(owner, "legends") else owner.get_legend()
    return [text.get_text() for text in found.get_texts()]


def labels(ax) -> tuple[str, str]:
    return ax.get_xlabel(), ax.get_ylabel()


def ticks(axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def words(ax) -> list[str]:
    """The texts written into a panel, in the order of drawing."""
    return [text.get_text() for text in ax.texts]


def bars(ax) -> list[BarContainer]:
    return [found for found in ax.containers if isinstance(found, BarContainer)]


def heights(container) -> list[float]:
    return [bar.get_height() for bar in container]


def widths(container) -> list[float]:
    return [bar.get_width() for bar in container]


def intervals(ax) -> list[ErrorbarContainer]:
    return [found for found in ax.containers if isinstance(found, ErrorbarContainer)]


def ends(container) -> tuple[list[float], list[float]]:
    """The lower and the upper ends of the lines of one call of `errorbar`."""
    lines = container.lines[2][0].get_segments()
    side = int(container.has_yerr)
    return [line[0, side] for line in lines], [line[1, side] for line in lines]


def xs(line) -> list[float]:
    return [float(value) for value in line.get_xdata()]


def ys(line) -> list[float]:
    return [float(value) for value in line.get_ydata()]


def named(ax) -> dict[str, object]:
    """The lines that a legend names, by name."""
    return {
        line.get_label(): line for line in ax.lines if not str(line.get_label()).startswith("_")
    }


def fill(patch) -> str:
    return to_hex(patch.get_facecolor())
