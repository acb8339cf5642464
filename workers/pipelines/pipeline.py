"""The interface of a pipeline. Implementations: `flux` (diffusers) and `simulated` (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from PIL import Image

from farm.domain.catalogue import named
from farm.domain.errors import RenderError
from farm.domain.request import ImageRequest

#: Names of what may be loaded (`Pipeline.weights`).
MINIATURE = "miniature"
SIMULATED = "simulated"

#: Called with (index of the image in the batch, denoising steps done) before the first step, between steps and after
#: the last. False cancels this image.
StepCallback = Callable[[int, int], bool]

#: The images that requests begin from, by their storage keys: RGB, upright.
InputImages = Mapping[str, Image.Image]
NO_INPUTS: InputImages = MappingProxyType({})


#: Renders something once, for what it leaves behind: compiled kernels.
WarmUp = Callable[[], None]


@dataclass(frozen=True, slots=True)
class WarmUps:
    """The images that a pipeline renders before the first job, and those that it renders later, beside jobs.

    `is_compiling` says whether kernels are compiled right now, for these or for a job.
    """

    first: Sequence[WarmUp] = ()
    later: Sequence[WarmUp] = ()
    is_compiling: Callable[[], bool] = lambda: False

    def before(self, others: WarmUps) -> WarmUps:
        """Return these, with all the others later."""
        return replace(self, later=[*self.later, *others.first, *others.later])


NO_WARM_UPS = WarmUps()


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One finished image: RGB, of exactly the requested `size`, width and height.

    `pixels`: three bytes each, row by row. `full_steps`: the denoising steps at which the transformer ran.
    """

    pixels: bytes
    size: tuple[int, int]
    full_steps: int = 0
    warnings: tuple[str, ...] = ()
    #: Its place among the images that were rendered by one call.
    index: int = 0

    @property
    def image(self) -> Image.Image:
        """The pixels as an image; made at each call, which takes milliseconds that a publishing thread can spare."""
        return Image.frombytes("RGB", self.size, self.pixels)


class ImageInFlight(Protocol):
    """An image between two denoising steps. It shares nothing that could change its pixels with others."""

    @property
    def request(self) -> ImageRequest: ...

    @property
    def step(self) -> int:
        """Denoising steps that are done, of `request.denoising_steps`."""


class Pipeline(Protocol):
    """Loaded weights that turn requests into images, step by step.

    Not thread-safe, except for `encode_prompt`: one thread starts images, advances and finishes them. Any call may
    raise any exception of the engine; a failed one leaves no state that could change the pixels of other images.
    """

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that the loaded weights serve (`Model.name`)."""

    @property
    def weights(self) -> str:
        """The loaded weights: `miniature`, `simulated`, or the names of the checkpoints."""

    @property
    def build(self) -> str:
        """Digest of everything besides the request that determines pixels: weights, code, number format, threads."""

    @property
    def is_compiling(self) -> bool:
        """True while kernels are compiled, which takes longer than any step."""

    @property
    def prompt_cache(self) -> tuple[int, int]:
        """Return how often a prompt's embeddings were found in the cache, and how often they were computed."""

    @property
    def capacity(self) -> int:
        """Most images that may be in flight together."""

    def capacity_for(self, request: ImageRequest, /) -> int:
        """Return how many images like this one may be in flight together: 1 where each is advanced alone."""

    def warm_up(self) -> None:
        """Render once, so that one-time costs do not delay the first job."""

    def later_warm_ups(self) -> Sequence[WarmUp]:
        """Return what else may be warmed up: one by one, each while no job is at work, in another thread."""

    def encode_prompt(self, request: ImageRequest) -> None:
        """Encode the prompt, and keep it for the image's start. Thread-safe: called beside other images' steps."""

    def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> ImageInFlight:
        """Return an image before its first step. `inputs` holds every input image that the request names."""

    # Images in flight are of the pipeline's own type.

    def advance(self, images: Sequence[Any]) -> None:
        """Do the next denoising step of each of these images, which `start` returned."""

    def fit_previews(self) -> None:
        """Prepare for previews: called once, after `warm_up`, where they are wanted."""

    def preview(self, image: Any) -> Image.Image:
        """Return a small image of how this one looks so far; it changes nothing of what is rendered."""

    def finish(self, image: Any) -> RenderedImage:
        """Return an image whose steps are done."""

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        """Render one image after the other, without a worker; yield each as soon as it is finished.

        An image that `watch` cancels is left out.
        """


def render_in_turn(
    pipeline: Pipeline, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages
) -> Iterator[RenderedImage]:
    """Render images as `Pipeline.render` does, by the pipeline's other calls."""
    refuse_unsupported(images, pipeline.models)
    return _render_in_turn(pipeline, images, watch, inputs)


def _render_in_turn(
    pipeline: Pipeline, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages
) -> Iterator[RenderedImage]:
    for index, request in enumerate(images):
        image = pipeline.start(request, inputs)
        goes_on = watch(index, image.step)
        while goes_on and image.step < request.denoising_steps:
            pipeline.advance([image])
            goes_on = watch(index, image.step)
        if goes_on:
            yield replace(pipeline.finish(image), index=index)


def refuse_unsupported(images: Sequence[ImageRequest], models: Sequence[str]) -> None:
    """Raise RenderError for a request that no pipeline supports, or not the one that serves `models`."""
    for request in images:
        if request.model not in models:
            raise RenderError(f'These weights serve {", ".join(models)}, not "{request.model}".')
        model = named(request.model)
        if bool(model.max_inputs) != bool(request.inputs):
            raise RenderError(f'"{request.model}" was given {len(request.inputs)} images to begin from.')
        if (model.parameters.strength is None) != (request.strength is None):
            raise RenderError(f'"{request.model}" was given the strength {request.strength}.')


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return an input image resized to exactly that size; one that has it already keeps every pixel."""
    return image.resize((width, height), Image.Resampling.LANCZOS)
