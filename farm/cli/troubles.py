"""Present faults of a farm, a line each: the causes of alerts, for the person who looks at `farm top`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from farm.cli.figures import Figures
from farm.doctor.finding import size
from farm.jobstore.memory_guard import FULL_AT
from farm.telemetry.thresholds import DISK_RESERVES, OVERDUE_SECONDS, REDIS_MEMORY_SHARE

#: Counters with their labels, and what each more of one means.
_EVENTS: tuple[tuple[str, dict[str, str], str], ...] = (
    ("farm_job_retries_total", {"reason": "worker_lost"}, "jobs were taken back from workers that died"),
    ("farm_jobs_exhausted_total", {}, "jobs failed in all their attempts"),
    ("farm_storage_operations_total", {"outcome": "error"}, "operations on the storage failed"),
)


def troubles(figures: Figures, storage_errors: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is wrong now."""
    yield from _consumers(figures)
    yield from _webhooks(figures)
    yield from _resources(figures)
    for error in storage_errors:
        yield f"storage: {error['operation']} failed {error['seconds_ago']:.0f} s ago: {error['reason']}"
    yield from _faults(figures)


def _consumers(figures: Figures) -> Iterator[str]:
    waiting = figures.total("farm_jobs_waiting") - figures.total("farm_jobs_paused")
    if waiting and not figures.total("farm_workers", state="warm"):
        loading = figures.total("farm_workers", state="loading")
        yield f"{waiting:.0f} jobs wait, and no worker is ready" + (f"; {loading:.0f} load" if loading else "")
    for state in ("lost", "faulty"):
        if count := figures.total("farm_workers", state=state):
            yield f"workers that are {state}: {count:.0f}"


def _webhooks(figures: Figures) -> Iterator[str]:
    if figures.has("farm_webhook_workers") and not figures.total("farm_webhook_workers"):
        yield "no webhook worker runs: webhooks are not sent, and jobs with input images wait"
    if (overdue := figures.total("farm_webhook_overdue_seconds")) > OVERDUE_SECONDS:
        yield f"webhooks have been due for {overdue:.0f} s"


def _resources(figures: Figures) -> Iterator[str]:
    used, limit = (figures.total(f"farm_redis_memory_{which}_bytes") for which in ("used", "max"))
    if limit and used / limit > REDIS_MEMORY_SHARE:
        yield f"Redis is {used / limit:.0%} full; submits are refused at {FULL_AT:.0%}"
    yield from _disk(figures)
    for worker, errors in figures.by("worker", "farm_worker_device_memory_errors_total").items():
        if errors:
            yield f"the card of worker {worker} could not correct {errors:.0f} memory errors over its life"


def _disk(figures: Figures) -> Iterator[str]:
    reserves = figures.by("refused", "farm_disk_reserve_bytes")
    free = figures.total("farm_disk_free_bytes")
    if figures.has("farm_disk_free_bytes") and free < DISK_RESERVES * max(reserves.values(), default=0):
        limits = ", ".join(f"{refused} below {size(reserve)}" for refused, reserve in reserves.items())
        yield f"the disk of the data folder has {size(free)} left; refused are {limits}"


def _faults(figures: Figures) -> Iterator[str]:
    if failed := figures.total("farm_scrape_failed_families"):
        yield f"{failed:.0f} metrics cannot be read from Redis; the API's log names them"
    if unaccounted := figures.total("farm_jobs_unaccounted"):
        yield f"accepted jobs minus those that ended or are held: {unaccounted:.0f}, not 0"


def events(first: Figures, now: Figures) -> Iterator[str]:
    """Yield what has happened since the first look."""
    for name, labels, what in _EVENTS:
        if (more := now.total(name, **labels) - first.total(name, **labels)) > 0:
            yield f"since this began: {more:.0f} {what}"
