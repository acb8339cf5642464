"""The simulated pipeline: waits for each denoising step and renders a plain image, without torch, at any speed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import PIL
from PIL import Image

from farm import clock
from farm.domain.acceleration import BUNDLED, Levels
from farm.domain.catalogue import BATCH_IMAGES, MODELS
from farm.domain.request import ImageRequest
from workers.pipelines.pipeline import (
    NO_INPUTS,
    SIMULATED,
    InputImages,
    RenderedImage,
    StepCallback,
    WarmUp,
    refuse_unsupported,
    render_in_turn,
    resized,
)

#: Changes with the images.
_VERSION = 2
#: Coloured patches across and down.
_PATCHES = (4, 3)


@dataclass(slots=True, eq=False)
class SimulatedImage:
    """An image in flight."""

    request: ImageRequest
    inputs: InputImages
    #: "1" for each full step.
    mask: str
    step: int = 0

    @property
    def needs_forward(self) -> bool:
        return self.mask[self.step] == "1"


class SimulatedPipeline:
    """A `Pipeline` of every model: one full step of all that is in flight takes `step_ms` milliseconds."""

    def __init__(self, step_ms: float, levels: Levels = BUNDLED) -> None:
        self._step_seconds = step_ms / 1000
        self._levels = levels

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(model.name for model in MODELS)

    @property
    def weights(self) -> str:
        return SIMULATED

    @property
    def build(self) -> str:
        # Pillow scales the patches up, and may round otherwise in another release.
        return hashlib.sha256(f"simulated {_VERSION}, Pillow {PIL.__version__}".encode()).hexdigest()[:16]

    @property
    def is_compiling(self) -> bool:
        return False

    @property
    def prompt_cache(self) -> tuple[int, int]:
        return 0, 0

    def warm_up(self) -> None:
        """Do nothing: there are no one-time costs."""

    def later_warm_ups(self) -> Sequence[WarmUp]:
        return ()

    @property
    def capacity(self) -> int:
        return BATCH_IMAGES

    def capacity_for(self, _request: ImageRequest) -> int:
        """Return the whole capacity: no image depends on its company."""
        return self.capacity

    def encode_prompt(self, request: ImageRequest) -> None:
        """Do nothing: prompts are not encoded."""

    def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> SimulatedImage:
        refuse_unsupported([request], self.models)
        return SimulatedImage(request, inputs, self._levels.level(request.acceleration).mask(request.denoising_steps))

    def advance(self, images: Sequence[SimulatedImage]) -> None:
        if any(image.needs_forward for image in images):
            # This is the device at work.
            clock.pause(self._step_seconds)
        for image in images:
            image.step += 1

    def fit_previews(self) -> None:
        """Do nothing: previews follow from the request."""

    def preview(self, image: SimulatedImage) -> Image.Image:
        """Return the image as it begins in grey and gets its colours step by step."""
        rendered = _simulated_image(image.request, image.inputs)
        grey = Image.new("RGB", rendered.size, "grey")
        return Image.blend(grey, rendered, image.step / image.request.denoising_steps)

    def finish(self, image: SimulatedImage) -> RenderedImage:
        rendered = _simulated_image(image.request, image.inputs)
        return RenderedImage(rendered.tobytes(), rendered.size, image.mask.count("1"))

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        return render_in_turn(self, images, watch, inputs)


def _simulated_image(request: ImageRequest, inputs: InputImages) -> Image.Image:
    """Return soft patches of colour; image to image blends them with the input by the strength."""
    size = (request.width, request.height)
    sources = [inputs[key] for key in request.inputs]
    across, down = _PATCHES
    patches = Image.frombytes("RGB", _PATCHES, _colours(request, sources, 3 * across * down))
    rendered = patches.resize(size, Image.Resampling.BICUBIC)
    return rendered if request.strength is None else Image.blend(resized(sources[0], *size), rendered, request.strength)


def _colours(request: ImageRequest, inputs: Sequence[Image.Image], count: int) -> bytes:
    """Return colours that depend on model, prompt, size, steps, seed, strength, and every pixel of every input."""
    parts = (
        *(request.model, request.prompt, request.width, request.height, request.steps, request.seed, request.strength),
        *((image.size, hashlib.sha256(image.tobytes()).digest()) for image in inputs),
    )
    return hashlib.shake_256(repr(parts).encode()).digest(count)
