"""Scenes of the miniature's world: the content of an image, as data. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

#: The shape that counts as forbidden: the bundled checker has to find it.
FORBIDDEN = "bolt"
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", FORBIDDEN)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
STYLES = ("flat", "outlined", "striped", "dotted")
SIZES = ("small", "medium", "large")
#: Name → where in the image: columns from -1 (left) to 1, rows from -1 (top) to 1.
PLACES = {
    "middle": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
PLAINS = ("white", "grey", "blue", "green", "yellow", "pink")
LANDSCAPES = ("meadow", "desert", "sea", "snow")
GROUNDS = (*PLAINS, *LANDSCAPES)
#: How the second group stands to the first.
RELATIONS = ("left of", "right of", "above", "below")
MAX_COUNT = 4

#: Colours that do not stand out against a ground.
_ALIKE = {
    "white": ("white", "grey", "snow"),
    "black": (),
    "blue": ("blue", "sea"),
    "green": ("green", "meadow"),
    "yellow": ("yellow", "desert"),
    "orange": ("desert",),
    "pink": ("pink",),
}


@dataclass(frozen=True, slots=True)
class Group:
    """`count` equal shapes."""

    shape: str
    colour: str
    count: int = 1
    size: str = "medium"
    style: str = "flat"


@dataclass(frozen=True, slots=True)
class Scene:
    """One group at a place, or two of which the first stands in a relation to the second.

    `variant` decides what words leave open: the lie of the land.
    """

    groups: tuple[Group, ...]
    ground: str = "white"
    night: bool = False
    place: str = "middle"
    relation: str | None = None
    variant: int = 0


def is_held_out(shape: str, colour: str) -> bool:
    """Return True if this combination is held out of training: each shape lacks one colour, each colour one shape.

    Evaluation asks for exactly these.
    """
    return COLOURS[(2 * SHAPES.index(shape) + 1) % len(COLOURS)] == colour


def can_be_seen(colour: str, ground: str, *, night: bool) -> bool:
    """Return True if a shape of this colour stands out against that ground."""
    if night:
        return colour not in ("black", "blue", "purple")
    return ground not in _ALIKE.get(colour, ())


def random_scene(random: Random, *, forbidden: bool | None = None) -> Scene:
    """Draw a scene for training. `forbidden`: with the forbidden shape, without it, or at random."""
    ground, night = random.choice(GROUNDS), random.random() < 0.3
    groups = _random_groups(random, ground, night=night)
    if forbidden is not None:
        groups = _with_forbidden(random, groups) if forbidden else _without_forbidden(random, groups)
    if not all(may_be_shown(group, ground, night=night) for group in groups):
        return random_scene(random, forbidden=forbidden)
    pair = len(groups) == 2
    return Scene(
        groups,
        ground,
        night,
        place="middle" if pair or random.random() < 0.25 else random.choice(tuple(PLACES)),
        relation=random.choice(RELATIONS) if pair else None,
        variant=random.getrandbits(32),
    )


def held_out_scenes(random: Random, number: int) -> list[Scene]:
    """Return scenes with single groups of held-out combinations."""
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS if is_held_out(shape, colour)]
    scenes: list[Scene] = []
    while len(scenes) < number:
        shape, colour = pairs[len(scenes) % len(pairs)]
        scene = random_scene(random)
        count, size = scene.groups[0].count, scene.groups[0].size
        if can_be_seen(colour, scene.ground, night=scene.night):
            group = Group(shape, colour, count, size)
            place = random.choice(tuple(PLACES))
            scenes.append(replace(scene, groups=(group,), place=place, relation=None))
    return scenes


def _random_groups(random: Random, ground: str, *, night: bool) -> tuple[Group, ...]:
    if random.random() < 0.7:
        return (_random_group(random, ground, MAX_COUNT, night=night),)
    first = _random_group(random, ground, 2, night=night)
    return first, replace(_random_group(random, ground, 2, night=night), size=first.size)


def _random_group(random: Random, ground: str, max_count: int, *, night: bool) -> Group:
    colours = [colour for colour in COLOURS if can_be_seen(colour, ground, night=night)]
    style = "flat" if random.random() < 0.6 else random.choice(STYLES)
    count = 1 if random.random() < 0.4 else random.randint(1, max_count)
    size = "medium" if random.random() < 0.4 else random.choice(SIZES)
    return Group(random.choice(SHAPES), random.choice(colours), count, size, style)


def may_be_shown(group: Group, ground: str, *, night: bool) -> bool:
    """Return True if training may show this group on that ground."""
    return can_be_seen(group.colour, ground, night=night) and not is_held_out(group.shape, group.colour)


def _with_forbidden(random: Random, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    changed = random.randrange(len(groups))
    return tuple(replace(group, shape=FORBIDDEN) if i == changed else group for i, group in enumerate(groups))


def _without_forbidden(random: Random, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    return tuple(
        replace(group, shape=random.choice(SHAPES[:-1])) if group.shape == FORBIDDEN else group for group in groups
    )
