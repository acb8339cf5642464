"""The checker `clip`: CompVis's, which compares an image's CLIP embedding with those of unsafe concepts."""

from __future__ import annotations

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch.nn.functional import cosine_similarity

from farm.domain.catalogue import CLIP_MARGINS
from farm.safety_checkers import CheckerFolder
from workers.checkers.network import CheckerNetwork, load_model, load_processor
from workers.pipelines.device import choose_device

#: How much lower every threshold is for an image of a special concept, and the digits that count: as CompVis has it.
_SPECIAL_CARE, _DIGITS = 0.01, 3


class ConceptChecker:
    """Flags an image that is nearer to an unsafe concept than the concept's own threshold and the tolerance allow."""

    def __init__(self, folder: CheckerFolder) -> None:
        model = load_model(StableDiffusionSafetyChecker, folder.path)
        self._special = _Concepts(model.special_care_embeds, model.special_care_embeds_weights)
        self._unsafe = _Concepts(model.concept_embeds, model.concept_embeds_weights)
        self._network = CheckerNetwork(
            model,
            load_processor(folder.path),
            lambda pixels: model.visual_projection(model.vision_model(pixels).pooler_output),
        )

    def check(self, image: Image.Image, tolerance: int) -> bool:
        return self.margin(image) > CLIP_MARGINS[tolerance]

    def use_card(self, device: str | None) -> None:
        self._network.use_card(choose_device(device))

    def margin(self, image: Image.Image) -> float:
        """Return by how much the image exceeds the threshold of a concept, at most; above 0 CompVis flags it."""
        embedding = self._network(image)
        adjustment = _SPECIAL_CARE if self._special.margin(embedding) > 0 else 0.0
        return self._unsafe.margin(embedding, adjustment)


class _Concepts:
    """Embeddings of concepts [n, width], and the cosine [n] from which on an image belongs to each."""

    def __init__(self, embeddings: torch.Tensor, thresholds: torch.Tensor) -> None:
        self._embeddings, self._thresholds = embeddings.detach().clone(), thresholds.detach().clone()

    def margin(self, embedding: torch.Tensor, adjustment: float = 0.0) -> float:
        """Return the most by which an image's embedding exceeds a threshold."""
        margins = cosine_similarity(embedding[None], self._embeddings) - self._thresholds + adjustment
        return round(float(margins.max()), _DIGITS)
