"""The pipeline of all models of FLUX.1's architecture: images in flight, advanced step by step.

Bit for bit equal to diffusers' FluxPipeline, FluxImg2ImgPipeline and FluxKontextPipeline for one image of the same
dtype, where they support the request: they have no sizes off the grid, no strength of 0, and one input at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace

import torch
from PIL import Image

from farm.domain.acceleration import BUNDLED, Levels
from farm.domain.catalogue import KONTEXT_TEXT, SRPO_IMAGE, Model, Task, Weights, named, served_with
from farm.domain.request import ImageRequest
from workers.pipelines.denoise import Denoising, InitialLatents, LatentsPreparation, advance
from workers.pipelines.device import release_cached_memory, synchronize
from workers.pipelines.engine import attention_backend
from workers.pipelines.extrapolation import step_plan
from workers.pipelines.kontext import Kontext
from workers.pipelines.latents import Size, positions, unpack
from workers.pipelines.network import Network
from workers.pipelines.pipeline import (
    NO_INPUTS,
    NO_WARM_UPS,
    InputImages,
    RenderedImage,
    StepCallback,
    WarmUp,
    WarmUps,
    refuse_unsupported,
    render_in_turn,
    resized,
)
from workers.pipelines.preview import PIXELS, LatentColours
from workers.pipelines.sharing import EXACT, Sharing
from workers.pipelines.srpo import ImageToImage, TextToImage

log = logging.getLogger(__name__)


def _warm_up_request(model: Model, *inputs: str) -> ImageRequest:
    strength = 1.0 if model.task is Task.IMAGE_TO_IMAGE else None
    guidance = model.parameters.guidance.default
    return ImageRequest(model.name, "warm up", 256, 256, 1, guidance, seed=0, strength=strength, inputs=inputs)


#: What is rendered before the first job: each transformer once, and the VAE in both directions.
_WARM_UP = (_warm_up_request(SRPO_IMAGE, ""), _warm_up_request(KONTEXT_TEXT))
#: Backend of attention, pinned: without it an environment variable of diffusers would decide.
ATTENTION = "native"


class FluxModels:
    """The `Pipeline` of the models on SRPO's weights, on Kontext's, or on both."""

    def __init__(
        self,
        networks: Mapping[Weights, Network],
        *,
        weights: str,
        build: str,
        levels: Levels = BUNDLED,
        warm_ups: WarmUps = NO_WARM_UPS,
        sharing: Sharing = EXACT,
    ) -> None:
        self._networks = {model: networks[named(model).weights] for model in served_with(networks)}
        self._weights = weights
        self._build = build
        self._preparations = {model: _preparation(named(model))(network) for model, network in self._networks.items()}
        self._levels = levels
        self._warm_ups = warm_ups
        self._sharing = sharing
        self._ran_out_of_memory = False
        self._colours: dict[Network, LatentColours] = {}

    def with_levels(self, levels: Levels) -> FluxModels:
        """Return a pipeline with the same networks and other levels of acceleration, to measure them."""
        other = copy(self)
        other._levels = levels
        return other

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._networks)

    @property
    def device(self) -> torch.device:
        return next(iter(self._networks.values())).device

    @property
    def weights(self) -> str:
        return self._weights

    @property
    def build(self) -> str:
        return self._build

    @property
    def is_compiling(self) -> bool:
        return self._warm_ups.is_compiling()

    @property
    def prompt_cache(self) -> tuple[int, int]:
        caches = [network.prompt.cache_info() for network in set(self._networks.values())]
        return sum(cache.hits for cache in caches), sum(cache.misses for cache in caches)

    @property
    def capacity(self) -> int:
        return self._sharing.capacity

    def capacity_for(self, request: ImageRequest) -> int:
        size = Size.around(request.width, request.height, self._networks[request.model].grid)
        # An input of Kontext has about as many tokens as the image: it is encoded at one of the model's own sizes.
        tokens = size.rows * size.columns * (1 + len(request.inputs) * (request.strength is None))
        return self._sharing.capacity_for(named(request.model).weights, tokens)

    def warm_up(self) -> None:
        requests = [
            replace(request, acceleration=level)
            for request in _WARM_UP
            if request.model in self._networks
            for level in ("none", *self._levels.in_fp8)
        ]
        for _ in self.render(requests, lambda *_: True, {"": Image.new("RGB", (256, 256))}):
            pass
        for warm_up in self._warm_ups.first:
            warm_up()

    def later_warm_ups(self) -> Sequence[WarmUp]:
        return self._warm_ups.later

    def render(
        self, images: Sequence[ImageRequest], watch: StepCallback, inputs: InputImages = NO_INPUTS
    ) -> Iterator[RenderedImage]:
        return render_in_turn(self, images, watch, inputs)

    def encode_prompt(self, request: ImageRequest) -> None:
        with torch.inference_mode():
            self._networks[request.model].prompt(request.prompt)

    def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> FluxImage | ResizedInput:
        refuse_unsupported([request], self.models)
        if not request.denoising_steps:
            return ResizedInput(request, resized(inputs[request.inputs[0]], request.width, request.height))
        network = self._networks[request.model]
        size = Size.around(request.width, request.height, network.grid)
        with self._computing():
            start = self._preparations[request.model].prepare(request, size, inputs)
            token_positions = _positions(size, start)
            denoising = self._begin(network, request, network.to_device(token_positions), start)
        is_shared = self.capacity_for(request) > 1
        in_fp8 = network.has_fp8_copy and request.acceleration in self._levels.in_fp8
        company = (network, in_fp8, token_positions.numpy().tobytes()) if is_shared else object()
        return FluxImage(request, network, size, denoising, company, in_fp8)

    def advance(self, images: Sequence[FluxImage]) -> None:
        companies: dict[Hashable, list[FluxImage]] = {}
        for image in images:
            companies.setdefault(image.company, []).append(image)
        with self._computing():
            for company in companies.values():
                first = company[0]
                advance(first.network, [image.denoising for image in company], in_fp8=first.in_fp8)
            synchronize(images[0].denoising.tokens.device)

    def fit_previews(self) -> None:
        with self._computing():
            self._colours = {network: LatentColours.fitted(network) for network in set(self._networks.values())}

    def preview(self, image: FluxImage) -> Image.Image:
        with self._computing():
            return image.preview(self._colours[image.network])

    def finish(self, image: FluxImage | ResizedInput) -> RenderedImage:
        with self._computing():
            return image.finish()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Run the block in torch's inference mode, with the pinned attention, after memory that ran out is released."""
        # Only now: while the error was handled, its traceback held the tensors of the image that did not fit.
        if self._ran_out_of_memory:
            release_cached_memory()
        self._ran_out_of_memory = False
        try:
            with torch.inference_mode(), attention_backend(ATTENTION):
                yield
        except torch.OutOfMemoryError:
            self._ran_out_of_memory = True
            raise

    def _begin(
        self, network: Network, request: ImageRequest, token_positions: torch.Tensor, start: InitialLatents
    ) -> Denoising:
        """Return the request's image before its first step, with the steps that its level of acceleration plans."""
        level = self._levels.level(request.acceleration)
        sigmas = start.schedule.sigmas[:-1].tolist()
        plan = step_plan(level.mask(len(sigmas)), sigmas, level.order)
        prompt = network.prompt(request.prompt)
        return Denoising(start, token_positions, prompt, request.guidance, plan)


@dataclass(frozen=True, slots=True, eq=False)
class FluxImage:
    """An image in flight: of one network, at a size on its grid."""

    request: ImageRequest
    network: Network
    size: Size
    denoising: Denoising
    #: Images of equal company share a forward: those of one transformer and equal positions, if any may.
    company: Hashable
    in_fp8: bool

    @property
    def step(self) -> int:
        return self.denoising.step

    def preview(self, colours: LatentColours) -> Image.Image:
        """Return how the image looks so far, each square of PIXELS as one pixel, without the margins of its size."""
        pixels = colours.image(unpack(self.denoising.estimate, self.size))
        left, _, top, _ = (margin // PIXELS for margin in self.size.margins(self.request.width, self.request.height))
        shown = pixels[top : len(pixels) - top, left : pixels.shape[1] - left]
        return Image.fromarray(shown.cpu().numpy())

    def finish(self) -> RenderedImage:
        request, warnings = self.request, self.denoising.prompt.warnings
        for warning in warnings:
            log.warning(warning)
        pixels = _cropped(self.network.decode(self.denoising.tokens, self.size), self.size, request)
        size = request.width, request.height
        return RenderedImage(pixels.cpu().numpy().tobytes(), size, self.denoising.full_steps, warnings)


@dataclass(frozen=True, slots=True, eq=False)
class ResizedInput:
    """The input itself, resized, for image to image without a step: the VAE would not preserve it."""

    request: ImageRequest
    image: Image.Image
    step: int = 0

    def finish(self) -> RenderedImage:
        return RenderedImage(self.image.tobytes(), self.image.size)


def _positions(size: Size, start: InitialLatents) -> torch.Tensor:
    """Return the positions of the image's own tokens, then of those of its context."""
    own = positions(size)
    return own if start.context is None else torch.cat([own, start.context.positions])


def _preparation(model: Model) -> Callable[[Network], LatentsPreparation]:
    """Return how the model prepares its first latents."""
    if model.weights is Weights.KONTEXT:
        return Kontext
    return ImageToImage if model.task is Task.IMAGE_TO_IMAGE else TextToImage


def _cropped(pixels: torch.Tensor, size: Size, request: ImageRequest) -> torch.Tensor:
    """Return the middle of the pixels [rows, columns, 3], of the requested size."""
    left, _, top, _ = size.margins(request.width, request.height)
    return pixels[top : top + request.height, left : left + request.width]
