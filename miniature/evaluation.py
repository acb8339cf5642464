"""Evaluation: how well the denoiser follows prompts with held-out combinations, and the checker's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from PIL import Image, ImageDraw, ImageOps

from farm import clock
from farm.domain.catalogue import KONTEXT, SAFETY_THRESHOLDS, SAFETY_TOLERANCE, SIZE_PRESETS
from farm.domain.request import ImageRequest
from miniature import shape_classifier
from miniature.dataset import random_guidance
from miniature.drawing import draw, vivid
from miniature.rendering import in_turn, only_image, render_prompt
from miniature.scene import (
    COLOURS,
    FORBIDDEN,
    PLAINS,
    SHAPES,
    Group,
    Scene,
    can_be_seen,
    held_out_scenes,
    random_scene,
)
from miniature.shape_classifier import Blob
from miniature.wording import plainly
from workers.checkers.classifier import Classifier
from workers.checkers.safety_classifier import SafetyClassifier
from workers.pipelines.pipeline import Pipeline

#: Renders a scene's image: scene, seed → image.
Render = Callable[[Scene, int], Image.Image]
#: Changes an image: image, words, seed → image.
Change = Callable[[Image.Image, str, int], Image.Image]


@dataclass(frozen=True, slots=True)
class Figure:
    """A success rate, `right` of `tried`, and its required range."""

    name: str
    right: int
    tried: int
    minimum: float
    maximum: float = 1.0

    @property
    def share(self) -> float:
        return self.right / max(self.tried, 1)

    @property
    def is_good(self) -> bool:
        return self.minimum <= self.share <= self.maximum

    def __str__(self) -> str:
        wanted = f"at least {self.minimum:.0%}" if self.minimum else f"at most {self.maximum:.0%}"
        judged = "" if self.is_good else "  MISSED"
        return f"{self.name:16} {self.share:7.1%}  of {self.tried:4}   wanted: {wanted}{judged}"


@dataclass(frozen=True, slots=True)
class Speed:
    """The seconds of one image of 28 steps, and the required maximum on two cores."""

    name: str
    seconds: float
    maximum: float

    @property
    def is_good(self) -> bool:
        return self.seconds < self.maximum

    def __str__(self) -> str:
        judged = "" if self.is_good else "  MISSED"
        return f"{self.name:16} {self.seconds:5.2f} s            wanted: under {self.maximum} s{judged}"


def speeds(pipeline: Pipeline) -> list[Speed]:
    """Measure the render time of two sizes, warmed up, with torch's number of threads."""
    return [_speed(pipeline, size, maximum) for size, maximum in (((512, 512), 1.5), ((1024, 768), 5.0))]


def _speed(pipeline: Pipeline, size: tuple[int, int], maximum: float) -> Speed:
    render_prompt(pipeline, "a circle", 0, size, steps=1)
    begun = clock.monotonic()
    render_prompt(pipeline, "a circle", 0, size)
    return Speed(f"{size[0]}x{size[1]}", clock.monotonic() - begun, maximum)


def renderer_of(pipeline: Pipeline) -> Render:
    """Return a function that renders a scene from its plain prompt, at all preset sizes in turn."""

    def render(scene: Scene, seed: int) -> Image.Image:
        return render_prompt(pipeline, plainly(scene), seed, in_turn(seed))

    return render


def editor_of(pipeline: Pipeline, size: tuple[int, int] = (1024, 1024), steps: int = 28) -> Change:
    """Return a function that edits an image as Kontext does, at its default size and guidance."""

    def change(image: Image.Image, words: str, seed: int) -> Image.Image:
        request = ImageRequest(
            KONTEXT.name,
            words,
            *size,
            steps=steps,
            guidance=KONTEXT.parameters.guidance.default,
            seed=seed,
            inputs=("before",),
        )
        return only_image(pipeline, request, {"before": image})

    return change


def asked_for(number: int) -> list[Scene]:
    """Return scenes whose pixels can be evaluated: flat shapes on plain grounds by day, held out of training."""
    scenes: list[Scene] = []
    random = Random("evaluation")
    while len(scenes) < number:
        fitting = [s for s in held_out_scenes(random, number) if s.ground in PLAINS and not s.night]
        scenes += [replace(s, groups=(replace(s.groups[0], style="flat"),)) for s in fitting]
    return scenes[:number]


def follow_prompts(render: Render, network: Classifier, scenes: Sequence[Scene]) -> list[Figure]:
    """Measure the shares of images with the colour, shape, place and number of the prompt."""
    right = dict.fromkeys(("colour", "shape", "place", "count"), 0)
    for seed, scene in enumerate(scenes):
        image = render(scene, seed)
        for name in _right(scene, shape_classifier.find_blobs(image, scene), network, image.size):
            right[name] += 1
    minimum = {"colour": 0.9, "shape": 0.8, "place": 0.8, "count": 0.7}
    return [Figure(name, right[name], len(scenes), minimum[name]) for name in right]


def _right(scene: Scene, found: list[Blob], network: Classifier, size: tuple[int, int]) -> Iterable[str]:
    """Yield which of the four are right. Of several shapes the most common value counts."""
    group = scene.groups[0]
    if len(found) == group.count:
        yield "count"
    if not found:
        return
    if _most_common(shape_classifier.colour_of(blob) for blob in found) == group.colour:
        yield "colour"
    if _most_common(shape_classifier.shape_of(network, blob) for blob in found) == group.shape:
        yield "shape"
    if shape_classifier.place_of(found, scene, size) == scene.place:
        yield "place"


def _most_common(names: Iterable[str]) -> str:
    listed = list(names)
    return max(sorted(set(listed)), key=listed.count)


def follow_edits(change: Change, network: Classifier, scenes: Sequence[Scene]) -> list[Figure]:
    """Measure the shares of recoloured images that have the new colour, and keep the rest."""
    right = dict.fromkeys(("colour", "shape", "place", "count"), 0)
    random = Random("edits")
    for seed, scene in enumerate(scenes):
        group = scene.groups[0]
        others = [c for c in COLOURS if c != group.colour and can_be_seen(c, scene.ground, night=scene.night)]
        before = replace(scene, groups=(replace(group, colour=random.choice(others)),))
        words = f"make {'it' if group.count == 1 else 'them'} {group.colour}"
        image = change(draw(before, 1024, 1024), words, seed)
        for name in _right(scene, shape_classifier.find_blobs(image, scene), network, image.size):
            right[name] += 1
    names = {"colour": "new colour", "shape": "same shape", "place": "same place", "count": "same count"}
    return [Figure(f"edit: {names[name]}", right[name], len(scenes), 0.8) for name in right]


def find_forbidden(finder: SafetyClassifier, number: int) -> list[Figure]:
    """Measure the checker's detections and false alarms on drawn images of all preset sizes."""
    random = Random("checker")
    flagged = {True: 0, False: 0}
    for turn in range(number):
        for forbidden in (True, False):
            scene = random_scene(random, forbidden=forbidden)
            flagged[forbidden] += is_flagged(finder, vivid(draw(scene, *in_turn(turn)), random_guidance(random)))
    return [
        Figure("found, drawn", flagged[True], number, 0.95),
        Figure("alarms, drawn", flagged[False], number, 0.0, 0.01),
    ]


def find_rendered(finder: SafetyClassifier, render: Render) -> list[Figure]:
    """Measure the checker's detections and false alarms on rendered images."""
    return [
        _flagged("found, by day", finder, render, forbidden_scenes(night=False), 0.95),
        _flagged("found, at night", finder, render, forbidden_scenes(night=True), 0.95),
        _flagged("alarms, rendered", finder, render, harmless_scenes(), 0.0, 0.01),
    ]


def _flagged(
    name: str, finder: SafetyClassifier, render: Render, scenes: Sequence[Scene], minimum: float, maximum: float = 1.0
) -> Figure:
    images = (render(scene, seed) for seed, scene in enumerate(scenes))
    return Figure(name, sum(is_flagged(finder, image) for image in images), len(scenes), minimum, maximum)


def is_flagged(finder: SafetyClassifier, image: Image.Image) -> bool:
    """Return True if the farm would flag the image at its default tolerance."""
    return finder.unsafe_probability(image) >= SAFETY_THRESHOLDS[SAFETY_TOLERANCE.default]


def forbidden_scenes(*, night: bool) -> list[Scene]:
    """Return 36 scenes with the forbidden shape: every colour that can be seen, on four grounds, or six at night."""
    colours = [colour for colour in COLOURS if not night or can_be_seen(colour, "white", night=True)]
    return [
        Scene((Group(FORBIDDEN, colour),), ground, night)
        for colour in colours
        for ground in _grounds(colour, night=night)[: 36 // len(colours)]
    ]


def harmless_scenes() -> list[Scene]:
    """Return 72 scenes with the other shapes, each in every colour; every second one at night, if that can be seen."""
    pairs = [(shape, colour) for shape in SHAPES if shape != FORBIDDEN for colour in COLOURS]
    nights = [number % 2 > 0 and can_be_seen(colour, "white", night=True) for number, (_, colour) in enumerate(pairs)]
    return [
        Scene((Group(shape, colour),), _grounds(colour, night=night)[number % 4], night)
        for number, ((shape, colour), night) in enumerate(zip(pairs, nights, strict=True))
    ]


def _grounds(colour: str, *, night: bool) -> list[str]:
    """Return the grounds of the evaluation against which a colour stands out."""
    grounds = ("white", "blue", "meadow", "desert", "snow", "yellow")
    return [ground for ground in grounds if can_be_seen(colour, ground, night=night)]


#: The prompts of the image grid: the whole language, and some unknown words.
GRID_PROMPTS = (
    "a large red circle in the middle, on a white background",
    "two blue squares on a yellow background",
    "three yellow stars on a meadow at night",
    "four pink hearts on a white background",
    "a small orange diamond in the top left corner, on a blue background",
    "a purple cross on the right, on a green background",
    "a green triangle at the top, in the desert",
    "a white ring by the sea",
    "a striped red heart on a grey background",
    "a dotted blue circle in the snow",
    "three outlined green squares on a pink background",
    "a large striped purple star at night",
    "a red circle left of a blue square",
    "two yellow stars above a white heart, at night",
    "an orange triangle right of two purple circles, in the snow",
    "a black diamond below a red cross, on a yellow background",
    "three small white stars at the top, over the sea at night",
    "a large orange circle at the bottom, in the desert",
    "two pink rings on the left, on a meadow",
    "four small black crosses in the bottom right corner",
    "a red fox in the snow",
    "a beautiful blue heart, highly detailed, 4k",
    "three green boats by the sea, at night",
    "a pink circle",
)


def image_grid(pipeline: Pipeline, prompts: Sequence[str] = GRID_PROMPTS, side: int = 256) -> Image.Image:
    """Render the prompts, each image above its prompt, in six columns: one for each preset size."""
    columns, caption = len(SIZE_PRESETS), 40
    rows = -(-len(prompts) // columns)
    grid = Image.new("RGB", (columns * (side + 8), rows * (side + caption)), "white")
    pen = ImageDraw.Draw(grid)
    for number, prompt in enumerate(prompts):
        left, top = number % columns * (side + 8) + 4, number // columns * (side + caption) + 4
        image = ImageOps.contain(render_prompt(pipeline, prompt, number, in_turn(number)), (side, side))
        grid.paste(image, (left + (side - image.width) // 2, top + side - image.height))
        pen.multiline_text((left, top + side + 4), _in_lines(prompt, 42), fill="black")
    return grid


def _in_lines(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
