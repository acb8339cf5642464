"""Metrics of callers, by their names: those with the most images, and all others together. Not for everyone to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from farm.domain.errors import StoreUnavailable
from farm.domain.measures import MAX_CALLERS, MEASURES, OTHER_CALLERS
from farm.jobstore.reading import CallerReading
from farm.telemetry.families import Family, Samples
from farm.telemetry.store_metrics import COUNTED

WAITING = Family("farm_caller_jobs_waiting", "Jobs of a caller that have not started", ("caller",), scope="caller")


class CallerCollector(Collector):
    """Reads the job store on each scrape."""

    def __init__(self, read: Callable[[], CallerReading]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        try:
            reading = self._read()
        except StoreUnavailable:
            return
        yield WAITING.metric(_waiting(reading))
        for name, family in COUNTED.items():
            if family.scope == "caller":
                yield family.metric(_counted(name, reading))


def _waiting(reading: CallerReading) -> Samples:
    """Return the longest queues by caller, and the sum of the others."""
    longest = Counter(reading.waiting).most_common(MAX_CALLERS)
    others = sum(reading.waiting.values()) - sum(jobs for _, jobs in longest)
    return [*(((caller,), jobs) for caller, jobs in longest), ((OTHER_CALLERS,), others)]


def _counted(name: str, reading: CallerReading) -> Samples:
    known = dict.fromkeys(MEASURES[name].combinations(), 0)
    found = reading.totals.get(name, {})
    shown = {labels: value for labels, value in found.items() if labels[0] in reading.names | {OTHER_CALLERS}}
    return {**known, **shown}.items()
