"""Every metric's name, labels and help, in one place; and the form of the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import cache
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farm import __version__
from farm.domain.errors import StoreUnavailable
from farm.jobstore.stats import StoreStats


def set_up_log(form: Literal["console", "json"] | None) -> None:
    """Send everything that is logged, by the libraries too, to stderr: coloured lines for people, or JSON lines."""
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # Plain tracebacks: what a function holds may be a caller's key.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer = structlog.processors.JSONRenderer() if as_json else console
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # Celery and kombu tell of every reconnect and message; what matters of it is in the farm's own lines.
    for noisy in ("botocore", "celery", "kombu", "gunicorn.access", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


#: Methods that the API answers; any other word is counted as one, lest a caller's fancy makes a series each.
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"})


class HttpMetrics:
    """What the API counts itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter("farm_http_requests", "Answers of the API", ["route", "method", "status"], registry=registry)
        seconds = Histogram(
            "farm_http_seconds",
            "Time to answer, in seconds; streams are not in it",
            ["route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        # Finding a series by its labels costs more than counting in it.
        self._requests = cache(requests.labels)
        self._seconds = cache(seconds.labels)

    def count(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """One answer; `seconds` None for a stream."""
        self._requests(route, method if method in _METHODS else "other", str(status)).inc()
        if seconds is not None:
            self._seconds(route).observe(seconds)


class FarmCollector(Collector):
    """Reads the job store when Prometheus asks, so that every replica of the API tells the same."""

    def __init__(self, stats: StoreStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("farm_build_info", "The farm's version", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        up = GaugeMetricFamily("farm_store_up", "1 while the job store answers")
        try:
            families = list(self._from_store())
        except StoreUnavailable:
            up.add_metric([], 0)
            families = []
        else:
            up.add_metric([], 1)
        yield up
        yield from families

    def _from_store(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("farm_queue_jobs", "Jobs that wait", labels=["model", "priority"])
        age = GaugeMetricFamily(
            "farm_queue_oldest_age_seconds", "Age of the oldest waiting job", labels=["model", "priority"]
        )
        for queue in self._stats.queues():
            jobs.add_metric([queue.model, queue.priority], queue.jobs)
            age.add_metric([queue.model, queue.priority], queue.oldest_seconds)
        yield from (jobs, age)
        yield GaugeMetricFamily(
            "farm_unprepared_jobs", "Jobs whose inputs or prompt are to be prepared", value=self._stats.unprepared()
        )
        yield GaugeMetricFamily("farm_processing_jobs", "Jobs in workers' hands", value=self._stats.processing())
        yield self._workers()
        yield from self._totals()

    def _workers(self) -> Metric:
        workers = GaugeMetricFamily("farm_workers", "Workers by what they do", labels=["state"])
        states = [worker.facts.get("state", "unknown") for worker in self._stats.workers()]
        for state in sorted(set(states)):
            workers.add_metric([state], states.count(state))
        return workers

    def _totals(self) -> Iterator[Metric]:
        totals = self._stats.totals()
        ended = CounterMetricFamily("farm_jobs", "Jobs by the states they reached", labels=["state", "code"])
        for name, value in totals.items():
            if name.startswith("jobs:"):
                _, state, code = name.split(":", 2)
                ended.add_metric([state, code], value)
        yield ended
        yield GaugeMetricFamily(
            "farm_webhooks_waiting", "Deliveries that are still to be made", value=totals.get("deliveries:waiting", 0)
        )
        yield _by_outcome(totals, "deliveries", "farm_webhook_deliveries", "Deliveries by how they ended")
        yield _by_outcome(totals, "attempts", "farm_webhook_attempts", "Tries to deliver, by what they led to")
        yield CounterMetricFamily("farm_images", "Images of completed jobs", value=totals.get("images", 0))
        yield CounterMetricFamily("farm_claims", "Claims made by workers", value=totals.get("claims", 0))
        yield CounterMetricFamily(
            "farm_jobs_taken_back",
            "Jobs taken back from workers that gave no sign of life",
            value=totals.get("reaped", 0),
        )


def _by_outcome(totals: dict[str, float], prefix: str, name: str, text: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=["outcome"])
    for total, value in totals.items():
        kind, _, outcome = total.partition(":")
        if kind == prefix and not (prefix == "deliveries" and outcome == "waiting"):
            family.add_metric([outcome], value)
    return family
