"""A port of a process's own for its metrics, for scrapes that do not go through the API."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from farm.settings import Settings

#: The processes of a farm on one machine take one port after the other, at most so many.
MAX_PORTS = 64

_log = structlog.get_logger(__name__)


class Others(Collector):
    """The metrics of another registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()


def serve(settings: Settings, *collectors: Collector) -> None:
    """Serve these metrics from FARM_METRICS_PORT on, at the first port that is free, if it is set."""
    if settings.metrics_port is None:
        return
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    for port in range(settings.metrics_port, settings.metrics_port + MAX_PORTS):
        try:
            start_http_server(port, settings.metrics_host, registry)
        except (OSError, OverflowError) as error:
            problem = str(error)
        else:
            _log.info("metrics are served", host=settings.metrics_host, port=port)
            return
    _log.warning("metrics are not served: no port is free", first_port=settings.metrics_port, error=problem)
