"""Collector of the job store's metrics at each scrape. A part that cannot be read costs its family, not the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from farm import __version__
from farm.domain.errors import StoreUnavailable
from farm.jobstore.reading import Reading
from farm.telemetry import store_metrics
from farm.telemetry.families import Family

BUILD = Family("farm_build_info", "Version of the farm; the value is 1", ("version",), scope="process")
STORE_UP = Family("farm_store_up", "1 if Redis answered this scrape", scope="process")
FAILED_FAMILIES = Family("farm_scrape_failed_families", "Families that this scrape could not read", scope="process")

_log = structlog.get_logger(__name__)


class StoreCollector(Collector):
    """Reads the job store on each scrape, so that every API tells the same."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield BUILD.metric([((__version__,), 1)])
        try:
            reading = self._read()
        except StoreUnavailable:
            yield STORE_UP.metric([((), 0)])
            return
        yield STORE_UP.metric([((), 1)])
        failed = 0
        for family, make in store_metrics.sources(reading):
            try:
                yield make()
            except Exception as error:  # noqa: BLE001  # whatever the store holds, the other families are read
                failed += 1
                _log.error("metrics not read", family=family.name, error=repr(error))
        yield FAILED_FAMILIES.metric([((), failed)])
