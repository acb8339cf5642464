"""Metrics of render workers and their devices, which come with each worker's heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from farm.jobstore.stats import Worker
from farm.telemetry.families import Family, Samples

#: With more workers, the API reports them by state only: each worker has its own page at FARM_METRICS_PORT.
MAX_WORKERS = 100
_PREFIX = "farm_worker_"
_WHAT = ("host", "device", "weights", "build", "version")


def _figure(name: str, meaning: str) -> Family:
    return Family(f"{_PREFIX}{name}", meaning, ("worker",), scope="worker")


INFO = Family(f"{_PREFIX}info", "What the worker is; the value is 1", ("worker", *_WHAT), scope="worker")
SILENT = _figure("silent_seconds", "Time since the worker's last heartbeat")
#: Each is a fact that a worker sends with its heartbeat, under the metric's name without its prefix.
FIGURES = (
    _figure("jobs", "Jobs that the worker holds"),
    _figure("busy_seconds_total", "Time that the worker's pipeline was at work"),
    _figure("load_seconds", "Time that loading the weights took"),
    _figure("warm_up_seconds", "Time that the first renders after loading took"),
    _figure("resident_memory_bytes", "Memory of the worker's process"),
    _figure("prompt_cache_hits_total", "Prompts whose embeddings were in the cache"),
    _figure("prompt_cache_misses_total", "Prompts whose embeddings were computed"),
    _figure("device_utilization_ratio", "Share of the time in which the card was at work, as its driver samples it"),
    _figure("device_memory_used_bytes", "Memory of the card in use, by any program"),
    _figure("device_memory_max_bytes", "Memory of the card"),
    _figure("device_power_watts", "Power that the card draws"),
    _figure("device_energy_joules_total", "Energy that the card has used since its driver was loaded"),
    _figure("device_temperature_celsius", "Temperature of the card"),
    _figure("device_memory_errors_total", "Memory errors of the card that it could not correct, over its life"),
)


def sources(read: Callable[[], Sequence[Worker]]) -> Iterator[tuple[Family, Callable[[], Metric]]]:
    """Yield each family, and what makes its metric of the workers that `read` returns."""
    yield INFO, lambda: INFO.metric((_labels(worker), 1) for worker in read())
    yield SILENT, lambda: SILENT.metric(((worker.id,), worker.silent_seconds) for worker in read())
    for family in FIGURES:
        yield family, partial(_metric, family, read)


class WorkerCollector(Collector):
    """The metrics of this worker, by the facts that it sends."""

    def __init__(self, worker: str, facts: Callable[[], dict[str, str]]) -> None:
        self._worker = worker
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        worker = Worker(self._worker, self._facts(), silent_seconds=0)
        return (make() for _, make in sources(lambda: [worker]))


def _labels(worker: Worker) -> tuple[str, ...]:
    return (worker.id, *(worker.facts.get(name, "") for name in _WHAT))


def _metric(family: Family, read: Callable[[], Sequence[Worker]]) -> Metric:
    return family.metric(_samples(family.name.removeprefix(_PREFIX), read()))


def _samples(fact: str, workers: Sequence[Worker]) -> Samples:
    return [((worker.id,), float(worker.facts[fact])) for worker in workers if fact in worker.facts]
