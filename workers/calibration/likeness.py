"""Likeness of an image to another one, by well-known measures."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util

import numpy as np
import torch
from numpy.typing import NDArray

from farm.domain.errors import ConfigurationError
from workers.pipelines.pipeline import RenderedImage

Measure = Callable[[RenderedImage, RenderedImage], float]


def measures() -> dict[str, Measure]:
    """Return the measures that are installed here, by name; each gets an image and its reference.

    PSNR in decibels and SSIM: higher is more alike. FLIP: lower is. Raises ConfigurationError without torchmetrics.
    """
    if util.find_spec("torchmetrics") is None:
        raise ConfigurationError("Calibration needs torchmetrics; run: pip install 'srpo-farm[calibrate]'.")
    found: dict[str, Measure] = {"PSNR": psnr, "SSIM": ssim}
    return found | {"FLIP": flip} if util.find_spec("flip_evaluator") else found


def psnr(image: RenderedImage, reference: RenderedImage) -> float:
    """Return the peak signal-to-noise ratio in decibels; infinite for equal images."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(_tensor(image), _tensor(reference), data_range=255.0))


def ssim(image: RenderedImage, reference: RenderedImage) -> float:
    """Return the structural similarity, at most 1."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(_tensor(image), _tensor(reference), data_range=255.0)
    assert isinstance(value, torch.Tensor)  # a pair only if more is asked for
    return float(value)


def flip(image: RenderedImage, reference: RenderedImage) -> float:
    """Return NVIDIA's FLIP, the difference that people see when images alternate: 0 for equal ones, at most 1."""
    import flip_evaluator

    _, mean, _ = flip_evaluator.evaluate(_colours(reference), _colours(image), "LDR", applyMagma=False)
    return float(mean)


def _tensor(image: RenderedImage) -> torch.Tensor:
    """Return the pixels [1, 3, rows, columns]."""
    return torch.from_numpy(_pixels(image).astype(np.float32)).permute(2, 0, 1)[None]


def _colours(image: RenderedImage) -> NDArray[np.float32]:
    """Return the pixels [rows, columns, 3] from 0 to 1."""
    return _pixels(image).astype(np.float32) / np.float32(255)


def _pixels(image: RenderedImage) -> NDArray[np.uint8]:
    width, height = image.size
    return np.frombuffer(image.pixels, np.uint8).reshape(height, width, 3)
