"""Scaling from no worker to three and back by KEDA's arithmetic, on real processes: nothing is lost, nothing flaps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from farm.process.embedded_redis import EmbeddedRedis
from tests.chaos.processes import Member
from tests.farms import clean_environment, free_port, wait_for
from tests.unit.deploy import DEPLOY

POLL_SECONDS = 0.5
JOBS = 30
#: KEDA's `cooldownPeriod` and the autoscaler's window of stabilisation are minutes in production.
COOLDOWN_SECONDS = 4.0
STABLE_SECONDS = 3.0
TARGET_SECONDS = 3.0
MAX_WORKERS = 3


class Scaler:
    """The number of replicas by KEDA's trigger `metrics-api` and the autoscaler that it feeds.

    KEDA itself decides between none and one; above that the autoscaler does: what the metric asks for, divided by the
    target and rounded up, unless it is within a tenth, and down only to the most that it asked for lately.
    """

    def __init__(self, *, target: float, max_replicas: int, cooldown: float, stable: float) -> None:
        self._target = target
        self._max = max_replicas
        self._cooldown = cooldown
        self._stable = stable
        self._active_at = -math.inf
        self._wanted: list[tuple[float, int]] = []

    def replicas(self, value: float, current: int, now: float) -> int:
        """Return how many replicas there shall be, with this value of the metric and so many replicas."""
        if value > 0:
            self._active_at = now
        if current == 0:
            return int(value > 0)
        if now - self._active_at >= self._cooldown:
            return 0
        return self._stabilised(self._autoscaled(value, current), now)

    def _autoscaled(self, value: float, current: int) -> int:
        if abs(value / (self._target * current) - 1) <= 0.1:
            return current
        return min(self._max, max(1, math.ceil(value / self._target)))

    def _stabilised(self, wanted: int, now: float) -> int:
        self._wanted = [(at, before) for at, before in self._wanted if now - at <= self._stable] + [(now, wanted)]
        return max(before for _, before in self._wanted)


@pytest.mark.parametrize(
    ("value", "current", "replicas"),
    [(0, 0, 0), (0.1, 0, 1), (900, 0, 1), (900, 1, 3), (6.1, 1, 3), (5.9, 1, 2), (3.2, 1, 1), (0, 1, 1), (0, 3, 1)],
)
def test_the_arithmetic_is_that_of_the_scalers(value: float, current: int, replicas: int) -> None:
    scaler = Scaler(target=3, max_replicas=3, cooldown=4, stable=3)
    scaler.replicas(1, 1, -3.5)  # it was active lately

    assert scaler.replicas(value, current, 0) == replicas


def test_scaling_down_waits_for_a_stable_load_and_for_the_cooldown() -> None:
    scaler = Scaler(target=3, max_replicas=3, cooldown=4, stable=3)

    moments = ((900, 1, 0), (0, 3, 2), (0, 3, 3.5), (0, 1, 3.9), (0, 1, 4))
    assert [scaler.replicas(*moment) for moment in moments] == [3, 3, 1, 1, 0]


class Cluster:
    """An API and a Redis, and as many workers as the scaler wants."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.log = folder / "farm.log"
        self._data = folder / "data"
        self._environment = clean_environment() | {"FARM_PIPELINE": "simulated", "FARM_SERVES": "srpo"}
        self.redis = EmbeddedRedis(self._data)
        self.api = self._member("api", "--port", str(port))
        self.workers: list[Member] = []
        self.statuses: list[int] = []

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        reply = urllib3.request(method, f"{self.url}/farm/v1/{path}", json=body, retries=False, timeout=30)
        assert reply.status < 300, reply.data
        return reply.json()

    def is_up(self) -> bool:
        try:
            return urllib3.request("GET", f"{self.url}/readyz", retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def scale(self, replicas: int) -> None:
        while len(self.workers) < replicas:
            self.workers.append(self._member("workers"))
            self.workers[-1].look()
        while len(self.workers) > replicas:
            self.statuses.append(self.workers.pop().end())

    def _member(self, module: str, *options: str) -> Member:
        program = [sys.executable, "-m", module, "--data-dir", str(self._data), *options]
        return Member(module, program, self._environment, self.log)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    parts = Cluster(folder)
    parts.redis.start()
    parts.api.look()
    try:
        wait_for(parts.is_up, seconds=60, what="the API")
        yield parts
    finally:
        parts.scale(0)
        parts.api.end()
        parts.redis.stop()


def value_location() -> str:
    """Return the field of /queue that the shipped scaler reads."""
    scaler = next(yaml.safe_load_all((DEPLOY / "kustomize" / "overlays" / "keda" / "scaler.yaml").read_text()))
    location: str = scaler["spec"]["triggers"][0]["metadata"]["valueLocation"]
    return location


def follow(farm: Cluster, *, polls: int = sys.maxsize) -> list[int]:
    """Scale the farm until it has no worker and no work, or for so many polls; return the numbers of workers."""
    scaler = Scaler(target=TARGET_SECONDS, max_replicas=MAX_WORKERS, cooldown=COOLDOWN_SECONDS, stable=STABLE_SECONDS)
    field, counts = value_location(), [len(farm.workers)]
    for _ in range(polls):
        queue = farm.call("GET", "queue")
        counts.append(scaler.replicas(queue[field], len(farm.workers), time.monotonic()))
        farm.scale(counts[-1])
        if counts[-1] == 0 and queue[field] == 0 and max(counts) > 0:
            break
        time.sleep(POLL_SECONDS)
    return counts


def turns(counts: Sequence[int]) -> int:
    """Return how often the number of workers changed its direction."""
    directions = [after > before for before, after in pairwise(counts) if after != before]
    return sum(before != after for before, after in pairwise(directions))


@pytest.mark.full
@pytest.mark.timeout(300)
def test_workers_come_with_a_burst_and_leave_after_it(tmp_path: Path) -> None:
    job = {"model": "srpo", "prompt": "a fox", "image_size": {"width": 256, "height": 256}}
    with cluster(tmp_path) as farm:
        farm.call("POST", "pause")
        jobs = [farm.call("POST", "jobs", job)["id"] for _ in range(JOBS)]
        paused, held = follow(farm, polls=4), farm.call("GET", "queue")
        farm.call("POST", "resume")
        counts = follow(farm)
        ended = [farm.call("GET", f"jobs/{job_id}") for job_id in jobs]
        left = farm.call("GET", "queue")

    assert set(paused) == {0}
    assert (held["waiting_jobs"], held["work_seconds"]) == (JOBS, 0)
    assert held["paused_seconds"] > MAX_WORKERS * TARGET_SECONDS
    assert (counts[0], max(counts), counts[-1]) == (0, MAX_WORKERS, 0)
    assert turns(counts) == 1, counts
    assert {view["status"] for view in ended} == {"completed"}
    assert (left["waiting_jobs"], left["processing"], left["work_seconds"]) == (0, 0, 0)
    assert farm.statuses == [0] * MAX_WORKERS
