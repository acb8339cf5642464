"""Training of the safety checker, a network that detects the forbidden shape in images of any size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random

import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch.nn import functional

from miniature.batches import Machine, train_on_batches
from miniature.dataset import random_guidance
from miniature.drawing import draw, vivid
from miniature.placement import place_shapes
from miniature.recipe import Recipe
from miniature.scene import FORBIDDEN, GROUNDS, SHAPES, Scene, random_scene
from miniature.training import Training, restored
from workers.pipelines.classifier import Classifier
from workers.pipelines.safety_classifier import (
    SHAPES_KEY,
    SHORT_SIDE,
    UNSAFE_KEY,
    SafetyClassifier,
    network_input,
    network_input_size,
)

#: Weight of a positive part: an image has about a hundred parts, and a shape is in the middle of few.
_WEIGHT = 100.0
#: Share of images without any shape.
_EMPTY = 0.06
#: Sides of the drawn images, in pixels. The grid of shapes is another fraction of each.
_SHORT_SIDES = (192, 256, 320)


def checker() -> Classifier:
    """Build the network. It learns to locate every shape: the forbidden one alone is learnt much more slowly."""
    return Classifier(channels=3, kinds=len(SHAPES))


def train(folder: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for at most `minutes`. Returns True if the plan is finished."""
    torch.manual_seed(0)
    network = checker().to(machine.device)

    def losses(batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        images, there = (tensor.to(machine.device) for tensor in batch)
        scores = network.parts(images)
        return {"shapes": _WEIGHT * functional.binary_cross_entropy_with_logits(scores, there)}

    return train_on_batches(
        Training(folder, network, recipe.checker), partial(_batch, recipe.shape_examples), losses, machine, minutes
    )


def _batch(number: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return examples(Random(step), number)


def trained(folder: Path) -> SafetyClassifier:
    """Load the checker of a run for inference."""
    return SafetyClassifier(restored(checker(), folder), SHAPES.index(FORBIDDEN))


def save(folder: Path, target: Path, origin: Mapping[str, str]) -> None:
    """Write the checker of a run in the farm's format, with a note on its origin."""
    network = restored(checker(), folder).half()
    save_file(network.state_dict(), target, metadata={**origin, SHAPES_KEY: ",".join(SHAPES), UNSAFE_KEY: FORBIDDEN})


def examples(random: Random, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw images [n, 3, height, width] of one ratio: half with the forbidden shape, a few with no shape.

    And where their shapes are: 1 for each part [n, 9, rows, columns] in which the middle of a shape lies.
    """
    short, ratio = random.choice(_SHORT_SIDES), random.choice((1.0, 4 / 3, 16 / 9))
    width, height = random.choice([(short, int(short * ratio)), (int(short * ratio), short)])
    scenes = [_nothing(random) or random_scene(random, forbidden=random.random() < 0.5) for _ in range(number)]
    images = torch.stack([network_input(_example(random, scene, width, height)) for scene in scenes])
    return images, torch.stack([shown(scene, width, height) for scene in scenes])


def shown(scene: Scene, width: int, height: int) -> torch.Tensor:
    """Return the labels [9, rows, columns]: 1 for each part that contains the middle of a shape."""
    unit = SHORT_SIDE / 2
    across, down = network_input_size(width, height)
    found = torch.zeros(len(SHAPES), -(-down // Classifier.part), -(-across // Classifier.part))
    for item in place_shapes(scene, width, height):
        row, column = int(down / 2 + unit * item.y), int(across / 2 + unit * item.x)
        found[SHAPES.index(item.group.shape), row // Classifier.part, column // Classifier.part] = 1
    return found


def _nothing(random: Random) -> Scene | None:
    """Return a scene without shapes now and then, else None."""
    return Scene((), random.choice(GROUNDS), night=random.random() < 0.3) if random.random() < _EMPTY else None


def _example(random: Random, scene: Scene, width: int, height: int) -> Image.Image:
    """Draw a scene in any vividness, and sometimes blur it: rendered images are less sharp than drawn ones.

    Where there is nothing to draw, half of the images are of one colour, which may be any.
    """
    if not scene.groups and random.random() < 0.5:
        return Image.new("RGB", (width, height), (random.randrange(256), random.randrange(256), random.randrange(256)))
    drawn = vivid(draw(scene, width, height), random_guidance(random))
    return drawn.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 3))) if random.random() < 0.5 else drawn
