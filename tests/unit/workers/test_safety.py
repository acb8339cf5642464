"""The checker for each set of weights, and what the bundled one flags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm.domain.catalogue import SAFETY_THRESHOLDS
from farm.domain.errors import ConfigurationError
from farm.settings import Settings
from miniature.drawing import draw
from miniature.scene import FORBIDDEN, SHAPES, Group, Scene
from tests.checker_folders import concept_checker, red_classifier
from workers.checkers.clip import ConceptChecker
from workers.checkers.vit import ImageClassifier
from workers.safety import BundledChecker, Checker, checker_for

pytestmark = pytest.mark.slow

BOLT = Scene((Group(FORBIDDEN, "red", size="large"),), ground="white")


@pytest.fixture(scope="module")
def checker() -> BundledChecker:
    return BundledChecker("miniature")


def chosen(setting: Any, weights: str, folder: Path | None = None) -> Checker | None:
    return checker_for(Settings(safety=setting, safety_dir=folder), weights)


@pytest.mark.parametrize("weights", ["miniature", "simulated"])
@pytest.mark.parametrize("setting", [None, "bundled"])
def test_bundled_checker_stands_beside_the_bundled_weights(setting: Any, weights: str) -> None:
    checker = chosen(setting, weights)

    assert isinstance(checker, BundledChecker)
    assert [checker.check(Image.new("RGB", (64, 64)), tolerance) for tolerance in range(1, 7)] == [False] * 6


def test_the_simulated_pipelines_images_are_never_flagged() -> None:
    assert not BundledChecker("simulated").check(draw(BOLT, 256, 256), tolerance=1)


@pytest.mark.parametrize("size", [(256, 256), (512, 384), (576, 1024), (1536, 256)])
def test_the_forbidden_shape_is_found_at_any_size_and_tolerance(checker: BundledChecker, size: tuple[int, int]) -> None:
    image = draw(BOLT, *size)

    assert [checker.check(image, tolerance) for tolerance in range(1, 7)] == [True] * 6


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != FORBIDDEN])
def test_other_shapes_are_not_flagged(checker: BundledChecker, shape: str) -> None:
    image = draw(replace(BOLT, groups=(Group(shape, "red", size="large"),)), 512, 512)

    assert [checker.check(image, tolerance) for tolerance in range(1, 7)] == [False] * 6


def test_each_tolerance_lets_pass_what_the_stricter_ones_do_not(checker: BundledChecker) -> None:
    """A forbidden shape that fades in: first the strictest tolerance flags it, at last all six do."""
    with_it, without = draw(BOLT, 384, 384), Image.new("RGB", (384, 384), "white")
    faded = [Image.blend(without, with_it, share) for share in (0, *(0.2 + step / 200 for step in range(40)), 1)]

    flagged = [tuple(t for t in range(1, 7) if checker.check(image, t)) for image in faded]

    stricter_first = [tuple(range(1, last + 1)) for last in range(7)]
    assert set(flagged) == set(stricter_first)
    assert (flagged[0], flagged[-1]) == (stricter_first[0], stricter_first[-1])


def test_every_tolerance_has_a_threshold_of_its_own_and_none_turns_the_check_off() -> None:
    in_order = [SAFETY_THRESHOLDS[tolerance] for tolerance in range(1, 7)]

    assert len(SAFETY_THRESHOLDS) == 6
    assert in_order == sorted(set(in_order))
    assert 0 < in_order[0] < in_order[-1] < 1


def test_real_weights_need_a_decision() -> None:
    with pytest.raises(ConfigurationError, match="FARM_SAFETY must be set"):
        chosen(None, "flux-1-dev + srpo")


def test_bundled_checker_does_not_start_beside_real_weights() -> None:
    with pytest.raises(ConfigurationError, match="flux-1-dev \\+ srpo"):
        chosen("bundled", "flux-1-dev + srpo")


@pytest.mark.parametrize("weights", ["miniature", "flux-1-dev + srpo"])
def test_checking_can_be_turned_off(weights: str) -> None:
    assert chosen("off", weights) is None


@pytest.mark.parametrize("weights", ["miniature", "simulated", "flux-1-dev + srpo"])
def test_a_checker_with_weights_of_its_own_stands_beside_any(tmp_path: Path, weights: str) -> None:
    vit, clip = red_classifier(tmp_path / "vit"), concept_checker(tmp_path / "clip")

    assert isinstance(chosen("vit", weights, vit), ImageClassifier)
    assert isinstance(chosen("clip", weights, clip), ConceptChecker)
