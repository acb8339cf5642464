"""Measures of likeness: against their formulas, and in the right order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farm.domain.errors import ConfigurationError
from workers.calibration.likeness import measures, psnr
from workers.pipelines.pipeline import RenderedImage

PIXELS = np.random.default_rng(3).integers(40, 210, (48, 64, 3)).repeat(2, 0).repeat(2, 1)


def image(error: float) -> RenderedImage:
    """Return the image with noise of so many levels."""
    noise = np.random.default_rng(4).normal(0, error, PIXELS.shape)
    return RenderedImage(np.clip(PIXELS + noise, 0, 255).astype(np.uint8).tobytes(), (128, 96))


REFERENCE = image(0)


def test_psnr_is_its_formula() -> None:
    pixels = [np.frombuffer(one.pixels, np.uint8).astype(float) for one in (REFERENCE, image(5))]
    expected = 10 * math.log10(255**2 / np.square(pixels[0] - pixels[1]).mean())

    assert psnr(image(5), REFERENCE) == pytest.approx(expected, abs=1e-3)


def test_equal_images_have_the_best_values() -> None:
    best = {name: measure(REFERENCE, REFERENCE) for name, measure in measures().items()}

    assert best == {"PSNR": math.inf, "SSIM": pytest.approx(1), "FLIP": 0}


@pytest.mark.parametrize(("name", "sign"), [("PSNR", 1), ("SSIM", 1), ("FLIP", -1)])
def test_a_larger_difference_is_worse(name: str, sign: int) -> None:
    values = [sign * measures()[name](image(error), REFERENCE) for error in (1, 4, 16)]

    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3


def test_measures_that_are_not_installed_are_left_out_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.calibration.likeness.util.find_spec", lambda name: name != "flip_evaluator" or None)
    assert list(measures()) == ["PSNR", "SSIM"]

    monkeypatch.setattr("workers.calibration.likeness.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'srpo-farm\[calibrate\]'"):
        measures()
