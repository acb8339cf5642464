"""A small convolutional image classifier."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def as_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Return pixels [rows, columns, 3] from 0 to 255 as a tensor [3, rows, columns] from -1 to 1."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


class Classifier(nn.Module):
    """Scores [n, kinds] of images [n, channels, height, width] of any size: the maximum over the parts of each."""

    #: Side in pixels of the part of the image that a score is for.
    part = 8

    def __init__(self, channels: int, kinds: int, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GELU(),
            ]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.score = nn.Conv2d(widths[-1], kinds, 3, padding=1)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                # Without norms between them, torch's usual weights would let a tenth of the signal through.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def parts(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores [n, kinds, rows, columns] of the images' parts."""
        scores: torch.Tensor = self.score(self.layers(images))
        return scores

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.parts(images).amax(dim=(2, 3))
