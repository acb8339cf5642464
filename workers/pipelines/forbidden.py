"""Finds the one shape that counts as forbidden in the miniature's world, in images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from workers.pipelines.classifier import Classifier, as_tensor

#: Short side of what the network looks at, in pixels: all images are brought to it.
SHORT_SIDE = 96
#: Under these names a file says which shapes its network tells apart, by commas, and which of them is forbidden.
KINDS, WHICH = "kinds", "forbidden"


class Finder:
    """A trained network that says how sure it is."""

    def __init__(self, network: Classifier, kind: int) -> None:
        """`kind`: which of the network's scores is the forbidden shape's."""
        self._network, self._kind = network, kind

    @classmethod
    def load(cls, file: Path) -> Finder:
        """From a safetensors file that names the network's shapes (`KINDS`, `WHICH`)."""
        with safe_open(file, framework="pt", device="cpu") as opened:
            told = opened.metadata()
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118  # not a dict
        kinds = told[KINDS].split(",")
        network = Classifier(channels=3, kinds=len(kinds))
        network.load_state_dict(tensors)
        return cls(network.requires_grad_(False).eval(), kinds.index(told[WHICH]))

    def certainty(self, image: Image.Image) -> float:
        """From 0 to 1, how sure it is that the forbidden shape is in the image."""
        with torch.inference_mode():
            return float(torch.sigmoid(self._network(seen(image)[None]))[0, self._kind])


def seen(image: Image.Image) -> torch.Tensor:
    """The image as the network sees it [3, height, width], from -1 to 1."""
    size = seen_size(*image.size)
    small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return as_tensor(np.asarray(small))


def seen_size(width: int, height: int) -> tuple[int, int]:
    """The size in pixels at which the network sees an image."""
    scale = SHORT_SIDE / min(width, height)
    return round(width * scale), round(height * scale)
