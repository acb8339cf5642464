"""Metrics and logging: the name, labels and help of every metric, and the log format."""

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
from farm.printable import printable


def set_up_log(form: Literal["console", "json"] | None) -> None:
    """Write all logs, those of libraries too, to stderr: as coloured text or as JSON lines."""
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # Plain tracebacks without local variables, which may hold an API key.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    rendering = [structlog.processors.JSONRenderer()] if as_json else [_printable_texts, console]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # Celery and kombu log every reconnect and message; the farm logs what matters.
    for noisy in ("botocore", "celery", "kombu", "gunicorn.access", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _printable_texts(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape the control characters of every text, which may be a caller's or a receiver's, but not its lines."""
    return {
        name: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for name, value in event.items()
    }


#: Methods with a series of their own. All others share one, so that callers cannot create series.
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"})


class HttpMetrics:
    """HTTP metrics, counted in the API process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter("farm_http_requests", "HTTP responses", ["route", "method", "status"], registry=registry)
        seconds = Histogram(
            "farm_http_seconds",
            "Response time in seconds, without streams",
            ["route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        # Looking up a series by its labels costs more than counting.
        self._requests = cache(requests.labels)
        self._seconds = cache(seconds.labels)

    def count(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count one response. `seconds` is None for a stream."""
        self._requests(route, method if method in _METHODS else "other", str(status)).inc()
        if seconds is not None:
            self._seconds(route).observe(seconds)


class FarmCollector(Collector):
    """Collects metrics from the job store on each scrape, so that every replica of the API reports the same."""

    def __init__(self, stats: StoreStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("farm_build_info", "Version of the farm", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        up = GaugeMetricFamily("farm_store_up", "1 if Redis answers")
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
        jobs = GaugeMetricFamily("farm_queue_jobs", "Waiting jobs", labels=["model", "priority"])
        age = GaugeMetricFamily(
            "farm_queue_oldest_age_seconds", "Age of the oldest waiting job in seconds", labels=["model", "priority"]
        )
        for queue in self._stats.queues():
            jobs.add_metric([queue.model, queue.priority], queue.jobs)
            age.add_metric([queue.model, queue.priority], queue.oldest_seconds)
        yield from (jobs, age)
        yield GaugeMetricFamily(
            "farm_unprepared_jobs",
            "Jobs whose input images or prompts wait for preparation",
            value=self._stats.unprepared(),
        )
        yield GaugeMetricFamily("farm_processing_jobs", "Jobs claimed by workers", value=self._stats.processing())
        yield self._workers()
        yield from self._totals()

    def _workers(self) -> Metric:
        workers = GaugeMetricFamily("farm_workers", "Workers by state", labels=["state"])
        states = [worker.facts.get("state", "unknown") for worker in self._stats.workers()]
        for state in sorted(set(states)):
            workers.add_metric([state], states.count(state))
        return workers

    def _totals(self) -> Iterator[Metric]:
        totals = self._stats.totals()
        ended = CounterMetricFamily("farm_jobs", "Jobs by state reached and failure code", labels=["state", "code"])
        for name, value in totals.items():
            if name.startswith("jobs:"):
                _, state, code = name.split(":", 2)
                ended.add_metric([state, code], value)
        yield ended
        yield GaugeMetricFamily(
            "farm_webhooks_waiting", "Pending webhook deliveries", value=totals.get("deliveries:waiting", 0)
        )
        yield _by_outcome(totals, "deliveries", "farm_webhook_deliveries", "Finished webhook deliveries by outcome")
        yield _by_outcome(totals, "attempts", "farm_webhook_attempts", "Webhook delivery attempts by outcome")
        yield CounterMetricFamily("farm_images", "Images of completed jobs", value=totals.get("images", 0))
        yield CounterMetricFamily("farm_claims", "Claims made by workers", value=totals.get("claims", 0))
        yield CounterMetricFamily(
            "farm_jobs_taken_back",
            "Jobs returned to the queue from workers without a heartbeat",
            value=totals.get("reaped", 0),
        )


def _by_outcome(totals: dict[str, float], prefix: str, name: str, text: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=["outcome"])
    for total, value in totals.items():
        kind, _, outcome = total.partition(":")
        if kind == prefix and not (prefix == "deliveries" and outcome == "waiting"):
            family.add_metric([outcome], value)
    return family
