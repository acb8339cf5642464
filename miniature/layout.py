"""Where a scene's shapes stand in a picture of a given ratio. Pure.

Lengths are in half short sides: a square picture reaches from -1 to 1, a wide one further in x.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from miniature.scene import PLACES, Group, Scene

#: Radius of one shape alone, and what is left of it when there are several.
_RADII = {"small": 0.2, "medium": 0.32, "large": 0.46}
_SHARE = {1: 1.0, 2: 0.8, 3: 0.64, 4: 0.6}
#: Distance from one shape's centre to the next's, in radii.
_PITCH = 2.85
_MARGIN = 0.1
#: How far from its centre a shape reaches, in radii.
_REACH = 1.3
#: Where the members of a group stand, in pitches.
_FORMATIONS: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    1: (((0, 0),),),
    2: (((-0.5, 0), (0.5, 0)), ((0, -0.5), (0, 0.5))),
    3: (((-1, 0), (0, 0), (1, 0)), ((-0.5, 0.43), (0.5, 0.43), (0, -0.43))),
    4: (((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One shape of a group: its centre and radius in half short sides from the picture's middle, y down."""

    group: Group
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class _Box:
    """The part of the picture in which a group stands: its middle and half its sides."""

    x: float
    y: float
    half_width: float
    half_height: float


def items(scene: Scene, ratio: float) -> list[Item]:
    """The scene's shapes in a picture of `ratio` (width by height)."""
    random = Random(scene.variant)
    whole = _Box(0, 0, max(ratio, 1.0) - _MARGIN, max(1 / ratio, 1.0) - _MARGIN)
    if not scene.groups:
        return []
    if len(scene.groups) == 1:
        return _placed(scene.groups[0], whole, PLACES[scene.place], random)
    boxes = _halves(whole, scene.relation or "left of")
    pairs = zip(scene.groups, boxes, strict=True)
    return [item for group, box in pairs for item in _placed(group, box, (0, 0), random)]


def _halves(whole: _Box, relation: str) -> tuple[_Box, _Box]:
    if relation in ("left of", "right of"):
        # Two groups in a wide picture stand near its middle.
        width = min(whole.half_width, 1.3) / 2
        near, far = (_Box(side * width, 0, width, whole.half_height) for side in (-1, 1))
    else:
        height = min(whole.half_height, 1.3) / 2
        near, far = (_Box(0, side * height, whole.half_width, height) for side in (-1, 1))
    return (near, far) if relation in ("left of", "above") else (far, near)


def _placed(group: Group, box: _Box, place: tuple[int, int], random: Random) -> list[Item]:
    radius = _RADII[group.size] * _SHARE[group.count]
    formation = _formation(group.count, box, random)
    wide, high = (max(abs(step[axis]) for step in formation) for axis in (0, 1))
    # Shrink what would not fit.
    radius = min(radius, box.half_width / (_REACH + _PITCH * wide), box.half_height / (_REACH + _PITCH * high))
    room_x = box.half_width - radius * (_REACH + _PITCH * wide)
    room_y = box.half_height - radius * (_REACH + _PITCH * high)
    x = box.x + _shift(place[0], room_x)
    y = box.y + _shift(place[1], room_y)
    pitch = _PITCH * radius
    return [Item(group, x + pitch * column, y + pitch * row, radius) for column, row in formation]


def _formation(count: int, box: _Box, random: Random) -> tuple[tuple[float, float], ...]:
    """A column only in a high part of the picture, a row only in one that is not narrow."""
    fitting = _FORMATIONS[count]
    if count == 2:
        return fitting[1] if box.half_height > 1.5 * box.half_width else fitting[0]
    return random.choice(fitting) if box.half_width >= box.half_height else fitting[-1]


def _shift(side: int, room: float) -> float:
    """From the middle towards a side, within the room that there is."""
    return side * min(room, 0.62 + 0.5 * max(0.0, room - 0.62))
