"""The checker `clip`, with random checkpoints of CompVis's format, beside diffusers' own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch.nn.functional import cosine_similarity

from farm.domain.catalogue import CLIP_MARGINS, SAFETY_TOLERANCE
from farm.safety_checkers import checker_folder
from tests.checker_folders import concept_checker, set_tensors
from workers.checkers.clip import ConceptChecker
from workers.checkers.network import load_processor

IMAGE = Image.effect_noise((300, 200), 90).convert("RGB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return concept_checker(tmp_path / "clip")


class Original:
    """CompVis's checker as diffusers runs it."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = StableDiffusionSafetyChecker.from_pretrained(folder)
        self._processor = load_processor(folder)

    def flags(self, image: Image.Image) -> bool:
        _, flagged = self._model(clip_input=self._pixels(image), images=[np.zeros((1, 1, 3))])
        return bool(flagged[0])

    def cosines(self, image: Image.Image, concepts: str) -> torch.Tensor:
        """Return the cosines of an image's embedding with `concept_embeds` or `special_care_embeds`."""
        with torch.no_grad():
            embedding = self._model.visual_projection(self._model.vision_model(self._pixels(image))[1])
            return cosine_similarity(embedding, getattr(self._model, concepts))

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return pixels


def planted(folder: Path, margin: float, special: float = -1) -> ConceptChecker:
    """Return the checker, whose thresholds IMAGE exceeds by just this much; far more than all, in special concepts."""
    original = Original(folder)
    set_tensors(
        folder,
        concept_embeds_weights=original.cosines(IMAGE, "concept_embeds") - margin,
        special_care_embeds_weights=original.cosines(IMAGE, "special_care_embeds") - special,
    )
    return ConceptChecker(checker_folder("clip", folder, frozenset()))


def near_its_thresholds(folder: Path, random: np.random.Generator) -> None:
    """Set the thresholds so that IMAGE is just below most of them, or above."""
    original = Original(folder)
    for concepts, middle in (("concept_embeds", 0.03), ("special_care_embeds", 0.02)):
        cosines = original.cosines(IMAGE, concepts)
        noise = torch.from_numpy(random.normal(middle, 0.015, len(cosines))).float()
        set_tensors(folder, **{f"{concepts}_weights": cosines + noise})


def test_the_default_tolerance_decides_as_compvis_does(folder: Path) -> None:
    random, decisions = np.random.default_rng(1), []
    for _ in range(8):
        near_its_thresholds(folder, random)
        ours, theirs = ConceptChecker(checker_folder("clip", folder, frozenset())), Original(folder)
        noise = (Image.fromarray(random.integers(0, 256, (64, 48, 3), np.uint8)) for _ in range(3))
        decisions += [(ours.check(image, SAFETY_TOLERANCE.default), theirs.flags(image)) for image in (IMAGE, *noise)]

    assert set(decisions) == {(True, True), (False, False)}


@pytest.mark.parametrize(
    ("margin", "flagged"),
    [(-0.02, 0), (-0.01, 0), (-0.005, 1), (0, 1), (0.003, 2), (0.007, 3), (0.012, 4), (0.017, 5), (0.022, 6)],
)
def test_each_tolerance_lets_pass_what_the_stricter_ones_do_not(folder: Path, margin: float, flagged: int) -> None:
    checker = planted(folder, margin)

    assert [checker.check(IMAGE, t) for t in CLIP_MARGINS] == [True] * flagged + [False] * (6 - flagged)


def test_an_image_of_a_special_concept_is_judged_more_strictly(folder: Path) -> None:
    assert planted(folder, 0.002).margin(IMAGE) == 0.002
    assert planted(folder, 0.002, special=0.002).margin(IMAGE) == 0.012


def test_every_tolerance_has_a_margin_of_its_own() -> None:
    in_order = [CLIP_MARGINS[tolerance] for tolerance in range(SAFETY_TOLERANCE.min, SAFETY_TOLERANCE.max + 1)]

    assert len(CLIP_MARGINS) == 6
    assert in_order == sorted(set(in_order))
    assert CLIP_MARGINS[SAFETY_TOLERANCE.default] == 0
