"""The interface of a pipeline. Implementations: `flux` (diffusers) and `simulated` (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

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
    """What a pipeline renders before the first job, and what it renders later, in another thread than jobs.

    `is_compiling` says whether kernels are compiled right now, for these or for a job.
    """

    first: Sequence[WarmUp] = ()
    later: Sequence[WarmUp] = ()
    is_compiling: Callable[[], bool] = lambda: False


NO_WARM_UPS = WarmUps()


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One finished image: RGB, of exactly the requested `size`, width and height.

    `pixels`: three bytes each, row by row. `full_steps`: the denoising steps at which the transformer ran.
    """

    index: int
    pixels: bytes
    size: tuple[int, int]
    full_steps: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The pixels as an image; made at each call, which takes milliseconds that a publishing thread can spare."""
        return Image.frombytes("RGB", self.size, self.pixels)


class Pipeline(Protocol):
    """Loaded weights that turn requests into images. Not thread-safe: one thread calls `render`."""

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
        """How often a prompt's embeddings were found in the cache, and how often they were computed."""

    def warm_up(self) -> None:
        """Render once, so that one-time costs do not delay the first job."""

    def later_warm_ups(self) -> Sequence[WarmUp]:
        """Return what else may be warmed up: one by one, each while no job is at work, in another thread."""

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        """Render a batch; yield each image as soon as it is finished, in any order.

        `inputs` holds every input image that a request names. An image that `watch` cancels is not yielded. Raises
        any exception of the engine; a failed call leaves no state that could change the pixels of the next one.
        """


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
