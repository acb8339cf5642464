"""Edit instructions with the scenes before and after: the training data of Kontext. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from miniature.scene import (
    COLOURS,
    GROUNDS,
    LANDSCAPES,
    PLACES,
    SIZES,
    STYLES,
    Group,
    Scene,
    may_be_shown,
    random_scene,
)
from miniature.wording import LANDSCAPE_WORDS, place_words, plural


@dataclass(frozen=True, slots=True)
class Edit:
    """The scenes of the input images, the scene of the result, and instructions that ask for it."""

    before: tuple[Scene, ...]
    after: Scene
    words: tuple[str, ...]


def random_edit(random: Random, images: int) -> Edit:
    """Draw an edit of one image, or the joining of two, that may be in the training set."""
    while True:
        made = _join(random) if images == 2 else random.choice(_CHANGES)(random, random_scene(random))
        if made is not None and _may_be_trained(made.after):
            return made


def _may_be_trained(scene: Scene) -> bool:
    return all(may_be_shown(group, scene.ground, night=scene.night) for group in scene.groups)


def _recolour(random: Random, scene: Scene) -> Edit | None:
    index = random.randrange(len(scene.groups))
    old = scene.groups[index]
    colour = random.choice([colour for colour in COLOURS if colour != old.colour])
    name, it = _named(scene, index)
    if name is None:
        return None
    words = (f"make {it} {colour}", f"turn {name} {colour}", f"paint {name} {colour}", f"change {name} to {colour}")
    return Edit((scene,), _with_group(scene, index, replace(old, colour=colour)), words)


def _restyle(random: Random, scene: Scene) -> Edit | None:
    index = random.randrange(len(scene.groups))
    old = scene.groups[index]
    style = random.choice([style for style in STYLES if style != old.style])
    name, it = _named(scene, index)
    if name is None:
        return None
    words = (f"make {it} {style}", f"make {name} {style}", f"turn {name} {style}", f"{style}, please")
    return Edit((scene,), _with_group(scene, index, replace(old, style=style)), words)


def _resize(random: Random, scene: Scene) -> Edit | None:
    if len(scene.groups) > 1:
        return None
    old = scene.groups[0]
    size = random.choice([size for size in SIZES if size != old.size])
    way = "larger" if SIZES.index(size) > SIZES.index(old.size) else "smaller"
    # From one end to the other is more than "larger": then the size itself is named.
    words: tuple[str, ...] = (f"make it {size}", f"make {_the(old)} {size}")
    if abs(SIZES.index(size) - SIZES.index(old.size)) == 1:
        words += (f"make {_it(old)} {way}", f"{way}, please")
    return Edit((scene,), _with_group(scene, 0, replace(old, size=size)), words)


def _move(random: Random, scene: Scene) -> Edit | None:
    if len(scene.groups) > 1:
        return None
    place = random.choice([place for place in PLACES if place != scene.place])
    where = place_words(place)[0].replace("on the", "to the").replace("at the", "to the").replace("in the", "to the")
    it, name = _it(scene.groups[0]), _the(scene.groups[0])
    words = (f"move {it} {where}", f"move {name} {where}", f"put {it} {place_words(place)[0]}")
    return Edit((scene,), replace(scene, place=place), words)


def _change_ground(random: Random, scene: Scene) -> Edit:
    ground = random.choice([ground for ground in GROUNDS if ground != scene.ground])
    if ground in LANDSCAPES:
        where = random.choice(LANDSCAPE_WORDS[ground])
        words: tuple[str, ...] = (f"put it {where}", f"the same {where}", where)
    else:
        words = (f"make the background {ground}", f"change the background to {ground}", f"{ground} background")
    return Edit((scene,), replace(scene, ground=ground), words)


def _change_time(_random: Random, scene: Scene) -> Edit:
    words = ("make it day", "by day", "change it to day") if scene.night else ("make it night", "at night", "by night")
    return Edit((scene,), replace(scene, night=not scene.night), words)


_CHANGES: tuple[Callable[[Random, Scene], Edit | None], ...] = (
    _recolour,
    _recolour,
    _restyle,
    _resize,
    _move,
    _change_ground,
    _change_time,
)


def _join(random: Random) -> Edit | None:
    """Join the shapes of two images in one: the first on the left, on the first image's ground."""
    first, second = (random_scene(random) for _ in range(2))
    if len(first.groups) > 1 or len(second.groups) > 1 or first.groups[0].count + second.groups[0].count > 4:
        return None
    if max(first.groups[0].count, second.groups[0].count) > 2:
        return None
    groups = (first.groups[0], replace(second.groups[0], size=first.groups[0].size))
    after = replace(first, groups=groups, place="middle", relation="left of")
    words = (
        "put both in one picture",
        "combine the two pictures",
        "both side by side",
        f"{_the(groups[0])} left of {_the(groups[1])}",
    )
    return Edit((first, second), after, words)


def _with_group(scene: Scene, index: int, group: Group) -> Scene:
    groups = tuple(group if number == index else old for number, old in enumerate(scene.groups))
    return replace(scene, groups=groups)


def _named(scene: Scene, index: int) -> tuple[str | None, str]:
    """Return the group's full and short name within the scene; None if two share the name."""
    group = scene.groups[index]
    if len(scene.groups) == 1:
        return _the(group), _it(group)
    if scene.groups[0].shape == scene.groups[1].shape:
        return None, ""
    return _the(group), _the(group)


def _the(group: Group) -> str:
    return f"the {group.shape if group.count == 1 else plural(group.shape)}"


def _it(group: Group) -> str:
    return "it" if group.count == 1 else "them"
