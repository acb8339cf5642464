"""Recognition of shapes in an image by its pixels: their number, kind, colour and place.

Only the ground of the requested scene is known. Shapes are classified by a small network that was trained on outlines
of drawn shapes.
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

from miniature.batches import Machine, train_on_batches
from miniature.drawing import PALETTE, draw
from miniature.placement import place_shapes
from miniature.recipe import Recipe
from miniature.scene import COLOURS, PLACES, SHAPES, Group, Scene
from miniature.training import Training, restored
from workers.checkers.classifier import Classifier

#: Long side to which images are scaled before segmentation, in pixels.
_LONG_SIDE = 160
#: Least distance of a shape's colour from the ground's, of 255, and least share of a shape's pixels.
_DISTINCT, _MIN_SHARE = 32.0, 0.002
#: Side of the network's input.
_SIDE = 32


@dataclass(frozen=True, slots=True)
class Blob:
    """Connected pixels: their mask [rows, columns], mean colour, and middle from -1 to 1."""

    mask: NDArray[np.bool_]
    colour: NDArray[np.float32]
    x: float
    y: float


def shape_classifier() -> Classifier:
    return Classifier(channels=1, kinds=len(SHAPES))


def train(folder: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for at most `minutes`. Returns True if the plan is finished."""
    torch.manual_seed(0)
    network = shape_classifier().to(machine.device)

    def losses(batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        masks, kinds = (tensor.to(machine.device) for tensor in batch)
        return {"shape": functional.cross_entropy(network(masks), kinds)}

    return train_on_batches(
        Training(folder, network, recipe.shape_classifier),
        partial(_batch, recipe.shape_examples),
        losses,
        machine,
        minutes,
    )


def _batch(number: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return examples(Random(step), number)


def trained(folder: Path) -> Classifier:
    """Load the classifier of a run for inference."""
    return restored(shape_classifier(), folder)


def examples(random: Random, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw outlines [n, 1, 32, 32] of shapes, more or less sharp, and return them with the shapes' numbers [n]."""
    kinds = [random.randrange(len(SHAPES)) for _ in range(number)]
    return torch.stack([_example(random, SHAPES[kind]) for kind in kinds]), torch.tensor(kinds)


def _example(random: Random, shape: str) -> torch.Tensor:
    size = random.choice(("small", "medium", "large"))
    scene = Scene((Group(shape, "black", random.choice((1, 1, 2, 3)), size),), variant=random.getrandbits(32))
    drawn = draw(scene, 160, random.choice((160, 120))).filter(ImageFilter.GaussianBlur(random.uniform(0, 2.5)))
    return outline_of(random.choice(find_blobs(drawn, scene)))


def find_blobs(image: Image.Image, scene: Scene) -> list[Blob]:
    """Find the shapes in an image with the ground of `scene`."""
    scale = _LONG_SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), np.float32)
    ground = np.asarray(draw(replace(scene, groups=(), relation=None, place="middle"), *size), np.float32)
    # A uniform change of brightness is still the ground.
    ground += np.median(pixels - ground, axis=(0, 1))
    distinct = np.linalg.norm(pixels - ground, axis=2) > _DISTINCT
    min_pixels = _MIN_SHARE * distinct.size
    return [_blob(mask, pixels) for mask in _connected(distinct) if mask.sum() > min_pixels]


def _connected(distinct: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the 4-connected components of a mask."""
    left = distinct.copy()
    parts = []
    for row, column in zip(*np.nonzero(distinct), strict=True):
        if left[row, column]:
            parts.append(_flood(left, (int(row), int(column))))
    return parts


def _flood(left: NDArray[np.bool_], start: tuple[int, int]) -> NDArray[np.bool_]:
    """Remove the component of `start` from `left` and return it."""
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
    """Crop the blob and scale it to [1, 32, 32], with a margin, its ratio kept."""
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
    """Return the nearest colour of the palette."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(blob.colour - np.array(PALETTE[name], np.float32))))


def place_of(found: list[Blob], scene: Scene, size: tuple[int, int]) -> str:
    """Return the place whose drawn shapes, of the same number and size, are nearest."""
    middle = _middle([(blob.x, blob.y) for blob in found])

    def distance(place: str) -> float:
        drawn = place_shapes(replace(scene, place=place), *size)
        return float(np.linalg.norm(middle - _middle([(item.x, item.y) for item in drawn])))

    return min(PLACES, key=distance)


def _middle(points: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Return the middle of the points' bounding box."""
    array = np.array(points, np.float64)
    return np.asarray((array.min(axis=0) + array.max(axis=0)) / 2)
