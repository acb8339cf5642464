"""The simulated pipeline: waits for each denoising step and renders a plain image, without torch, at any speed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import PIL
from PIL import Image

from farm import clock
from farm.domain.acceleration import BUNDLED, Levels
from farm.domain.catalogue import MODELS
from farm.domain.request import ImageRequest
from workers.pipelines.pipeline import (
    NO_INPUTS,
    SIMULATED,
    InputImages,
    RenderedImage,
    StepCallback,
    WarmUp,
    refuse_unsupported,
    resized,
)

#: Changes with the images.
_VERSION = 2
#: Coloured patches across and down.
_PATCHES = (4, 3)


class SimulatedPipeline:
    """A `Pipeline` of every model: one full denoising step of the whole batch takes `step_ms` milliseconds."""

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

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        """Render the whole batch in step; an image with fewer steps is finished earlier."""
        refuse_unsupported(images, self.models)
        return self._render_together(images, watch, inputs)

    def _render_together(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages
    ) -> Iterator[RenderedImage]:
        masks = [self._levels.level(each.acceleration).mask(each.denoising_steps) for each in images]
        at_work = [index for index in range(len(images)) if watch(index, 0)]
        step = 0
        while at_work:
            finished = [index for index in at_work if step == len(masks[index])]
            for index in finished:
                image = _simulated_image(images[index], inputs)
                yield RenderedImage(index, image.tobytes(), image.size, masks[index].count("1"))
            at_work = [index for index in at_work if index not in finished]
            if any(masks[index][step] == "1" for index in at_work):
                # This is the device at work.
                clock.pause(self._step_seconds)
            step += 1
            at_work = [index for index in at_work if watch(index, step)]


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
