"""Timed renders: by the farm's pipeline and by diffusers' own, with the same prompts, steps and guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from farm.domain.catalogue import Acceleration
from farm.domain.request import ImageRequest
from tests.bench.figure import percentile
from tests.bench.gpu.floor import synchronize
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.flux import FluxModels

GUIDANCE = 4.5
#: The most and the fewest runs of a row, and the seconds after which it has enough of them.
MAX_RUNS = 5
MIN_RUNS = 2
ENOUGH_SECONDS = 12.0
_PROMPT = "A red fox in fresh snow at dawn, photographed with a long lens, breath visible in the cold air, soft light"
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Case:
    """Workload to time: `images` of one size, one after the other or together."""

    size: tuple[int, int]
    images: int
    steps: int
    level: Acceleration = "none"

    def requests(self, run: int) -> list[ImageRequest]:
        """Return the requests of a run, with a prompt of its own: a repeated one is encoded only once."""
        width, height = self.size
        one = partial(ImageRequest, "srpo", f"{_PROMPT}, number {run}", width, height, self.steps, GUIDANCE)
        return [one(seed=run * self.images + number, acceleration=self.level) for number in range(self.images)]


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of a run from the call to the last image; seconds of denoising, and full steps, of all its images."""

    seconds: float
    denoising: float = 0.0
    full_steps: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """All runs of a case but the first, and the card's most memory in them, in GiB."""

    case: Case
    runs: Sequence[Run]
    peak: float

    @property
    def seconds(self) -> float:
        """Seconds per image, the median of the runs."""
        return median(run.seconds for run in self.runs) / self.case.images

    @property
    def p90(self) -> float:
        return percentile([run.seconds for run in self.runs], 90) / self.case.images

    @property
    def full_steps(self) -> float:
        """Full steps per image; diffusers has no others."""
        counted = sum(run.full_steps for run in self.runs)
        return counted / len(self.runs) / self.case.images or float(self.case.steps)

    @property
    def full_step_ms(self) -> float:
        """Milliseconds of denoising by the full steps in it: skipped ones cost next to nothing."""
        return 1000 * sum(run.denoising for run in self.runs) / max(1, sum(run.full_steps for run in self.runs))


Renderer = Callable[[Case, int], Run]


def measured(render: Renderer, case: Case, device: torch.device) -> Measured:
    """Render the case again and again; the first run, which compiles, is not counted."""
    render(case, 0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    runs: list[Run] = []
    while len(runs) < MIN_RUNS or (len(runs) < MAX_RUNS and sum(run.seconds for run in runs) < ENOUGH_SECONDS):
        runs.append(render(case, len(runs) + 1))
    return Measured(case, runs, torch.cuda.max_memory_allocated(device) / _GIB if device.type == "cuda" else 0.0)


def farm_renderer(models: FluxModels) -> Renderer:
    """Return a renderer by the farm's pipeline: images one after the other, as a worker with FARM_FORWARD=exact."""

    def render(case: Case, run: int) -> Run:
        moments: dict[int, list[float]] = {}

        def watch(index: int, _step: int) -> bool:
            moments.setdefault(index, []).append(time.perf_counter())
            return True

        # The first run, which is not counted, needs one image only: each is computed alone.
        requests = case.requests(run) if run else case.requests(run)[:1]
        began = time.perf_counter()
        rendered = list(models.render(requests, watch))
        seconds = time.perf_counter() - began
        assert [image.size for image in rendered] == [case.size] * len(requests)
        denoising = sum(each[-1] - each[0] for each in moments.values())
        return Run(seconds, denoising, sum(image.full_steps for image in rendered))

    return render


def diffusers_renderer(parts: FluxPipeline, tokens: int, device: torch.device) -> Renderer:
    """Return a renderer by diffusers' own pipeline: all images of a case in one batch."""
    parts.set_progress_bar_config(disable=True)

    def render(case: Case, run: int) -> Run:
        first, *_ = requests = case.requests(run)
        began = time.perf_counter()
        parts(
            first.prompt,
            width=first.width,
            height=first.height,
            num_inference_steps=case.steps,
            guidance_scale=GUIDANCE,
            num_images_per_prompt=case.images,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            max_sequence_length=tokens,
        )
        synchronize(device)
        return Run(time.perf_counter() - began)

    return render
