"""Recognition of rendered images: the words of the most similar drawing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from miniature.drawing import draw
from miniature.scene import COLOURS, PLACES, SHAPES, Group, Scene

#: How land may lie: no word says it.
_VARIANTS = range(4)


def likeness(image: Image.Image, scene: Scene) -> Scene:
    """Return the scene with the shape, colour and number of the image's one group, each recognised on its own."""
    [group] = scene.groups
    alike = _nearest(image, [replace(scene, variant=variant) for variant in _VARIANTS])
    alike = _nearest(image, [replace(alike, place=place) for place in PLACES])

    def nearest(groups: Iterable[Group]) -> Group:
        return _nearest(image, [replace(alike, groups=(other,)) for other in groups]).groups[0]

    shape = nearest(replace(group, shape=shape) for shape in SHAPES).shape
    colour = nearest(replace(group, colour=colour) for colour in COLOURS).colour
    count = nearest(replace(group, count=count) for count in (1, 2, 3, 4)).count
    return replace(scene, groups=(replace(group, shape=shape, colour=colour, count=count),))


def _nearest(image: Image.Image, scenes: Iterable[Scene]) -> Scene:
    seen = np.asarray(image, np.float32)
    return min(scenes, key=lambda scene: np.abs(seen - np.asarray(draw(scene, *image.size), np.float32)).mean())
