"""`FARM_FORWARD=shared` beside `exact`: several images in one forward, and the same ones in forwards of their own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bench.gpu.timing import Case
from workers.pipelines.flux import FluxModels

COLUMNS = (
    "size",
    "level",
    "images",
    "exact, s/image",
    "shared, s/image",
    "gain",
    "largest difference",
    "bytes unequal",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds per image of both, the largest difference of a byte, and the share of bytes that differ."""

    case: Case
    exact: float
    shared: float
    largest: int
    differing: float

    def cells(self) -> tuple[object, ...]:
        return (
            f"{self.case.size[0]}x{self.case.size[1]}",
            self.case.level,
            self.case.images,
            f"{self.exact:.3f}",
            f"{self.shared:.3f}",
            f"{self.exact / self.shared:.2f}",
            self.largest,
            f"{self.differing:.3%}",
        )


def compared(exact: FluxModels, shared: FluxModels, case: Case) -> Comparison:
    """Render the same images in both ways; the first run of each, which compiles, is not counted."""
    for models in (exact, shared):
        _rendered(models, case, run=0)
    (one, one_seconds), (other, other_seconds) = (_rendered(models, case, run=1) for models in (exact, shared))
    differences = np.abs(one.astype(np.int16) - other)
    return Comparison(
        case,
        one_seconds / case.images,
        other_seconds / case.images,
        int(differences.max()),
        float((differences > 0).mean()),
    )


def _rendered(models: FluxModels, case: Case, run: int) -> tuple[np.ndarray, float]:
    """Return the bytes of images that are in flight together, and the seconds that they took."""
    began = time.perf_counter()
    images: list[Any] = [models.start(request, {}) for request in case.requests(run)]
    while left := [image for image in images if image.step < image.request.denoising_steps]:
        models.advance(left)
    pixels = b"".join(models.finish(image).pixels for image in images)
    return np.frombuffer(pixels, np.uint8), time.perf_counter() - began
