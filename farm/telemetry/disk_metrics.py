"""Metrics of the data folder's disk. They are not counted in Redis: on a full disk nothing is recorded there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from farm.jobstore.disk_guard import SUBMIT_RESERVE
from farm.process.data_dir import file_systems
from farm.telemetry.families import Family, Samples
from farm.uploads import uploads

FREE = Family(
    "farm_disk_free_bytes", "Free bytes of the data folder's disk; the least, if it has several", scope="process"
)
RESERVE = Family(
    "farm_disk_reserve_bytes",
    "Free bytes of the disk below which these are refused: `uploads`; with the embedded Redis `jobs`, too",
    ("refused",),
    scope="process",
)


class DiskCollector(Collector):
    """Measures the disk at each scrape."""

    def __init__(self, data_dir: Path, *, holds_jobs: bool) -> None:
        """Measure the disk of this folder. `holds_jobs`: the embedded Redis writes there."""
        self._data_dir = data_dir
        self._holds_jobs = holds_jobs

    def collect(self) -> Iterator[Metric]:
        yield RESERVE.metric(self._reserves())
        with suppress(OSError):  # the folder was removed: the farm ends, and says why
            yield FREE.metric([((), min(file_systems(self._data_dir).values()))])

    def _reserves(self) -> Samples:
        yield ("uploads",), uploads.MIN_FREE_BYTES
        if self._holds_jobs:
            yield ("jobs",), SUBMIT_RESERVE
