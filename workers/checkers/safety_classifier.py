"""The miniature's safety classifier: it detects the one shape that counts as unsafe, in images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from workers.checkers.classifier import Classifier, as_tensor

#: Short side of the network's input, in pixels: every image is resized to it.
SHORT_SIDE = 96
#: Metadata of the weights file: the shapes that the network tells apart, comma-separated, and the unsafe one of them.
SHAPES_KEY, UNSAFE_KEY = "kinds", "forbidden"


class SafetyClassifier:
    """A trained network that estimates the probability of an unsafe image."""

    def __init__(self, network: Classifier, kind: int) -> None:
        """`kind`: index of the unsafe shape among the network's scores."""
        self.network, self._kind = network, kind

    @classmethod
    def load(cls, file: Path) -> SafetyClassifier:
        """Load a safetensors file whose metadata names the shapes (`SHAPES_KEY`, `UNSAFE_KEY`)."""
        with safe_open(file, framework="pt", device="cpu") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118  # not a dict
        kinds = metadata[SHAPES_KEY].split(",")
        network = Classifier(channels=3, kinds=len(kinds))
        network.load_state_dict(tensors)
        return cls(network.requires_grad_(False).eval(), kinds.index(metadata[UNSAFE_KEY]))

    def unsafe_probability(self, image: Image.Image) -> float:
        """Return the probability, 0 to 1, that the image contains the unsafe shape."""
        with torch.inference_mode():
            return float(torch.sigmoid(self.network(network_input(image)[None]))[0, self._kind])


def network_input(image: Image.Image) -> torch.Tensor:
    """Return the image as the network's input [3, height, width], from -1 to 1."""
    size = network_input_size(*image.size)
    small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return as_tensor(np.asarray(small))


def network_input_size(width: int, height: int) -> tuple[int, int]:
    """Return the size of the network's input for an image of this size, in pixels."""
    scale = SHORT_SIDE / min(width, height)
    return round(width * scale), round(height * scale)
