"""What the life of a batch asks of a pipeline. Implementations: `flux` (diffusers) and `simulated` (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from farm.request import ImageRequest

#: Names of what may be loaded (`Pipeline.weights`).
MINIATURE = "miniature"
SIMULATED = "simulated"
SRPO = "flux-1-dev + srpo"

#: Called with (index of the image in the batch, denoising steps done) before the first step, between steps and after
#: the last. False means: abandon this image now.
Watch = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class Painted:
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

    def render(self, images: Sequence[ImageRequest], watch: Watch) -> Iterator[Painted]:
        """Render a batch; yield each image as soon as it is finished, in any order.

        An image that `watch` abandons is not yielded. Raises whatever the engine raises; nothing of a failed call
        is left behind that could change the pixels of the next one.
        """
