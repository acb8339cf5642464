"""Images in flight together, and the next job's inputs read beside them: what both are worth.

Two benchmarks: whether a worker waits for input images, with the simulated pipeline; and images a minute of the bundled
miniature on the CPU with `FARM_FORWARD=shared` beside `exact`, one worker each and eight callers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.figure import Figure
from tests.bench.rendering import Moments, busy_seconds
from tests.bench.slow_inputs import READ_SECONDS
from tests.farms import RunningFarm, running_farm
from tests.images import data_uri, sample_image

STEP_MS = 20
STEPS = 28
JOBS = 20
BUSY_MIN = 0.99

CALLERS = 8
IMAGES = 32
SIDE = 512
SHARED_MIN = 1.15

NOTE = f"""\
Batching: a job of four images fills a flight; if its input were not read beside the one before, the pipeline would be
busy for 0.92 of the time. Images a minute: the miniature, {CALLERS} callers with one blocking call each at a time,
{IMAGES} images in all, from the first call to the last answer."""


def figures(folder: Path) -> Iterable[Figure]:
    """Yield the table's rows about batching. `folder` takes the data."""
    folder.mkdir(parents=True, exist_ok=True)
    yield _busy(folder / "slow-inputs")
    yield _shared_forwards(folder)


def _busy(folder: Path) -> Figure:
    """Return the share of the time from the first step to the last in which the pipeline works."""
    farm = RunningFarm(folder, environment={"FARM_SIMULATED_STEP_MS": str(STEP_MS)}, program="tests.bench.slow_inputs")
    farm.start()
    try:
        before = busy_seconds(farm)
        moments = [Moments.of(farm.wait_for_end(job_id)) for job_id in [_submit_edit(farm, n) for n in range(JOBS)]]
        busy = busy_seconds(farm) - before
    finally:
        assert farm.stop() == 0
    span = max(each.rendered for each in moments) - min(each.first_step for each in moments)
    what = f"busy pipeline, {JOBS} jobs of {STEPS} x {STEP_MS} ms, {1000 * READ_SECONDS:.0f} ms to read each input"
    return Figure(what, f"{busy:.2f} s", busy / span, f"{span:.2f} s", at_least=BUSY_MIN)


def _submit_edit(farm: RunningFarm, seed: int) -> str:
    fields = {"prompt": "a fox", "image_url": data_uri(sample_image(256, 256)), "strength": 1.0, "num_images": 4}
    body = {"model": "srpo-image-to-image", "num_inference_steps": STEPS, "seed": seed} | fields
    answer = farm.call("POST", "/farm/v1/jobs", body)
    assert answer.status == 202, answer.body
    job_id: str = answer.json["id"]
    return job_id


def _shared_forwards(folder: Path) -> Figure:
    exact, shared = (_images_per_minute(folder / forward, forward) for forward in ("exact", "shared"))
    what = f"images a minute with FARM_FORWARD=shared, miniature {SIDE}x{SIDE}, one worker, {CALLERS} callers"
    return Figure(what, f"{shared:.1f}", shared / exact, f"{exact:.1f}", at_least=SHARED_MIN)


def _images_per_minute(folder: Path, forward: str) -> float:
    with running_farm(folder, FARM_PIPELINE="flux", FARM_FORWARD=forward) as farm, ThreadPoolExecutor(CALLERS) as pool:
        _call(farm, 0)
        began = time.monotonic()
        list(pool.map(lambda seed: _call(farm, seed), range(1, IMAGES + 1)))
        return 60 * IMAGES / (time.monotonic() - began)


def _call(farm: RunningFarm, seed: int) -> None:
    body = {"prompt": "a red circle", "image_size": {"width": SIDE, "height": SIDE}, "seed": seed}
    answer = farm.call("POST", "/fal/run/fal-ai/flux/srpo", body)
    assert answer.status == 200, answer.body
