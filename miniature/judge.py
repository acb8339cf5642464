"""What is to be seen in an image, found by its pixels: how many shapes, which, in what colour, and where.

It knows the ground that was asked for, and nothing else of what the image should show. Shapes are told apart by a
small network that has seen outlines of drawn shapes only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch.nn import functional

from miniature.drawing import PALETTE, draw
from miniature.feed import Machine, learn
from miniature.layout import items
from miniature.recipe import Recipe
from miniature.scene import COLOURS, PLACES, SHAPES, Group, Scene
from miniature.training import Training, restored
from workers.pipelines.classifier import Classifier

#: Long side to which images are brought before they are taken apart, in pixels.
_LONG_SIDE = 160
#: How far a pixel's colour has to be from the ground's, of 255, and how many pixels make a shape, of all.
_DISTINCT, _LEAST_SHARE = 32.0, 0.002
#: Side of the outline that the network looks at.
_SIDE = 32


@dataclass(frozen=True, slots=True)
class Blob:
    """Pixels that hang together: which they are [rows, columns], their mean colour, and their middle from -1 to 1."""

    mask: NDArray[np.bool_]
    colour: NDArray[np.float32]
    x: float
    y: float


def judge() -> Classifier:
    return Classifier(channels=1, kinds=len(SHAPES))


def train(folder: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for so long at most; says whether the plan is fulfilled."""
    torch.manual_seed(0)
    network = judge().to(machine.device)

    def losses(batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        masks, kinds = (tensor.to(machine.device) for tensor in batch)
        return {"shape": functional.cross_entropy(network(masks), kinds)}

    return learn(Training(folder, network, recipe.judge), partial(_batch, recipe.looks), losses, machine, minutes)


def _batch(number: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return examples(Random(step), number)


def trained(folder: Path) -> Classifier:
    """The judge of a training's folder, ready to look."""
    return restored(judge(), folder)


def examples(random: Random, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outlines [n, 1, 32, 32] of drawn shapes, more or less sharp, and the shapes' numbers [n]."""
    kinds = [random.randrange(len(SHAPES)) for _ in range(number)]
    return torch.stack([_example(random, SHAPES[kind]) for kind in kinds]), torch.tensor(kinds)


def _example(random: Random, shape: str) -> torch.Tensor:
    size = random.choice(("small", "medium", "large"))
    scene = Scene((Group(shape, "black", random.choice((1, 1, 2, 3)), size),), variant=random.getrandbits(32))
    drawn = draw(scene, 160, random.choice((160, 120))).filter(ImageFilter.GaussianBlur(random.uniform(0, 2.5)))
    return outline_of(random.choice(blobs(drawn, scene)))


def blobs(image: Image.Image, scene: Scene) -> list[Blob]:
    """The shapes in an image, whose ground is that of `scene`."""
    scale = _LONG_SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), np.float32)
    ground = np.asarray(draw(replace(scene, groups=(), relation=None, place="middle"), *size), np.float32)
    # What is brighter or darker all over is still the ground.
    ground += np.median(pixels - ground, axis=(0, 1))
    distinct = np.linalg.norm(pixels - ground, axis=2) > _DISTINCT
    least = _LEAST_SHARE * distinct.size
    return [_blob(mask, pixels) for mask in _connected(distinct) if mask.sum() > least]


def _connected(distinct: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The parts of a mask whose pixels touch at a side."""
    left = distinct.copy()
    parts = []
    for row, column in zip(*np.nonzero(distinct), strict=True):
        if left[row, column]:
            parts.append(_flood(left, (int(row), int(column))))
    return parts


def _flood(left: NDArray[np.bool_], start: tuple[int, int]) -> NDArray[np.bool_]:
    """Take from `left` all that hangs together with `start`."""
    rows, columns = left.shape
    part = np.zeros_like(left)
    waiting = deque([start])
    left[start] = False
    while waiting:
        row, column = waiting.popleft()
        part[row, column] = True
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < rows and 0 <= near[1] < columns and left[near]:
                left[near] = False
                waiting.append(near)
    return part


def _blob(mask: NDArray[np.bool_], pixels: NDArray[np.float32]) -> Blob:
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    short = min(width, height) / 2
    x, y = ((columns.min() + columns.max() + 1 - width) / 2 / short, (rows.min() + rows.max() + 1 - height) / 2 / short)
    return Blob(mask, np.median(pixels[mask], axis=0), float(x), float(y))


def outline_of(blob: Blob) -> torch.Tensor:
    """The blob's pixels cut out and brought to [1, 32, 32], with a margin, their ratio kept."""
    rows, columns = np.nonzero(blob.mask)
    cut = blob.mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    side = max(cut.shape)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut * 255
    inner = Image.fromarray(square).resize((_SIDE - 6, _SIDE - 6), Image.Resampling.BILINEAR)
    whole = Image.new("L", (_SIDE, _SIDE))
    whole.paste(inner, (3, 3))
    return torch.from_numpy(np.asarray(whole).copy())[None].float() / 127.5 - 1


def shape_of(network: Classifier, blob: Blob) -> str:
    with torch.inference_mode():
        return SHAPES[int(network(outline_of(blob)[None])[0].argmax())]


def colour_of(blob: Blob) -> str:
    """The palette's nearest."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(blob.colour - np.array(PALETTE[name], np.float32))))


def place_of(found: list[Blob], scene: Scene, size: tuple[int, int]) -> str:
    """Where the shapes stand: at the place where drawn ones of the same number and size stand nearest to them."""
    middle = _middle([(blob.x, blob.y) for blob in found])

    def distance(place: str) -> float:
        drawn = items(replace(scene, place=place), *size)
        return float(np.linalg.norm(middle - _middle([(item.x, item.y) for item in drawn])))

    return min(PLACES, key=distance)


def _middle(points: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Of the rectangle around them."""
    array = np.array(points, np.float64)
    return np.asarray((array.min(axis=0) + array.max(axis=0)) / 2)
