"""The shapes as polygons: [points, 2], x to the right, y down, around (0, 0), all of about the same area."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

#: Points on a curve, and on each rounded corner.
_CURVE = 64
_CORNER = 7


@lru_cache
def outline(shape: str) -> tuple[Points, ...]:
    """Return the outer line of a shape, and the line of its hole if it has one."""
    if shape == "ring":
        return _circle(0.98), _circle(0.52)
    return (_OUTLINES[shape](),)


def _circle(radius: float) -> Points:
    angles = np.linspace(0, 2 * np.pi, _CURVE, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _heart() -> Points:
    """Return Beutel's heart curve (MathWorld, "heart curve" no. 6): sines and cosines of one angle."""
    angle = np.linspace(0, 2 * np.pi, _CURVE, endpoint=False)
    x = 16 * np.sin(angle) ** 3
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return np.stack([x, -y - 2.5], axis=1) / 16


def _square() -> Points:
    return _rounded(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.84, 0.16)


def _diamond() -> Points:
    return _rounded(np.array([(0, -1.25), (0.9, 0), (0, 1.25), (-0.9, 0)]), 0.14)


def _triangle() -> Points:
    return _rounded(np.array([(0, -1.1), (1.16, 0.85), (-1.16, 0.85)]), 0.16)


def _star() -> Points:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.22, 0.56)
    return _rounded(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), 0.1)


def _cross() -> Points:
    """Return a plus sign."""
    a, b = 0.36, 1.06
    quarter = [(a, -b), (a, -a), (b, -a)]
    points = []
    for turn in range(4):
        cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][turn]
        points += [(x * cosine - y * sine, x * sine + y * cosine) for x, y in quarter]
    return _rounded(np.array(points), 0.1)


def _bolt() -> Points:
    """Return a flash of lightning."""
    points = [(0.3, -1.35), (-0.75, 0.2), (-0.1, 0.2), (-0.35, 1.35), (0.75, -0.35), (0.08, -0.35)]
    return _rounded(np.array(points), 0.08)


def _rounded(corners: Points, radius: float) -> Points:
    """Replace each corner of a polygon by a quadratic Bézier curve that begins `radius` before it."""
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    start, end = (corners + radius * _unit(other - corners) for other in (before, after))
    t = np.linspace(0, 1, _CORNER)[None, :, None]
    curves = (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * corners[:, None] + t**2 * end[:, None]
    return np.asarray(curves.reshape(-1, 2))


def _unit(vectors: Points) -> Points:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


_OUTLINES = {
    "circle": lambda: _circle(1.0),
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "cross": _cross,
    "bolt": _bolt,
}
