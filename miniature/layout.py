"""Where a scene's shapes stand in an image of a given size. Pure.

They stand on the grid of the miniature's tokens and come in few sizes, counted in pixels whatever the image's size
is: a shape that always falls into tokens in the same way is learnt in a fraction of the time.

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
#: How far towards a side a group is moved, at least where there is room.
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
class Item:
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
class _Stamp:
    """A size of shapes, in pixels: their radius, and how far they are apart."""

    radius: float
    pitch: int

    @classmethod
    def at(cls, step: int, grid: int) -> _Stamp:
        """So many steps larger than the smallest. Half a pitch is on the grid, too."""
        radius = _SMALLEST * 2 ** (step / _PER_OCTAVE)
        return cls(radius, 2 * grid * math.ceil(_PITCH * radius / (2 * grid)))

    def room(self, half_side: float, pitches: float) -> float:
        """How far a group that reaches over so many pitches from its middle can be moved; below 0 it does not fit."""
        return half_side - self.radius * _REACH - self.pitch * pitches


@dataclass(frozen=True, slots=True)
class _Paper:
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


def items(scene: Scene, width: int, height: int) -> list[Item]:
    """The scene's shapes in an image of that size in pixels."""
    paper = _Paper(width, height)
    placed = [
        (group, x, y, stamp.radius)
        for group, box, place in _boxes(scene, paper)
        for stamp, x, y in _placed(group, box, place, paper)
    ]
    unit = paper.unit
    return [
        Item(group, (x - width / 2) / unit, (y - height / 2) / unit, radius / unit) for group, x, y, radius in placed
    ]


def _boxes(scene: Scene, paper: _Paper) -> list[tuple[Group, _Box, tuple[int, int]]]:
    """Where each group stands, and towards which side of that."""
    width, height, margin = paper.width, paper.height, _MARGIN * paper.unit
    whole = _Box(width / 2, height / 2, width / 2 - margin, height / 2 - margin)
    if len(scene.groups) < 2:
        return [(group, whole, PLACES[scene.place]) for group in scene.groups]
    halves = _halves(whole, scene.relation or "left of", 1.3 * paper.unit)
    return [(group, box, (0, 0)) for group, box in zip(scene.groups, halves, strict=True)]


def _halves(whole: _Box, relation: str, widest: float) -> tuple[_Box, _Box]:
    """Two groups in a wide image stand near its middle."""
    if relation in ("left of", "right of"):
        width = min(whole.half_width, widest) / 2
        near, far = (_Box(whole.x + side * width, whole.y, width, whole.half_height) for side in (-1, 1))
    else:
        height = min(whole.half_height, widest) / 2
        near, far = (_Box(whole.x, whole.y + side * height, whole.half_width, height) for side in (-1, 1))
    return (near, far) if relation in ("left of", "above") else (far, near)


def _placed(group: Group, box: _Box, place: tuple[int, int], paper: _Paper) -> Iterator[tuple[_Stamp, float, float]]:
    """The size and the centre of each of a group's shapes, in pixels from the corner."""
    formation = _formation(group.count, box, place[0])
    wide, high = (max(abs(step[axis]) for step in formation) for axis in (0, 1))
    step = round(_PER_OCTAVE * math.log2(_RADII[group.size] * _SHARE[group.count] * paper.unit / _SMALLEST))
    stamp = _Stamp.at(step, paper.grid)
    wide_enough, high_enough = _needed(box.x, place[0], paper), _needed(box.y, place[1], paper)
    while stamp.room(box.half_width, wide) < wide_enough or stamp.room(box.half_height, high) < high_enough:
        step -= 1
        stamp = _Stamp.at(step, paper.grid)
    x = _on_grid(box.x, place[0], stamp.room(box.half_width, wide), paper)
    y = _on_grid(box.y, place[1], stamp.room(box.half_height, high), paper)
    for column, row in formation:
        yield stamp, x + stamp.pitch * column, y + stamp.pitch * row


def _formation(count: int, box: _Box, side: int) -> tuple[tuple[float, float], ...]:
    """How they stand together: two in a column in a high part of the image, three in a row in a wide one's middle."""
    if count == 2 and box.half_height > 1.5 * box.half_width:
        return _COLUMN
    if count == 3 and box.half_width > box.half_height and not side:
        return _ROW
    return _FORMATIONS[count]


def _on_grid(middle: float, side: int, room: float, paper: _Paper) -> int:
    """From a box's middle towards a side of it, within the room that there is, to the nearest place on the grid."""
    first = _first(middle, side, paper)
    if not side:
        return first
    far = _FAR * paper.unit
    nearest = paper.grid * round((middle + side * min(room, max(far, (far + room) / 2))) / paper.grid)
    within = nearest if abs(nearest - middle) <= room else nearest - paper.grid * side
    return max(first, within) if side > 0 else min(first, within)


def _needed(middle: float, side: int, paper: _Paper) -> float:
    """The room without which nobody would see to which side the shapes were moved."""
    return abs(_first(middle, side, paper) - middle) if side else 0


def _first(middle: float, side: int, paper: _Paper) -> int:
    """Of the places on the grid that are a step towards a side, or nowhere, the nearest."""
    middle_steps = middle / paper.grid
    steps = side * math.ceil(side * middle_steps + _STEP) if side else round(middle_steps)
    return paper.grid * steps
