"""The charts of pictures as tokens, read back from the drawn figures."""

from __future__ import annotations

import numpy as np
from charts import labels, legend, named, words, ys

from qwen3lab import plots
from qwen3lab.world import pictures


def test_pictures_with_captions():
    seen = [pictures.draw(seed).pixels for seed in range(3)]
    figure = plots.captioned(seen, ["one", "two\nlines", "three"])
    assert [ax.get_xlabel() for ax in figure.axes] == ["one", "two\nlines", "three"]
    for ax, pixels in zip(figure.axes, seen, strict=True):
        assert np.array_equal(ax.images[0].get_array(), pixels)
    assert len(plots.captioned(seen[:1], ["alone"]).axes) == 1


def test_patches_and_tokens():
    figure = plots.patch_grid(pictures.draw(1).pixels[:32], patch=8)
    ax = figure.axes[0]
    assert words(ax) == [str(token) for token in range(8)]
    thick = [line for line in ax.lines if line.get_linewidth() > 1]
    assert len(ax.lines) - len(thick) == 9 + 5 and len(thick) == 5 + 3
    assert labels(ax)[0] == "8 x 8 pixels a patch, 2 x 2 patches a token"


def test_positions_of_tokens():
    positions = np.array([[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]])
    figure = plots.token_positions(positions, [False, True, True, True, True, False])
    ax = figure.axes[0]
    assert legend(ax) == ["image tokens", "time", "row", "column"]
    for axis, name in enumerate(("time", "row", "column")):
        assert ys(named(ax)[name]) == positions[axis].tolist()
    assert labels(ax) == ("token", "position")
    assert legend(plots.token_positions(positions, [False] * 6).axes[0]) == legend(ax)[1:]
