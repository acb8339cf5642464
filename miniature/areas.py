"""Labels for each part of an image: the targets of the denoiser's auxiliary loss. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miniature.placement import place_shapes
from miniature.scene import COLOURS, SHAPES, Scene

#: Classes of each label: a kind of shape or none, and its colour or none.
ANSWERS = (len(SHAPES) + 1, len(COLOURS) + 1)
#: Sample points of a part, along each side.
_POINTS = 8


def areas(scene: Scene, size: tuple[int, int], grid: int) -> NDArray[np.float32]:
    """Return the share of each square of `grid` pixels that each shape and colour covers [squares, 9 + 1 + 9 + 1].

    `size` is (width, height) in pixels; squares come row by row. Shapes count as the discs that they are drawn around.
    """
    width, height = size
    x, y = (_points(side, grid) / (min(size) / 2) for side in size)
    shape, colour = (np.full((len(y), len(x)), answers - 1) for answers in ANSWERS)
    for item in place_shapes(scene, width, height):
        inside = (x[None, :] - item.x) ** 2 + (y[:, None] - item.y) ** 2 <= item.radius**2
        shape[inside] = SHAPES.index(item.group.shape)
        colour[inside] = COLOURS.index(item.group.colour)
    pairs = zip((shape, colour), ANSWERS, strict=True)
    return np.concatenate([_shares(shown, answers) for shown, answers in pairs], axis=1)


def _points(side: int, grid: int) -> NDArray[np.float64]:
    """Return the sample points of a side, in pixels from its middle."""
    return (np.arange(side // grid * _POINTS) + 0.5) * grid / _POINTS - side / 2


def _shares(shown: NDArray[np.int_], answers: int) -> NDArray[np.float32]:
    """Return the share of the points of each square that have each label [squares, labels]."""
    rows, columns = (side // _POINTS for side in shown.shape)
    squares = shown.reshape(rows, _POINTS, columns, _POINTS).swapaxes(1, 2).reshape(rows * columns, -1)
    return np.stack([(squares == answer).mean(1) for answer in range(answers)], axis=1).astype(np.float32)
