"""Measures of the job store: each counter and histogram, its labels with their values, and its buckets. Pure.

The scripts that change a state count in the same step, in the hash `totals`: so a figure is exact, counts a job once
though leases are lost, and survives every restart. A field is `name:label:label`; a histogram has a field for each
bucket, `name:label:bucket`, and one for the sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import get_args

from farm.domain.catalogue import BATCH_IMAGES, MODELS, Acceleration
from farm.domain.delivery import LATE_SECONDS, Outcome
from farm.domain.error_codes import FAILURES, JOB_FAILURES
from farm.domain.job import FULL_STEPS, Result, State
from farm.domain.request import Request
from farm.domain.scheduling import PRIORITIES

#: The last part of the field with a histogram's sum.
SUM = "sum"
#: Sums, and counters of fractions, are integers in the store: in millionths, so that adding them up is exact.
MILLIONTHS = 1_000_000

#: Classes of image sizes: upper bound in pixels → the value of the label.
SIZES = {300_000: "0.3MP", 800_000: "0.8MP", 1_300_000: "1.3MP", 2_800_000: "2.8MP"}
#: Stages of a job on its worker, as its `timings` name them.
STAGES = ("start", "denoise", "decode", "safety", "encode", "upload")
#: The timing of how long the device worked on a job, from which the pace of its model is learned.
DEVICE = "device"
#: Reasons for which a started job returned to its queue, besides the codes of failures that are tried again.
DRAINED, WORKER_LOST = "drained", "worker_lost"
#: So many callers, those with the most images, have figures of their own; all others share one.
MAX_CALLERS = 50
OTHER_CALLERS = "other"

_WAITS = (0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
_RENDERS = (0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_SHORT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 160)
_LAGS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)

Labels = Mapping[str, tuple[str, ...]]

_MODEL = {"model": tuple(model.name for model in MODELS)}
_PRIORITY: dict[str, tuple[str, ...]] = {"priority": PRIORITIES}
_ACCELERATION = {"acceleration": get_args(Acceleration)}
_SIZE = {"size": tuple(SIZES.values())}
_ENDS = tuple(state.value for state in State if state.is_terminal)
_OPERATIONS = ("put", "find", "read", "delete", "list")


@dataclass(frozen=True, slots=True)
class Measure:
    """A counter, or, with `buckets`, a histogram. `labels`: each label's values, all of them reported from 0 on."""

    help: str
    labels: Labels = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    #: The store counts in millionths.
    is_fraction: bool = False
    #: Its first label is the name of a caller, or `other`: not everyone may see it.
    is_by_caller: bool = False

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """Yield every combination of the labels' values."""
        return product(*self.labels.values())


#: Name in the store → what is counted. The metric is `farm_{name}`, of a counter `farm_{name}_total`.
MEASURES: Mapping[str, Measure] = {
    "jobs_accepted": Measure("Jobs accepted", _MODEL | _PRIORITY),
    "jobs_completed": Measure("Jobs completed", _MODEL),
    "jobs_failed": Measure("Jobs failed, by the code that they ended with", _MODEL | {"code": tuple(JOB_FAILURES)}),
    "job_retries": Measure(
        "Started jobs that returned to their queue, by reason: the code of a failure that is tried again, `drained` or "
        "`worker_lost`",
        {"reason": (DRAINED, WORKER_LOST, *JOB_FAILURES)},
    ),
    "jobs_taken_back": Measure("Jobs taken back from dead workers, whatever became of them"),
    "jobs_exhausted": Measure("Jobs failed because no attempt was left, whatever their code"),
    "fence_refusals": Measure(
        "Writes refused because the job no longer belonged to the worker, by what it wanted to do",
        {"operation": ("complete", "fail", "release")},
    ),
    "claims": Measure("Claims by render workers, empty ones included"),
    "images": Measure("Images of completed jobs", _MODEL | _ACCELERATION | _SIZE),
    "images_flagged": Measure("Images of completed jobs that the safety checker flagged", _MODEL),
    "denoising_steps": Measure("Denoising steps of completed jobs", _MODEL | _ACCELERATION),
    "full_steps": Measure(
        "Denoising steps of completed jobs at which the transformer ran; the others were extrapolated",
        _MODEL | _ACCELERATION,
    ),
    "megapixel_steps": Measure(
        "Denoising steps of completed jobs times their megapixels", _MODEL | _ACCELERATION, is_fraction=True
    ),
    "job_wait_seconds": Measure("Time from a job's acceptance to its first start", _MODEL | _PRIORITY, _WAITS),
    "job_preparation_seconds": Measure(
        "Time from a job's acceptance until its inputs and prompt were prepared", buckets=_WAITS
    ),
    "job_render_seconds": Measure(
        "Time of a job from its first denoising step to its last decoded image",
        _MODEL | _ACCELERATION | _SIZE,
        _RENDERS,
    ),
    "job_duration_seconds": Measure("Time from a job's acceptance to its completion", _MODEL | _PRIORITY, _WAITS),
    "job_stage_seconds": Measure("Time of a completed job in each stage on its worker", {"stage": STAGES}, _SHORT),
    "batch_images": Measure("Images of each claimed batch", buckets=tuple(range(1, BATCH_IMAGES + 1))),
    "webhook_attempts": Measure("Webhook delivery attempts", {"outcome": ("delivered", "retry", "failed")}),
    "webhook_deliveries": Measure(
        "Finished webhook deliveries",
        {"outcome": tuple(outcome.value for outcome in Outcome if outcome is not Outcome.WAITING)},
    ),
    "webhook_attempt_seconds": Measure("Time that a webhook attempt took", buckets=_SHORT),
    "webhook_lag_seconds": Measure("Time from a job's end until its webhook was delivered", buckets=_LAGS),
    "webhooks_late": Measure(
        f"Webhooks about the end of a job that do not arrive within {LATE_SECONDS:.0f} s of it, counted as soon as "
        "that is known, whether they arrive later or never"
    ),
    "storage_operations": Measure(
        "Operations on the image storage; `error`: it did not answer, or refused",
        {"operation": _OPERATIONS, "outcome": ("ok", "error")},
    ),
    "storage_operation_seconds": Measure(
        "Time of an operation on the image storage", {"operation": _OPERATIONS}, _SHORT
    ),
    "caller_jobs": Measure("Ended jobs of a caller", {"caller": (OTHER_CALLERS,), "state": _ENDS}, is_by_caller=True),
    "caller_images": Measure("Images of a caller's completed jobs", {"caller": (OTHER_CALLERS,)}, is_by_caller=True),
    "refusals": Measure(
        "Calls refused, by error code", {"code": tuple(code for code, row in FAILURES.items() if row.call)}
    ),
}


def field_of(name: str, *labels: str) -> str:
    """Return the field of a counter in the store."""
    return ":".join((name, *labels))


def size_class(width: int, height: int) -> str:
    """Return the class of an image's size."""
    return next((label for bound, label in SIZES.items() if width * height <= bound), SIZES[max(SIZES)])


class Counts(dict[str, int]):
    """Increments of fields of the store."""

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count `by` more of a counter."""
        amount = round(by * MILLIONTHS) if MEASURES[name].is_fraction else round(by)
        self._add(field_of(name, *labels), amount)

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Count a value of a histogram."""
        whole = field_of(name, *labels)
        self._add(f"{whole}:{bisect_left(MEASURES[name].buckets, value)}", 1)
        self._add(f"{whole}:{SUM}", round(value * MILLIONTHS))

    def _add(self, name: str, amount: int) -> None:
        self[name] = self.get(name, 0) + amount


def computed_megapixel_steps(request: Request, result: Result) -> float:
    """Return the denoising steps that were computed for a job, of all its images, times their megapixels."""
    steps = result.timings.get(FULL_STEPS, request.denoising_steps * request.images)
    return steps * request.width * request.height / 1e6


def completion(request: Request, result: Result) -> Counts:
    """Return what a worker has to count when it completes a job."""
    counts, timings = Counts(), result.timings
    kind, size = (request.model, request.acceleration), size_class(request.width, request.height)
    steps = request.denoising_steps * request.images
    counts.add("images", *kind, size, by=request.images)
    counts.add("images_flagged", request.model, by=sum(result.flagged))
    counts.add("denoising_steps", *kind, by=steps)
    counts.add("full_steps", *kind, by=timings.get(FULL_STEPS, steps))
    counts.add("megapixel_steps", *kind, by=steps * request.width * request.height / 1e6)
    counts.observe("job_render_seconds", *kind, size, value=timings.get("inference", 0))
    for stage in STAGES:
        if stage in timings:
            counts.observe("job_stage_seconds", stage, value=timings[stage])
    return counts
