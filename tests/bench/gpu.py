"""`make bench-gpu`: seconds per image on this machine's CUDA card. Without a card, says so and exits 0.

The pipeline is the worker's own, one image at a time, warm: loaded, and rendered once at the size and steps that are
measured. A run is timed from the call to the finished image; a step is the time between two calls of the watch, by
which a worker sees progress, so that it begins and ends with the card idle.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from statistics import median

from farm.cli.terminal import show_table
from farm.domain.errors import FarmError
from farm.domain.request import ImageRequest
from farm.settings import Settings, load
from tests.bench.figure import percentile
from workers.pipelines.pipeline import Pipeline
from workers.process import load_pipeline

SIZES = ((1024, 768), (1024, 1024))
STEPS = 28
RUNS = 7
#: Runs of one size end when they have taken so many seconds, if there are enough of them.
ENOUGH_SECONDS = 60.0
ENOUGH_RUNS = 5

_PROMPT = "A red fox in fresh snow at dawn, photographed with a long lens, breath visible in the cold air, soft light"


@dataclass(frozen=True, slots=True)
class Run:
    """The rendering of one image: its seconds in all, and of each denoising step."""

    seconds: float
    steps: tuple[float, ...]


def main() -> None:
    reason = _why_not()
    if reason:
        print(f"No render benchmark: {reason}.")
        return
    try:
        _bench(load())
    except FarmError as error:
        sys.exit(f"bench-gpu: {error}")


def _why_not() -> str:
    """Return the reason why nothing can be measured here; empty if it can."""
    if util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else "no CUDA card is here"


def _bench(settings: Settings) -> None:
    if settings.device is not None and not settings.device.startswith("cuda"):
        print(f"No render benchmark: FARM_DEVICE={settings.device} is no CUDA card.")
        return
    # Never the simulated pipeline, whatever a farm on this machine is set to.
    pipeline = load_pipeline(settings.model_copy(update={"pipeline": "flux"}))
    print(_description(settings, pipeline))
    print("Images are timed here, not judged.\n")
    rows = [_row(size, _measure(pipeline, size)) for size in SIZES]
    show_table(("size", "steps", "runs", "s/image, median", "s/image, p90", "ms/step, median", "rest, ms"), rows)


def _description(settings: Settings, pipeline: Pipeline) -> str:
    import torch

    from workers.pipelines.device import choose_device, number_format

    device = choose_device(settings.device)
    kind = f"{pipeline.weights} (build {pipeline.build})"
    return "\n".join(
        [
            f"weights  {kind}",
            f"card     {torch.cuda.get_device_name(device)}",
            f"torch    {torch.__version__}, CUDA {torch.version.cuda}",
            f"format   {str(number_format(device)).removeprefix('torch.')}, one image at a time",
        ]
    )


def _measure(pipeline: Pipeline, size: tuple[int, int]) -> list[Run]:
    _render(pipeline, size, seed=0)  # this size's first run pays for what is done only once
    runs: list[Run] = []
    while len(runs) < ENOUGH_RUNS or (len(runs) < RUNS and sum(run.seconds for run in runs) < ENOUGH_SECONDS):
        runs.append(_render(pipeline, size, seed=len(runs) + 1))
    return runs


def _render(pipeline: Pipeline, size: tuple[int, int], *, seed: int) -> Run:
    width, height = size
    # A prompt of its own for each run: a repeated one is encoded only once.
    prompt = f"{_PROMPT}, number {seed}"
    wanted = ImageRequest("srpo", prompt, width=width, height=height, steps=STEPS, guidance=4.5, seed=seed)
    moments: list[float] = []

    def watch(_index: int, _step: int) -> bool:
        moments.append(time.perf_counter())
        return True

    began = time.perf_counter()
    (rendered,) = pipeline.render([wanted], watch)
    seconds = time.perf_counter() - began
    assert rendered.image.size == size
    # The first interval holds the encoding of the prompt, and is left out of the steps.
    return Run(seconds, tuple(after - before for before, after in itertools.pairwise(moments[1:])))


def _row(size: tuple[int, int], runs: Sequence[Run]) -> tuple[object, ...]:
    seconds = [run.seconds for run in runs]
    step = median(step for run in runs for step in run.steps)
    rest = 1000 * (median(seconds) - STEPS * step)
    figures = (f"{median(seconds):.3f}", f"{percentile(seconds, 90):.3f}", f"{1000 * step:.2f}", f"{rest:.0f}")
    return f"{size[0]}x{size[1]}", STEPS, len(runs), *figures


if __name__ == "__main__":
    main()
