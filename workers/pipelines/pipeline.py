"""What the life of a batch asks of a pipeline. Implementations: `flux` (diffusers) and `simulated` (no torch)."""

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
#: the last. False means: abandon this image now.
StepCallback = Callable[[int, int], bool]

#: The images that requests begin from, by their keys in storage: RGB, upright.
InputImages = Mapping[str, Image.Image]
NO_INPUTS: InputImages = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One finished image: RGB, of exactly the size asked for."""

    index: int
    image: Image.Image
    warnings: tuple[str, ...]


class Pipeline(Protocol):
    """Loaded weights that turn requests into images. Not thread-safe: one thread calls `render`."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names in the catalogue of the models that these weights serve."""

    @property
    def weights(self) -> str:
        """What is loaded: `miniature`, `simulated`, or the names of the checkpoints."""

    @property
    def build(self) -> str:
        """Digest of all that decides pixels beside the request: weights, code, number format, threads."""

    def warm_up(self) -> None:
        """Render once, so that the first job does not pay for what is done only once."""

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        """Render a batch; yield each image as soon as it is finished, in any order.

        `inputs` holds every input that one of the images names. An image that `watch` abandons is not yielded.
        Raises whatever the engine raises; nothing of a failed call is left behind that could change the pixels of the
        next one.
        """


def refuse_unknown(images: Sequence[ImageRequest], models: Sequence[str]) -> None:
    """Raises RenderError where an image asks for what no pipeline does, or not the one that serves `models`."""
    for request in images:
        if request.model not in models:
            raise RenderError(f'These weights serve {", ".join(models)}, not "{request.model}".')
        if request.acceleration != "none":
            raise RenderError(f'The acceleration "{request.acceleration}" does not work yet; "none" does.')
        model = named(request.model)
        if bool(model.max_inputs) != bool(request.inputs):
            raise RenderError(f'"{request.model}" was given {len(request.inputs)} images to begin from.')
        if (model.parameters.strength is None) != (request.strength is None):
            raise RenderError(f'"{request.model}" was given the strength {request.strength}.')


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """An image to begin from, of exactly that size; one that has it already keeps every pixel."""
    return image.resize((width, height), Image.Resampling.LANCZOS)
