"""Measurement of levels: the same images again and again, compared with the full computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from farm import clock
from farm.domain.acceleration import Level, Levels
from farm.domain.request import ImageRequest
from workers.calibration.likeness import Measure
from workers.pipelines.flux import FluxModels
from workers.pipelines.pipeline import RenderedImage


@dataclass(frozen=True, slots=True)
class Figures:
    """The effect of a level, or of a number of plain steps: seconds of denoising, and likeness by measure.

    On a CPU they are CPU seconds, which other processes do not lengthen.
    """

    seconds: float
    likeness: Mapping[str, Sequence[float]]

    @property
    def worst_psnr(self) -> float:
        return min(self.likeness["PSNR"])

    @property
    def median_psnr(self) -> float:
        return median(self.likeness["PSNR"])


class Reference:
    """Images, computed in full, and their `seconds`; `compare` renders them again and measures the difference."""

    def __init__(self, pipeline: FluxModels, requests: Sequence[ImageRequest], measures: Mapping[str, Measure]) -> None:
        self._pipeline = pipeline
        self._requests = requests
        self._measures = measures
        self.images, self.seconds = _rendered(pipeline, requests)

    def compare(self, level: Level) -> Figures:
        """Return the figures of a level of acceleration."""
        return self._figures(*_rendered(self._with(level), self._accelerated()))

    def compare_plain(self, steps: int) -> Figures:
        """Return the figures of so many steps, all of them full."""
        return self._figures(*_rendered(self._pipeline, [replace(each, steps=steps) for each in self._requests]))

    def rendered(self, level: Level, numbers: Sequence[int]) -> list[RenderedImage]:
        """Return the images with these numbers by a level of acceleration."""
        requests = self._accelerated()
        return _rendered(self._with(level), [requests[number] for number in numbers])[0]

    def _with(self, level: Level) -> FluxModels:
        return self._pipeline.with_levels(Levels(source="a candidate", regular=level, high=level))

    def _accelerated(self) -> list[ImageRequest]:
        return [replace(each, acceleration="regular") for each in self._requests]

    def _figures(self, images: Sequence[RenderedImage], seconds: float) -> Figures:
        pairs = list(zip(images, self.images, strict=True))
        return Figures(seconds, {name: [of(*pair) for pair in pairs] for name, of in self._measures.items()})


def _rendered(pipeline: FluxModels, requests: Sequence[ImageRequest]) -> tuple[list[RenderedImage], float]:
    """Return the images, and the median of the seconds that denoising took."""
    images: list[RenderedImage] = []
    seconds = []
    timer = clock.cpu_seconds if pipeline.device.type == "cpu" else clock.monotonic
    for request in requests:
        moments = Moments(timer)
        images += pipeline.render([request], moments.note)
        seconds.append(moments.last - moments.first)
    return images, median(seconds)


class Moments:
    """The times at which the first step of an image began and its last one ended."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self.first = self.last = 0.0
        self._timer = timer

    def note(self, _index: int, step: int) -> bool:
        """Note that `step` steps are done; the image is to be finished."""
        self.last = self._timer()
        if step == 0:
            self.first = self.last
        return True
