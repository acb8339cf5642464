"""Metrics of an API process: its answers, and the calls and streams that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from farm.telemetry.families import Family

REQUESTS = Family("farm_http_requests_total", "HTTP responses", ("route", "method", "status"), scope="process")
DURATION = Family(
    "farm_http_request_duration_seconds",
    "Response time, without blocking calls and streams",
    ("route",),
    (0.005, 0.025, 0.1, 0.25, 0.5, 1, 5),
    scope="process",
)
HELD_DURATION = Family(
    "farm_held_call_duration_seconds",
    "Response time of blocking calls, which wait for their job",
    ("dialect",),
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300),
    scope="process",
)
HELD = Family("farm_held_calls", "Blocking calls that wait for their job", scope="process")
MAX_HELD = Family("farm_held_calls_max", "Blocking calls that may wait at a time", scope="process")
STREAMS = Family("farm_event_streams", "Open event streams", scope="process")
MAX_STREAMS = Family("farm_event_streams_max", "Event streams that may be open at a time", scope="process")

#: Methods with a series of their own. All others share one, so that callers cannot create series.
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"})

disable_created_metrics()  # type: ignore[no-untyped-call]  # the series `…_created` double the page


class ApiMetrics:
    """Counts the answers of this process."""

    def __init__(self, registry: CollectorRegistry, dialects: Iterable[str]) -> None:
        """Count in `registry`. `dialects`: those with blocking calls, all of which are reported from 0 on."""
        self._registry = registry
        requests = Counter(REQUESTS.name, REQUESTS.help, REQUESTS.labels, registry=registry)
        # Looking up a series by its labels costs more than counting.
        self._requests = cache(requests.labels)
        self._duration = cache(self._histogram(DURATION).labels)
        self._held_duration = cache(self._histogram(HELD_DURATION).labels)
        for dialect in dialects:
            self._held_duration(dialect)

    def count(self, route: str, method: str, status: int) -> None:
        """Count one response."""
        self._requests(route, method if method in _METHODS else "other", str(status)).inc()

    def time(self, route: str, seconds: float, *, held_by: str = "") -> None:
        """Count the time of one response; `held_by` is the dialect of a blocking call."""
        (self._held_duration(held_by) if held_by else self._duration(route)).observe(seconds)

    def show(self, family: Family, read: Callable[[], float]) -> None:
        """Have each scrape read a gauge."""
        Gauge(family.name, family.help, registry=self._registry).set_function(read)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(family.name, family.help, family.labels, buckets=family.buckets, registry=self._registry)
