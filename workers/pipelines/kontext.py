"""FLUX.1 Kontext: denoising from noise, conditioned on the tokens of the input images (FluxKontextPipeline)."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from farm.domain.request import ImageRequest
from workers.pipelines.denoise import Context, InitialLatents
from workers.pipelines.engine import PREFERRED_KONTEXT_RESOLUTIONS
from workers.pipelines.latents import Size, pack, positions
from workers.pipelines.network import Network
from workers.pipelines.pipeline import InputImages, resized
from workers.pipelines.srpo import TextToImage

#: The plane of the inputs among the token positions; the image itself is in plane 0.
_PLANE = 1


class Kontext:
    """Starts from noise, conditioned on the inputs; an input that several images of a job share is encoded once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._noise = TextToImage(network)
        #: The tokens of inputs that are still in memory, by their identity.
        self._encoded: dict[int, torch.Tensor] = {}

    def prepare(self, request: ImageRequest, size: Size, inputs: InputImages) -> InitialLatents:
        start = self._noise.prepare(request, size, inputs)
        return replace(start, context=self._context([inputs[key] for key in request.inputs]))

    def _context(self, images: Sequence[Image.Image]) -> Context | None:
        if not images:
            return None
        sizes = [input_size(image, self._network.grid) for image in images]
        tokens = [self._tokens(image, size) for image, size in zip(images, sizes, strict=True)]
        return Context(torch.cat(tokens, dim=1), tiled_positions(sizes))

    def _tokens(self, image: Image.Image, size: Size) -> torch.Tensor:
        tokens = self._encoded.get(id(image))
        if tokens is None:
            whole = resized(image, size.width, size.height)
            tokens = pack(self._network.scaled(self._network.encode(whole, size).mode()))
            self._encoded[id(image)] = tokens
            weakref.finalize(image, self._encoded.pop, id(image), None)
        return tokens


def input_size(image: Image.Image, grid: int) -> Size:
    """Return the size at which an input is encoded: of Kontext's training sizes, the one of the nearest ratio.

    Source of the sizes and of the choice: diffusers' FluxKontextPipeline.
    """
    ratio = image.width / image.height
    _, width, height = min((abs(ratio - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    return Size(height // grid * grid, width // grid * grid, grid)


def tiled_positions(sizes: Sequence[Size]) -> torch.Tensor:
    """Return the positions [tokens, 3] of several inputs, tiled in one plane without overlap, nearly square.

    Kontext's report (arXiv 2506.15742, section 3) describes a plane for each input, but the open weights were not
    trained with several: tiled in the one plane that they were trained with, all of them have an effect. Source:
    ComfyUI's reference method `offset`, its default for that reason (Comfy-Org/ComfyUI, pull request 9356), which
    places the next input to the right of or below the previous ones, whichever keeps the whole smaller.
    """
    rows = columns = 0
    placed = []
    for size in sizes:
        if rows + size.rows > columns + size.columns:
            placed.append(positions(size, _PLANE, column=columns))
            rows, columns = max(rows, size.rows), columns + size.columns
        else:
            placed.append(positions(size, _PLANE, row=rows))
            rows, columns = rows + size.rows, max(columns, size.columns)
    return torch.cat(placed)
