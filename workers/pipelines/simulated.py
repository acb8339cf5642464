"""A pipeline without a network: it takes time like one and paints a plain picture, so that the farm can be tried
without torch and at any speed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import PIL
from PIL import Image

from farm import clock
from farm.errors import RenderError
from farm.request import ImageRequest
from workers.pipelines.pipeline import SIMULATED, Painted, Watch

#: Changes with the pictures.
_VERSION = 1
#: Coloured patches across and down.
_PATCHES = (4, 3)


class SimulatedPipeline:
    """Serves `srpo`: one step of the whole batch takes `step_ms` milliseconds."""

    def __init__(self, step_ms: float) -> None:
        self._step_seconds = step_ms / 1000

    @property
    def models(self) -> tuple[str, ...]:
        return ("srpo",)

    @property
    def weights(self) -> str:
        return SIMULATED

    @property
    def build(self) -> str:
        # Pillow scales the patches up, and may round otherwise in another release.
        return hashlib.sha256(f"simulated {_VERSION}, Pillow {PIL.__version__}".encode()).hexdigest()[:16]

    def warm_up(self) -> None:
        """Nothing is done only once here."""

    def render(self, images: Sequence[ImageRequest], watch: Watch) -> Iterator[Painted]:
        """The whole batch in step; an image with fewer steps is finished earlier."""
        for request in images:
            _refuse_unknown(request)
        return self._paint_together(images, watch)

    def _paint_together(self, images: Sequence[ImageRequest], watch: Watch) -> Iterator[Painted]:
        at_work = [index for index in range(len(images)) if watch(index, 0)]
        step = 0
        while at_work:
            # This is the device at work.
            clock.pause(self._step_seconds)
            step += 1
            at_work = [index for index in at_work if watch(index, step)]
            finished = [index for index in at_work if images[index].steps == step]
            at_work = [index for index in at_work if index not in finished]
            for index in finished:
                yield Painted(index, _picture(images[index]), ())


def _refuse_unknown(request: ImageRequest) -> None:
    if request.model != "srpo" or request.acceleration != "none":
        raise RenderError(f'"{request.model}" with acceleration "{request.acceleration}" is not served here.')


def _picture(request: ImageRequest) -> Image.Image:
    """Soft patches of colour that follow from model, prompt, size, steps and seed."""
    across, down = _PATCHES
    colours = _bytes(request, 3 * across * down)
    patches = Image.frombytes("RGB", _PATCHES, colours)
    return patches.resize((request.width, request.height), Image.Resampling.BICUBIC)


def _bytes(request: ImageRequest, count: int) -> bytes:
    parts = (request.model, request.prompt, request.width, request.height, request.steps, request.seed)
    return hashlib.shake_256(repr(parts).encode()).digest(count)
