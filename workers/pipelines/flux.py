"""The pipeline of every model on FLUX.1's architecture: one image after the other, through the same loop.

Bit for bit what diffusers' FluxPipeline, FluxImg2ImgPipeline and FluxKontextPipeline compute for one image in the same
number format, where they can do the same: they know no sizes off the grid, no strength of 0, and one input at most.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from PIL import Image

from farm.domain.catalogue import KONTEXT_TEXT, SRPO, SRPO_IMAGE
from farm.domain.request import ImageRequest
from workers.pipelines.denoise import Method, denoise
from workers.pipelines.engine import attention_backend
from workers.pipelines.kontext import Kontext
from workers.pipelines.latents import Size
from workers.pipelines.network import Network
from workers.pipelines.pipeline import (
    KONTEXT_MODELS,
    NO_INPUTS,
    SRPO_MODELS,
    InputImages,
    RenderedImage,
    StepCallback,
    refuse_unknown,
    resized,
)
from workers.pipelines.srpo import ImageToImage, TextToImage

log = logging.getLogger(__name__)

#: Model → how its images begin.
_METHODS: dict[str, type[TextToImage] | type[ImageToImage] | type[Kontext]] = {
    SRPO.name: TextToImage,
    SRPO_IMAGE.name: ImageToImage,
    **dict.fromkeys(KONTEXT_MODELS, Kontext),
}
#: What is rendered before the first job: each transformer once, and the VAE in both directions.
_REHEARSALS = (
    ImageRequest(SRPO_IMAGE.name, "warm up", 256, 256, steps=1, guidance=4.5, seed=0, strength=1.0, inputs=("",)),
    ImageRequest(KONTEXT_TEXT.name, "warm up", 256, 256, steps=1, guidance=3.5, seed=0),
)
#: Backend of attention, pinned: without it an environment variable of diffusers would decide.
ATTENTION = "native"


class FluxModels:
    """The `Pipeline` of SRPO's models, of Kontext's, or of both."""

    def __init__(
        self, *, srpo: Network | None = None, kontext: Network | None = None, weights: str, build: str
    ) -> None:
        self._networks: dict[str, Network] = {}
        if srpo is not None:
            self._networks |= dict.fromkeys(SRPO_MODELS, srpo)
        if kontext is not None:
            self._networks |= dict.fromkeys(KONTEXT_MODELS, kontext)
        self._weights = weights
        self._build = build

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._networks)

    @property
    def weights(self) -> str:
        return self._weights

    @property
    def build(self) -> str:
        return self._build

    def warm_up(self) -> None:
        rehearsals = [request for request in _REHEARSALS if request.model in self._networks]
        for _ in self.render(rehearsals, lambda *_: True, {"": Image.new("RGB", (256, 256))}):
            pass

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        """One image after the other; see `Pipeline.render` and `latents.FORWARD_SIZE`."""
        refuse_unknown(images, self.models)
        return self._render_each(images, watch, inputs)

    def _render_each(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages
    ) -> Iterator[RenderedImage]:
        methods = {model: _METHODS[model](network, inputs) for model, network in self._networks.items()}
        for index, request in enumerate(images):
            if request.denoising_steps:
                rendered = self._render_one(index, request, methods[request.model], watch)
            else:
                rendered = _untouched(index, request, watch, inputs)
            if rendered is not None:
                yield rendered

    def _render_one(
        self, index: int, request: ImageRequest, method: Method, watch: StepCallback
    ) -> RenderedImage | None:
        # Both modes belong to this call, not to the generator: what runs between two images must not be in them.
        with torch.inference_mode(), attention_backend(ATTENTION):
            network = self._networks[request.model]
            size = Size.around(request.width, request.height, network.grid)
            prompt, start = network.prompt(request.prompt), method.start(request, size)
            if not watch(index, 0):
                return None
            tokens = denoise(network, start, size, prompt, request.guidance, partial(watch, index))
            if tokens is None:
                return None
            for warning in prompt.warnings:
                log.warning(warning)
            return RenderedImage(index, _crop(network.decode(tokens, size), size, request), prompt.warnings)


def _untouched(index: int, request: ImageRequest, watch: StepCallback, inputs: InputImages) -> RenderedImage | None:
    """Image to image without a step is the input itself: the VAE would not give it back as it was."""
    if not watch(index, 0):
        return None
    return RenderedImage(index, resized(inputs[request.inputs[0]], request.width, request.height), ())


def _crop(image: Image.Image, size: Size, request: ImageRequest) -> Image.Image:
    """The middle of the image, of the size asked for."""
    left, _, top, _ = size.margins(request.width, request.height)
    return image.crop((left, top, left + request.width, top + request.height))
