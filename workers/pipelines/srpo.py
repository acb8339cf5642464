"""SRPO: from noise (FluxPipeline), or from an image that noise is laid over (FluxImg2ImgPipeline)."""

from __future__ import annotations

import torch

from farm.domain.request import ImageRequest
from workers.pipelines.denoise import Start
from workers.pipelines.latents import Size, noise, pack
from workers.pipelines.network import Network
from workers.pipelines.pipeline import InputImages, resized


class TextToImage:
    """Begins with noise alone."""

    def __init__(self, network: Network, _inputs: InputImages) -> None:
        self._network = network

    def start(self, request: ImageRequest, size: Size) -> Start:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        latents = self._network.to_device(noise(size, self._network.channels, generator))
        return Start(pack(latents), self._network.schedule(request.steps, size))


class ImageToImage:
    """Begins with the input under as much noise as there is at the first step that its strength leaves."""

    def __init__(self, network: Network, inputs: InputImages) -> None:
        self._network = network
        self._inputs = inputs

    def start(self, request: ImageRequest, size: Size) -> Start:
        network, generator = self._network, torch.Generator("cpu").manual_seed(request.seed)
        image = resized(self._inputs[request.inputs[0]], request.width, request.height)
        # The generator is asked for the latents first and for the noise then, as in FluxImg2ImgPipeline.
        latents = network.scaled(network.encode(image, size).sample(generator))
        clutter = network.to_device(noise(size, network.channels, generator))
        schedule, first = network.schedule(request.steps, size), request.steps - request.denoising_steps
        share = schedule.sigmas[first].to(latents.dtype)
        return Start(pack(share * clutter + (1.0 - share) * latents), schedule, first)
