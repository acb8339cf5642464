"""Placement of a scene's shapes in an image of a given size. Pure.

Shapes lie on the token grid and have few sizes in pixels, independent of the image's size: a shape that is always
aligned with tokens in the same way is learnt in a fraction of the time.

Lengths are in half short sides: a square image reaches from -1 to 1, a wide one further in x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from miniature.scene import PLACES, Group, Scene

#: Radius of one shape alone, and what is left of it when there are several.
_RADII = {"small": 0.2, "medium": 0.32, "large": 0.46}
_SHARE = {1: 1.0, 2: 0.8, 3: 0.64, 4: 0.6}
#: Radii in pixels are these, doubled and halved: two in each octave.
_SMALLEST, _PER_OCTAVE = 22.0, 2
#: Centres stand on multiples of a token's side, in pixels; in smaller images on a grid that divides it.
_TOKEN, _TOKENS_ACROSS = 64, 6
#: Distance from one shape's centre to the next's in radii, at least.
_PITCH = 2.4
_MARGIN = 0.03
#: How far from the middle, in steps of the grid, a place is on a side: in sides of odd lengths a little less than one.
_STEP = 0.75
#: How far towards a side a group is moved, at least where there is space.
_FAR = 0.62
#: How far from its centre a shape reaches, in radii.
_REACH = 1.3
#: Where the members of a group stand, in pitches.
_FORMATIONS: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((0, 0),),
    2: ((-0.5, 0), (0.5, 0)),
    3: ((-0.5, 0.5), (0.5, 0.5), (0, -0.5)),
    4: ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),
}
_COLUMN = ((0, -0.5), (0, 0.5))
_ROW = ((-1, 0), (0, 0), (1, 0))


@dataclass(frozen=True, slots=True)
class PlacedShape:
    """One shape of a group: its centre and radius in half short sides from the image's middle, y down."""

    group: Group
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class _Box:
    """The part of the image in which a group stands: its middle and half its sides, in pixels from the corner."""

    x: float
    y: float
    half_width: float
    half_height: float


@dataclass(frozen=True, slots=True)
class _ShapeSize:
    """A size of shapes, in pixels: their radius, and how far they are apart."""

    radius: float
    pitch: int

    @classmethod
    def at(cls, step: int, grid: int) -> _ShapeSize:
        """Return the size so many steps above the smallest. Half a pitch is on the grid, too."""
        radius = _SMALLEST * 2 ** (step / _PER_OCTAVE)
        return cls(radius, 2 * grid * math.ceil(_PITCH * radius / (2 * grid)))

    def slack(self, half_side: float, pitches: float) -> float:
        """Return how far a group of so many pitches from its middle can be moved; below 0 it does not fit."""
        return half_side - self.radius * _REACH - self.pitch * pitches


@dataclass(frozen=True, slots=True)
class _Canvas:
    """The image's size in pixels."""

    width: int
    height: int

    @property
    def unit(self) -> float:
        """Half the short side."""
        return min(self.width, self.height) / 2

    @property
    def grid(self) -> int:
        return int(min(_TOKEN, 2 ** math.floor(math.log2(2 * self.unit / _TOKENS_ACROSS))))


def place_shapes(scene: Scene, width: int, height: int) -> list[PlacedShape]:
    """Place the scene's shapes in an image of that size in pixels."""
    canvas = _Canvas(width, height)
    placed = [
        (group, x, y, shape_size.radius)
        for group, box, place in _boxes(scene, canvas)
        for shape_size, x, y in _placed(group, box, place, canvas)
    ]
    unit = canvas.unit
    return [
        PlacedShape(group, (x - width / 2) / unit, (y - height / 2) / unit, radius / unit)
        for group, x, y, radius in placed
    ]


def _boxes(scene: Scene, canvas: _Canvas) -> list[tuple[Group, _Box, tuple[int, int]]]:
    """Return the box of each group, and the side of it towards which it is moved."""
    width, height, margin = canvas.width, canvas.height, _MARGIN * canvas.unit
    whole = _Box(width / 2, height / 2, width / 2 - margin, height / 2 - margin)
    if len(scene.groups) < 2:
        return [(group, whole, PLACES[scene.place]) for group in scene.groups]
    halves = _halves(whole, scene.relation or "left of", 1.3 * canvas.unit)
    return [(group, box, (0, 0)) for group, box in zip(scene.groups, halves, strict=True)]


def _halves(whole: _Box, relation: str, widest: float) -> tuple[_Box, _Box]:
    """Split a box for two groups; in a wide image both stay near its middle."""
    if relation in ("left of", "right of"):
        width = min(whole.half_width, widest) / 2
        near, far = (_Box(whole.x + side * width, whole.y, width, whole.half_height) for side in (-1, 1))
    else:
        height = min(whole.half_height, widest) / 2
        near, far = (_Box(whole.x, whole.y + side * height, whole.half_width, height) for side in (-1, 1))
    return (near, far) if relation in ("left of", "above") else (far, near)


def _placed(
    group: Group, box: _Box, place: tuple[int, int], canvas: _Canvas
) -> Iterator[tuple[_ShapeSize, float, float]]:
    """Yield the size and the centre of each of a group's shapes, in pixels from the corner."""
    formation = _formation(group.count, box, place[0])
    wide, high = (max(abs(step[axis]) for step in formation) for axis in (0, 1))
    step = round(_PER_OCTAVE * math.log2(_RADII[group.size] * _SHARE[group.count] * canvas.unit / _SMALLEST))
    shape_size = _ShapeSize.at(step, canvas.grid)
    wide_enough, high_enough = _needed(box.x, place[0], canvas), _needed(box.y, place[1], canvas)
    while shape_size.slack(box.half_width, wide) < wide_enough or shape_size.slack(box.half_height, high) < high_enough:
        step -= 1
        shape_size = _ShapeSize.at(step, canvas.grid)
    x = _on_grid(box.x, place[0], shape_size.slack(box.half_width, wide), canvas)
    y = _on_grid(box.y, place[1], shape_size.slack(box.half_height, high), canvas)
    for column, row in formation:
        yield shape_size, x + shape_size.pitch * column, y + shape_size.pitch * row


def _formation(count: int, box: _Box, side: int) -> tuple[tuple[float, float], ...]:
    """Return the arrangement: two in a column in a high box, three in a row in the middle of a wide one."""
    if count == 2 and box.half_height > 1.5 * box.half_width:
        return _COLUMN
    if count == 3 and box.half_width > box.half_height and not side:
        return _ROW
    return _FORMATIONS[count]


def _on_grid(middle: float, side: int, slack: float, canvas: _Canvas) -> int:
    """Move from a box's middle towards a side, within `slack`, to the nearest grid position."""
    first = _first(middle, side, canvas)
    if not side:
        return first
    far = _FAR * canvas.unit
    nearest = canvas.grid * round((middle + side * min(slack, max(far, (far + slack) / 2))) / canvas.grid)
    within = nearest if abs(nearest - middle) <= slack else nearest - canvas.grid * side
    return max(first, within) if side > 0 else min(first, within)


def _needed(middle: float, side: int, canvas: _Canvas) -> float:
    """Return the least shift that makes the side visible."""
    return abs(_first(middle, side, canvas) - middle) if side else 0


def _first(middle: float, side: int, canvas: _Canvas) -> int:
    """Return the nearest grid position that is a step towards a side, or in the middle."""
    middle_steps = middle / canvas.grid
    steps = side * math.ceil(side * middle_steps + _STEP) if side else round(middle_steps)
    return canvas.grid * steps
