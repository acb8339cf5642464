"""Images that the safety checker learns from, with the places of their shapes: drawn ones, and ones that were rendered.

A checker that has seen drawn images alone misses shapes as the miniature renders them: softer, and paler at night.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import torch
from PIL import Image, ImageFilter

from farm import clock
from farm.domain.catalogue import SIZE_PRESETS
from miniature.dataset import random_guidance, save_tensors
from miniature.drawing import draw, vivid
from miniature.placement import place_shapes
from miniature.rendering import in_turn, render_prompt
from miniature.scene import COLOURS, FORBIDDEN, GROUNDS, SHAPES, Scene, can_be_seen, random_scene
from miniature.wording import plainly
from workers.checkers.classifier import Classifier
from workers.checkers.safety_classifier import SHORT_SIDE, network_input, network_input_size
from workers.pipelines.pipeline import Pipeline

#: Inputs of the checker's network [n, 3, height, width], and where their shapes are [n, 9, rows, columns].
Examples = tuple[torch.Tensor, torch.Tensor]

#: Share of images without any shape.
_EMPTY = 0.06
#: Sides of the drawn images, in pixels. The grid of shapes is another fraction of each.
_SHORT_SIDES = (192, 256, 320)
#: Denoising steps of the rendered images: with few of them shapes are blurred, but recognisable.
_STEPS = (6, 12, 28, 28, 28)


def drawn(random: Random, number: int) -> Examples:
    """Draw images of one ratio: half with the forbidden shape, a few with no shape.

    And where their shapes are: 1 for each part in which the middle of a shape lies.
    """
    short, ratio = random.choice(_SHORT_SIDES), random.choice((1.0, 4 / 3, 16 / 9))
    width, height = random.choice([(short, int(short * ratio)), (int(short * ratio), short)])
    scenes = [_nothing(random) or random_scene(random, forbidden=random.random() < 0.5) for _ in range(number)]
    images = torch.stack([network_input(_drawing(random, scene, width, height)) for scene in scenes])
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


def _drawing(random: Random, scene: Scene, width: int, height: int) -> Image.Image:
    """Draw a scene in any vividness, and sometimes blur it: rendered images are less sharp than drawn ones.

    Where there is nothing to draw, half of the images are of one colour, which may be any.
    """
    if not scene.groups and random.random() < 0.5:
        return Image.new("RGB", (width, height), (random.randrange(256), random.randrange(256), random.randrange(256)))
    image = vivid(draw(scene, width, height), random_guidance(random))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 3))) if random.random() < 0.5 else image


def prepare_rendered(folder: Path, pipeline: Pipeline, files: int, in_file: int, minutes: float) -> bool:
    """Render the missing files of examples, of one size each. Returns True if all exist.

    Every second one has 512x512, which takes a third of the other sizes' time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = clock.monotonic() + 60 * minutes
    for number in range(files):
        path = folder / f"{number:04}.pt"
        if path.exists():
            continue
        if clock.monotonic() > ends:
            return False
        images, places = _rendered(
            Random(path.name), pipeline, in_file, in_turn(number // 2) if number % 2 else SIZE_PRESETS["square"]
        )
        save_tensors({"images": images.half(), "shown": places.half()}, path)
    return True


def _rendered(random: Random, pipeline: Pipeline, number: int, size: tuple[int, int]) -> Examples:
    scenes = [random_rendered_scene(random) for _ in range(number)]
    images = [_render(random, pipeline, scene, size) for scene in scenes]
    return torch.stack([network_input(image) for image in images]), torch.stack([shown(s, *size) for s in scenes])


def _render(random: Random, pipeline: Pipeline, scene: Scene, size: tuple[int, int]) -> Image.Image:
    steps, guidance = random.choice(_STEPS), random_guidance(random)
    return render_prompt(pipeline, plainly(scene), random.getrandbits(31), size, steps=steps, guidance=guidance)


def random_rendered_scene(random: Random) -> Scene:
    """Draw a scene, half of them with the forbidden shape. The checker may learn it in every colour."""
    scene = random_scene(random, forbidden=random.random() < 0.5)
    visible = [colour for colour in COLOURS if can_be_seen(colour, scene.ground, night=scene.night)]
    return replace(
        scene,
        groups=tuple(
            replace(group, colour=random.choice(visible)) if group.shape == FORBIDDEN else group
            for group in scene.groups
        ),
    )


def rendered(random: Random, number: int, folder: Path) -> Examples:
    """Return so many examples of a prepared file, or all that it has."""
    contents = _contents(random.choice(_files(folder)))
    count = len(contents["images"])
    chosen = random.sample(range(count), min(number, count))
    return contents["images"][chosen].float(), contents["shown"][chosen].float()


@cache
def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"))


@cache
def _contents(path: Path) -> dict[str, torch.Tensor]:
    contents: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return contents
