"""A small image of what latents show: a linear map from latents to colours, fitted to the VAE's own decodes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn import functional

from workers.pipelines.latents import Size, pack
from workers.pipelines.network import Network

#: Side of the square of an image's pixels that becomes one pixel.
PIXELS = 8
#: The map is fitted to images of this side, in pixels: so many patches across, with hard or with soft edges.
_SIDE = 256
_HARD, _SOFT = Image.Resampling.NEAREST, Image.Resampling.BICUBIC
_SAMPLES = ((8, _HARD), (8, _HARD), (4, _SOFT), (4, _SOFT))


@dataclass(frozen=True, slots=True)
class LatentColours:
    """The map of one VAE: `weights` [3 x scale x scale, channels] and `offset` [3 x scale x scale, 1], from 0 to 255.

    Each pixel of the latents becomes `scale` x `scale` pixels.
    """

    weights: torch.Tensor
    offset: torch.Tensor
    scale: int

    @classmethod
    def fitted(cls, network: Network) -> LatentColours:
        """Return the map that comes nearest to what the network's VAE decodes (least squares)."""
        scale = network.grid // 2 // PIXELS
        pairs = [_pair(network, image, scale) for image in _samples()]
        latents, colours = (torch.cat(parts, dim=1).cpu().double() for parts in zip(*pairs, strict=True))
        inputs = torch.cat([latents, torch.ones_like(latents[:1])])
        solution = torch.linalg.lstsq(inputs.T, colours.T, driver="gelsd").solution.T.float().to(network.device)
        return cls(solution[:, :-1], solution[:, -1:], scale)

    def image(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents [1, channels, rows, columns] as bytes [scale x rows, scale x columns, 3]."""
        flat = self.weights @ latents[0].flatten(1).float() + self.offset
        colours = functional.pixel_shuffle(flat.view(1, -1, *latents.shape[2:]), self.scale)[0]
        return colours.nan_to_num(0).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def _pair(network: Network, image: Image.Image, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latents of an image [channels, n], and the colours of their decode [3 x scale x scale, n]."""
    size = Size(image.height, image.width, network.grid)
    latents = network.scaled(network.encode(image, size).mode())
    pixels = network.decode(pack(latents), size).permute(2, 0, 1)[None].float()
    colours = functional.pixel_unshuffle(functional.avg_pool2d(pixels, PIXELS), scale)
    return latents[0].flatten(1), colours[0].flatten(1)


def _samples() -> Iterator[Image.Image]:
    """Yield patches of colour, the same ones each time."""
    generator = random.Random(0)
    for patches, edges in _SAMPLES:
        drawn = Image.frombytes("RGB", (patches, patches), generator.randbytes(3 * patches**2))
        yield drawn.resize((_SIDE, _SIDE), edges)
