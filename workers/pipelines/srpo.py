"""Text to image from noise (FluxPipeline), and image to image from a noised input (FluxImg2ImgPipeline)."""

from __future__ import annotations

import torch

from farm.domain.request import ImageRequest
from workers.pipelines.denoise import InitialLatents
from workers.pipelines.latents import Size, noise, pack
from workers.pipelines.network import Network
from workers.pipelines.pipeline import InputImages, resized


class TextToImage:
    """Starts from pure noise."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def prepare(self, request: ImageRequest, size: Size, _inputs: InputImages) -> InitialLatents:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        latents = self._network.to_device(noise(size, self._network.channels, generator))
        return InitialLatents(pack(latents), self._network.schedule(request.steps, size))


class ImageToImage:
    """Starts from the input's latents, with the noise of the first step that the strength leaves."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def prepare(self, request: ImageRequest, size: Size, inputs: InputImages) -> InitialLatents:
        network, generator = self._network, torch.Generator("cpu").manual_seed(request.seed)
        image = resized(inputs[request.inputs[0]], request.width, request.height)
        # The generator is asked for the latents first and for the noise then, as in FluxImg2ImgPipeline.
        latents = network.scaled(network.encode(image, size).sample(generator))
        noise_latents = network.to_device(noise(size, network.channels, generator))
        schedule = network.schedule(request.steps, size).after(request.steps - request.denoising_steps)
        sigma = schedule.sigmas[0].to(latents.dtype)
        return InitialLatents(pack(sigma * noise_latents + (1.0 - sigma) * latents), schedule)
