"""The checker `vit`: any image classifier in transformers' format."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from farm.domain.catalogue import SAFETY_THRESHOLDS
from farm.safety_checkers import CheckerFolder
from workers.checkers.network import CheckerNetwork, load_model, load_processor
from workers.pipelines.device import choose_device


class ImageClassifier:
    """Flags an image if the probabilities of its unsafe labels add up to the tolerance's threshold."""

    def __init__(self, folder: CheckerFolder) -> None:
        self._unsafe = list(folder.unsafe_labels().values())
        model = load_model(AutoModelForImageClassification, folder.path)
        self._are_independent = model.config.problem_type == "multi_label_classification"
        self._network = CheckerNetwork(model, load_processor(folder.path), lambda pixels: model(pixels).logits)

    def check(self, image: Image.Image, tolerance: int) -> bool:
        return self.unsafe_probability(image) >= SAFETY_THRESHOLDS[tolerance]

    def use_card(self, device: str | None) -> None:
        self._network.use_card(choose_device(device))

    def unsafe_probability(self, image: Image.Image) -> float:
        """Return the sum of the probabilities of the unsafe labels, at most 1."""
        scores = self._network(image)
        probabilities = torch.sigmoid(scores) if self._are_independent else torch.softmax(scores, 0)
        return min(1.0, float(probabilities[self._unsafe].sum()))
