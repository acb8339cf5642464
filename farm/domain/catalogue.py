"""The catalogue: every model that the farm can serve, what each takes in each dialect, and the limits of a request.

Dialects, OpenAPI, CLI and pipelines read it. A further model on known weights is one more entry in `MODELS`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from itertools import chain
from typing import Generic, Literal, TypeVar

Acceleration = Literal["none", "regular", "high"]
OutputFormat = Literal["jpeg", "png"]

N = TypeVar("N", int, float)

#: fal's presets, in pixels (width, height). Source: fal's own toolkit.
SIZE_PRESETS: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}

#: Kontext's ratios and the size of each, in pixels: the nearest entries of diffusers' list of its training sizes.
KONTEXT_SIZES: dict[str, tuple[int, int]] = {
    "21:9": (1568, 672),
    "16:9": (1392, 752),
    "4:3": (1184, 880),
    "3:2": (1248, 832),
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:4": (880, 1184),
    "9:16": (752, 1392),
    "9:21": (672, 1568),
}

#: Further sizes that callers often ask for: OpenAI's, 16:9 in HD, that of AI/ML API's example, and SDXL's, which other
#: programs offer. Sources: the providers' pages; Stability AI's report on SDXL (arXiv 2307.01952), appendix I.
COMMON_SIZES: tuple[tuple[int, int], ...] = (
    (1536, 1024),
    (1024, 1536),
    (1280, 720),
    (720, 1280),
    (1440, 512),
    (1152, 896),
    (896, 1152),
    (1216, 832),
    (832, 1216),
    (1344, 768),
    (768, 1344),
)

#: Side of the square that one token of FLUX.1 covers, in pixels.
TOKEN_SIDE = 16
#: Side of an image, in pixels.
MIN_SIDE = 256
MAX_SIDE = 2560
#: Most pixels of one image (2.8 megapixels).
MAX_PIXELS = 2_800_000
MAX_STEPS = 50
MAX_GUIDANCE = 20
#: Most images that one request renders, that one request brings, and that a worker has in flight.
MAX_IMAGES = 4
MAX_INPUTS = 4
#: Largest file of an input image.
MAX_INPUT_BYTES = 50_000_000
BATCH_IMAGES = 4
MAX_PROMPT = 4000  # characters
#: Quality of a JPEG file, where callers do not ask for less. More makes files larger and nothing better.
MAX_JPEG_QUALITY = 95
#: Seeds are unsigned 32-bit numbers; the seeds of a request's later images wrap around there.
SEEDS = 2**32
#: Random seeds are drawn from 1 up to this one, because every dialect accepts it back.
MAX_RANDOM_SEED = 2**31 - 4
#: Largest file that a caller may upload, in bytes, and how many parts it may come in. Clients send parts of 10 MiB.
MAX_UPLOAD = 200 * 1024 * 1024
MAX_UPLOAD_PARTS = 1000
#: Jobs that one stream of events may follow by their ids.
MAX_WATCHED_JOBS = 32
#: Most lines of a bulk file, and the most bytes of one of them. The file itself is an upload.
MAX_BULK_LINES = 100_000
MAX_BULK_LINE = 16 * 1024 * 1024
#: Longest time that a caller may give for the completion of a bulk, in seconds.
MAX_BULK_SECONDS = 14 * 86400


@dataclass(frozen=True, slots=True)
class Range(Generic[N]):
    """The values that a parameter may have, both ends included, and its default."""

    min: N
    max: N
    default: N


def fixed(value: N) -> Range[N]:
    """Return the range of a parameter that callers cannot set."""
    return Range(value, value, value)


#: How strict the safety checker is: 1 is the strictest.
SAFETY_TOLERANCE = Range(1, 6, default=2)
#: Safety tolerance → probability of being unsafe from which on a checker flags an image. Evenly spread around 0.5; none
#: is so high that nothing is flagged.
SAFETY_THRESHOLDS = {1: 0.2, 2: 0.35, 3: 0.5, 4: 0.65, 5: 0.8, 6: 0.95}
#: Safety tolerance → how far beyond a concept's own threshold an image's cosine must be, for the checker `clip`, which
#: knows no probabilities. The default is CompVis's own decision; its own adjustment for special concepts is 0.01.
CLIP_MARGINS = {1: -0.01, 2: 0.0, 3: 0.005, 4: 0.01, 5: 0.015, 6: 0.02}

#: Labels of an image classifier that count as unsafe unless FARM_SAFETY_LABELS names others. Capital letters make no
#: difference.
UNSAFE_LABELS = ("nsfw", "unsafe", "porn", "hentai", "sexual", "explicit", "medium", "high")


class Weights(StrEnum):
    """Trained weights. A pipeline loads them, and then serves every model that is rendered with them."""

    SRPO = "srpo"
    KONTEXT = "kontext"


class Task(StrEnum):
    """The task of a model: what it renders an image from."""

    TEXT_TO_IMAGE = "text to image"
    #: Denoising starts from the input image with noise added.
    IMAGE_TO_IMAGE = "image to image"
    #: The prompt is an instruction about the input image.
    EDIT = "edit"
    #: The prompt is an instruction about several input images.
    MULTI_EDIT = "several images"


#: Models of one kind take the same fields.
Kind = tuple[Weights, Task]
#: Task → the least and the most input images.
_INPUT_IMAGES: Mapping[Task, tuple[int, int]] = {
    Task.TEXT_TO_IMAGE: (0, 0),
    Task.IMAGE_TO_IMAGE: (1, 1),
    Task.EDIT: (1, 1),
    Task.MULTI_EDIT: (1, MAX_INPUTS),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The numeric parameters of a model."""

    steps: Range[int]
    guidance: Range[float]
    #: How much to change the input image; of image to image only.
    strength: Range[float] | None = None


@dataclass(frozen=True, slots=True)
class SideLimits:
    """The sides that an image may have in a dialect, in pixels. `str` is the text for error messages."""

    min: int = MIN_SIDE
    max: int = MAX_SIDE
    multiple: int = 1

    def allow(self, side: int) -> bool:
        """Return True if an image may have this side."""
        return self.min <= side <= self.max and side % self.multiple == 0

    def __str__(self) -> str:
        multiples = f", in multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.min}–{self.max} pixels a side{multiples}"


@dataclass(frozen=True, slots=True)
class DialectTerms:
    """The limits and defaults of one dialect that hold for each of its models.

    `min_seed`, `max_seed`: the seeds that a caller may give. `size`: the preset of an image without a size.
    `missing_side`: one side where the other alone is given, 0 where both are required. `acceleration`: the level
    that the provider's callers get by default. `safety`: whether images are checked by default. `always_checked`:
    callers cannot turn that off.
    """

    sides: SideLimits = SideLimits()
    min_seed: int = 0
    max_seed: int = SEEDS - 1
    size: str = "landscape_4_3"
    missing_side: int = 512
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"
    safety: bool = True
    always_checked: bool = False


#: Dialect → its terms. `native`, the farm's own, has fal's.
TERMS: Mapping[str, DialectTerms] = {
    "native": DialectTerms(),
    "fal": DialectTerms(),
    "openai": DialectTerms(size="square_hd", output_format="png"),
    "aimlapi": DialectTerms(
        sides=SideLimits(512, 1536, multiple=32), min_seed=1, missing_side=0, acceleration="regular"
    ),
    "siraya": DialectTerms(output_format="png", acceleration="regular", safety=False),
    # The seed -1 asks for a random one.
    "wavespeed": DialectTerms(
        sides=SideLimits(256, 1536),
        min_seed=-1,
        max_seed=2**31 - 1,
        size="square_hd",
        missing_side=1024,
        always_checked=True,
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model: what it makes, with which weights, from which parameters, and the ids by which callers name it.

    `name` is what workers announce and the farm's own id. The models of a `family` differ in their input images only:
    where a dialect lets callers name the family, the number of images that they send selects the model.
    """

    name: str
    title: str
    weights: Weights
    task: Task
    family: str
    parameters: Parameters
    #: Dialect → the ids by which its callers name the model.
    ids_of: Mapping[str, tuple[str, ...]]
    #: Dialect → its own parameters, where they differ.
    parameters_of: Mapping[str, Parameters] = field(default_factory=dict)
    #: The sizes of its images by the ratio of their sides; None: any size within the limits.
    sizes: Mapping[str, tuple[int, int]] | None = None
    #: True: its images are always checked for safety, in every dialect.
    always_checked: bool = False
    #: A prompt that the API's documentation shows.
    example: str = "a red fox in fresh snow"

    @property
    def kind(self) -> Kind:
        """Weights and task: models of one kind take the same fields."""
        return self.weights, self.task

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id of the model, the farm's own first."""
        return tuple(dict.fromkeys((self.name, *chain.from_iterable(self.ids_of.values()))))

    def of(self, dialect: str) -> tuple[str, ...]:
        """Return the ids by which callers of this dialect name the model."""
        return self.ids_of.get(dialect, ())

    def parameters_in(self, dialect: str) -> Parameters:
        """Return the ranges and defaults that hold for callers of this dialect."""
        return self.parameters_of.get(dialect, self.parameters)

    def always_checked_in(self, dialect: str) -> bool:
        """Return True if callers of this dialect cannot turn the safety check of its images off."""
        return self.always_checked or TERMS[dialect].always_checked

    def sides_in(self, dialect: str) -> SideLimits:
        """Return the sides that the model's images may have for callers of this dialect."""
        if self.sizes is None:
            return TERMS[dialect].sides
        sides = list(chain.from_iterable(self.sizes.values()))
        return SideLimits(min(sides), max(sides))

    @property
    def min_inputs(self) -> int:
        """The least input images of a request."""
        return _INPUT_IMAGES[self.task][0]

    @property
    def max_inputs(self) -> int:
        """The most input images of a request; 0: it takes none."""
        return _INPUT_IMAGES[self.task][1]


#: Image to image: how much to change the input. At WaveSpeed 0 returns the input, resized.
STRENGTH: Range[float] = Range(0.01, 1, default=0.95)
WAVESPEED_STRENGTH: Range[float] = Range(0, 1, default=0.8)

_GUIDANCE: Range[float] = Range(1, MAX_GUIDANCE, default=4.5)
_WAVESPEED_STEPS = Range(1, MAX_STEPS, default=28)
_WAVESPEED_GUIDANCE: Range[float] = Range(1, MAX_GUIDANCE, default=3.5)
_KONTEXT = Parameters(steps=fixed(28), guidance=Range(1, MAX_GUIDANCE, default=3.5))

SRPO = Model(
    name="srpo",
    title="FLUX.1-dev SRPO, text to image",
    weights=Weights.SRPO,
    task=Task.TEXT_TO_IMAGE,
    family="srpo",
    parameters=Parameters(steps=Range(1, MAX_STEPS, default=28), guidance=_GUIDANCE),
    parameters_of={"wavespeed": Parameters(steps=_WAVESPEED_STEPS, guidance=_WAVESPEED_GUIDANCE)},
    ids_of={
        "openai": ("srpo",),
        "aimlapi": ("flux/srpo", "flux/srpo/text-to-image"),
        "siraya": ("flux-1-srpo-text-to-image",),
        "fal": ("fal-ai/flux/srpo",),
        "wavespeed": ("wavespeed-ai/flux-srpo", "wavespeed-ai/flux-1-srpo"),
    },
)
SRPO_IMAGE = Model(
    name="srpo-image-to-image",
    title="FLUX.1-dev SRPO, image to image",
    weights=Weights.SRPO,
    task=Task.IMAGE_TO_IMAGE,
    family="srpo",
    parameters=Parameters(steps=Range(10, MAX_STEPS, default=40), guidance=_GUIDANCE, strength=STRENGTH),
    parameters_of={
        "wavespeed": Parameters(steps=_WAVESPEED_STEPS, guidance=_WAVESPEED_GUIDANCE, strength=WAVESPEED_STRENGTH)
    },
    example="the same fox in summer",
    ids_of={
        "openai": ("srpo-image-to-image",),
        "fal": ("fal-ai/flux/srpo/image-to-image",),
        "wavespeed": (
            "wavespeed-ai/flux-srpo-image-to-image",  # the page's name
            "wavespeed-ai/flux-srpo/image-to-image",  # what the page's own examples post to
            "wavespeed-ai/flux-1-srpo/image-to-image",
        ),
    },
)
KONTEXT_TEXT = Model(
    name="kontext-text-to-image",
    title="FLUX.1 Kontext [dev], text to image",
    weights=Weights.KONTEXT,
    task=Task.TEXT_TO_IMAGE,
    family="kontext",
    parameters=_KONTEXT,
    sizes=KONTEXT_SIZES,
    always_checked=True,
    ids_of={
        "openai": ("kontext-text-to-image",),
        "fal": ("fal-ai/flux-pro/kontext/text-to-image", "fal-ai/flux-pro/kontext/max/text-to-image"),
    },
)
KONTEXT = Model(
    name="kontext",
    title="FLUX.1 Kontext [dev], edit",
    weights=Weights.KONTEXT,
    task=Task.EDIT,
    family="kontext",
    parameters=_KONTEXT,
    sizes=KONTEXT_SIZES,
    always_checked=True,
    example="put a scarf on the fox",
    ids_of={"openai": ("kontext",), "fal": ("fal-ai/flux-pro/kontext", "fal-ai/flux-pro/kontext/max")},
)
KONTEXT_MULTI = Model(
    name="kontext-multi",
    title="FLUX.1 Kontext [dev], several images",
    weights=Weights.KONTEXT,
    task=Task.MULTI_EDIT,
    family="kontext",
    parameters=_KONTEXT,
    sizes=KONTEXT_SIZES,
    always_checked=True,
    example="the two foxes side by side",
    ids_of={
        "openai": ("kontext-multi",),
        "fal": ("fal-ai/flux-pro/kontext/multi", "fal-ai/flux-pro/kontext/max/multi"),
    },
)

MODELS: tuple[Model, ...] = (SRPO, SRPO_IMAGE, KONTEXT_TEXT, KONTEXT, KONTEXT_MULTI)


def find(model_id: str) -> Model | None:
    """Return the model that callers mean by `model_id`, in whatever dialect they name it."""
    return _by_id().get(model_id)


def named(name: str) -> Model:
    """Return the model of this name. Raises KeyError."""
    return _by_id()[name]


def served_with(weights: Iterable[Weights]) -> tuple[str, ...]:
    """Return the names of the models that are rendered with these weights."""
    loaded = frozenset(weights)
    return tuple(model.name for model in MODELS if model.weights in loaded)


def usual_sizes(weights: Weights) -> tuple[tuple[int, int], ...]:
    """Return the sizes (width, height) that callers of these weights mostly ask for, the default one first."""
    if weights is Weights.KONTEXT:
        return tuple(dict.fromkeys((KONTEXT_SIZES["1:1"], *KONTEXT_SIZES.values())))
    default = SIZE_PRESETS[TERMS["native"].size]
    return tuple(dict.fromkeys((default, *SIZE_PRESETS.values(), *COMMON_SIZES)))


def for_images(family: str, images: int) -> Model | None:
    """Return the model of the family that takes so many input images, else the one that takes the most."""
    models = [model for model in MODELS if model.family == family]
    fitting = (model for model in models if model.min_inputs <= images <= model.max_inputs)
    return next(fitting, max(models, key=lambda model: model.max_inputs, default=None))


def nearest_size(width: int, height: int, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the one of the sizes whose ratio is nearest."""
    ratio = math.log(width / height)
    return min(sizes.values(), key=lambda size: abs(math.log(size[0] / size[1]) - ratio))


@cache
def _by_id() -> Mapping[str, Model]:
    return {model_id: model for model in MODELS for model_id in model.ids}
