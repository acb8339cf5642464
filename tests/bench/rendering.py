"""Rendering without a GPU: what the farm adds around a pipeline that takes 28 steps of 20 ms.

A whole farm with one worker and the simulated pipeline. Everything is read from what the farm itself records: a job's
`started_at` (Redis's clock, on this machine), and its `timings`, of which `start` is claim → first step, `denoise`
first step → last step, and `inference` first step → last image rendered.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.figure import Figure, percentile
from tests.farms import RunningFarm, running_farm, wait_for

STEP_MS = 20
FULL_QUEUE = 64
BUSY_MIN = 0.99
BUSY_STEPS = 28

SAMPLES = 40
IDLE_STEPS = 4
FIRST_STEP_UNDER_MS = 25
COMPLETED_UNDER_MS = 40
NOTE = """\
Rendering: one worker, simulated pipeline. First step: `started_at` + `timings.start`; last step: that + `denoise`;
rendered: first step + `inference`. Busy: the growth of the worker's `busy_seconds` (time inside its pipeline), or the
union of the jobs' [first step, rendered]; each over the time from the first step of all to the last image rendered."""

_SIZE = {"width": 1024, "height": 768}


@dataclass(frozen=True, slots=True)
class Moments:
    """The times of a job's stages, in seconds since the epoch."""

    first_step: float
    last_step: float
    rendered: float
    finished: float

    @classmethod
    def of(cls, view: dict[str, Any]) -> Moments:
        """Return the moments of a completed job as the API shows it."""
        assert view["status"] == "completed", view
        timings = view["timings"]
        first_step = _seconds(view["started_at"]) + timings["start"]
        finished = _seconds(view["finished_at"])
        return cls(first_step, first_step + timings["denoise"], first_step + timings["inference"], finished)


def figures(folder: Path) -> list[Figure]:
    """Return the table's rows about rendering. `folder` takes the data."""
    with running_farm(folder, FARM_SIMULATED_STEP_MS=str(STEP_MS)) as farm:
        return [*_latencies(farm), *_occupancy(farm)]


def _latencies(farm: RunningFarm) -> Iterable[Figure]:
    """Yield latencies of single jobs, each on an idle farm: the time before its first step and after its last."""
    _sample(farm)  # opens the connections
    samples = [_sample(farm) for _ in range(SAMPLES)]
    before = [1000 * (moments.first_step - sent) for sent, moments in samples]
    after = [1000 * (moments.finished - moments.last_step) for _, moments in samples]
    yield _latency("idle farm: POST sent -> first step", before, FIRST_STEP_UNDER_MS)
    yield _latency("last step -> completed, JPEG 1024x768 on disk", after, COMPLETED_UNDER_MS)


def _sample(farm: RunningFarm) -> tuple[float, Moments]:
    """Return the time of a submit, and its job's moments."""
    wait_for(lambda: farm.redis.scard("srpo:idle_workers:srpo"), what="an idle worker")
    time.sleep(random.uniform(0.02, 0.12))  # at no particular moment of anybody's waiting loop
    sent = time.time()
    job_id = farm.submit(image_size=_SIZE, num_inference_steps=IDLE_STEPS)
    return sent, Moments.of(farm.wait_for_end(job_id))


def _latency(what: str, milliseconds: list[float], under: float) -> Figure:
    p50, p95 = percentile(milliseconds, 50), percentile(milliseconds, 95)
    measured = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms (n={len(milliseconds)})"
    return Figure(what, measured, p50, is_ratio=False, under=under)


def _occupancy(farm: RunningFarm) -> Iterable[Figure]:
    """Yield the share of the time from the first step to the last in which the pipeline works, with a full queue.

    Twice, from two sources: the worker's own count of the seconds inside its pipeline, and the jobs' records, where
    whatever no job's rendering covers is a gap.
    """
    busy_before = busy_seconds(farm)
    job_ids = [farm.submit(image_size=_SIZE, num_inference_steps=BUSY_STEPS) for _ in range(FULL_QUEUE)]
    moments = [Moments.of(farm.wait_for_end(job_id)) for job_id in job_ids]
    span = max(each.rendered for each in moments) - min(each.first_step for each in moments)
    busy = busy_seconds(farm) - busy_before
    what = f"busy pipeline, {FULL_QUEUE} jobs of {BUSY_STEPS} x {STEP_MS} ms"
    yield Figure(f"{what}, by busy_seconds", f"{busy:.2f} s", busy / span, f"{span:.2f} s", at_least=BUSY_MIN)
    covered = _covered((each.first_step, each.rendered) for each in moments)
    yield Figure(f"{what}, by the records", f"{covered:.2f} s", covered / span, f"{span:.2f} s")


def busy_seconds(farm: RunningFarm) -> float:
    """Return the worker's count, as of its next heartbeat: an idle worker sends four per lease."""
    asked = time.time() + 0.01  # `seen_at` is worked out from two clocks
    wait_for(lambda: _seconds(_worker(farm)["seen_at"]) > asked, what="the worker's next heartbeat")
    return float(_worker(farm)["busy_seconds"])


def _worker(farm: RunningFarm) -> dict[str, str]:
    """Return what the farm's only worker reports about itself."""
    facts: dict[str, str]
    (facts,) = farm.call("GET", "/farm/v1/workers").json["workers"]
    return facts


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of `intervals`."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
