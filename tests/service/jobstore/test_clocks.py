"""Clocks that are set forward or back: this machine's, and Redis's.

Of job times only Redis's clock decides, and of durations only the monotonic one. When Redis's own clock leaps, no job
is lost, doubled, or charged for it; what is kept for a time (results, Idempotency-Keys) goes by it all the same.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm import clock
from farm.bootstrap import Farm
from farm.domain.job import Claimed
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobstore.jobs import (
    BASE,
    FACTS,
    TERMS,
    held,
    record,
    result,
    submit,
    take_one,
)
from tests.service.jobstore.stepped_clock import SteppedStore
from tests.service.workers.worker import Opened

DAY = 86_400.0
HOUR_US = 3_600_000_000


@pytest.fixture
def skewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock jump by a day, forward or back, each time it is read."""
    leaps, now_us = itertools.cycle((1, -1)), clock.now_us
    monkeypatch.setattr(clock, "now_us", lambda: now_us() + round(next(leaps) * DAY * 1e6))


def test_a_leaping_wall_clock_changes_no_job(
    skewed: None, open_worker: Opened, open_api: Callable[..., FlaskClient], farm: Farm
) -> None:
    """It is submitted, polled, rendered, fetched and cancelled as usual; its times are Redis's."""
    api, shop = open_api(), open_worker()
    body = {"model": "srpo", "prompt": "a fox", "image_size": {"width": 256, "height": 256}, "num_inference_steps": 2}
    done, gone = (in_json(api.post("/farm/v1/jobs", json=body))["id"] for _ in range(2))
    assert in_json(api.post(f"/farm/v1/jobs/{gone}/cancel"))["outcome"] == "cancelled"

    job = shop.end_of(done)
    view, other = (in_json(api.get(f"/farm/v1/jobs/{job_id}")) for job_id in (done, gone))

    assert (view["status"], other["code"]) == ("completed", "cancelled")
    with api.get(view["images"][0]["url"].removeprefix(BASE)) as image:
        assert (image.status_code, image.content_length) == (200, len(image.data))
    seconds, _ = farm.redis.time()
    assert job.created_us <= job.started_us <= job.finished_us
    assert abs(job.created_us / 1e6 - seconds) < 600


def in_json(response: TestResponse) -> dict[str, Any]:
    body = response.json
    assert isinstance(body, dict)
    return body


def test_a_wake_up_is_heard_whatever_the_clocks_say(farm: Farm) -> None:
    """Celery judges a message's expiry by its receiver's clock: with one, a worker that is ahead would hear nothing."""
    farm.wake_ups.send(1)

    queue = f"{redis_keys.CELERY}render"
    wait_for(lambda: farm.redis.llen(queue), what="the wake-up")
    message = json.loads(str(farm.redis.lindex(queue, 0)))
    assert message["headers"]["task"] == "render.batches"
    assert message["headers"]["expires"] is None
    assert message["headers"]["eta"] is None


class Moved:
    """A job store with a clock that the test sets."""

    def __init__(self, client: redis.Redis) -> None:
        self.store = SteppedStore(client, TERMS)
        self.now_us = 1_800_000_000_000_000
        self.move(0)

    def move(self, us: int) -> None:
        self.now_us += us
        self.store.set_clock(self.now_us)


@pytest.fixture
def moved(client: redis.Redis, redis_url: str) -> Moved:
    return Moved(client)


def test_a_dead_workers_job_is_taken_back_soon_though_the_clock_was_set_back(moved: Moved) -> None:
    submit(moved.store)
    dead = take_one(moved.store)
    moved.move(-HOUR_US)
    assert moved.store.reap() == 0

    moved.move(60_000_001)

    assert moved.store.reap() == 1
    assert take_one(moved.store, "w2").id == dead.id
    assert not moved.store.complete(dead, result(dead))


def test_a_living_workers_job_stays_its_own_though_the_clock_was_set_back(moved: Moved) -> None:
    submit(moved.store)
    job = take_one(moved.store)
    moved.move(-HOUR_US)
    for _ in range(100):
        moved.move(900_000)
        assert moved.store.renew("w1", FACTS, [held(job)]) == []
        assert moved.store.reap() == 0

    assert moved.store.complete(job, result(job))


def test_a_delayed_retry_is_queued_though_the_clock_was_set_back(moved: Moved) -> None:
    job_id = submit(moved.store)
    moved.store.fail(take_one(moved.store), "render_failed", "no luck", retry="alone")
    moved.move(-HOUR_US)
    moved.store.reap()
    moved.move(2**TERMS.max_attempts * 1_000_000 + 1)

    moved.store.reap()

    assert take_one(moved.store).id == job_id


class Leap:
    """Makes Redis's clock seem to jump: by this process's monotonic clock no time passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monotonic = clock.monotonic
        self._behind = 0.0
        monkeypatch.setattr(clock, "monotonic", lambda: self._monotonic() - self._behind)

    def __call__(self, seconds: float) -> None:
        self._behind += seconds


@pytest.fixture
def leap(monkeypatch: pytest.MonkeyPatch) -> Leap:
    return Leap(monkeypatch)


def let_be_over(client: redis.Redis, job: Claimed) -> None:
    """Let the clock jump while a job is rendered."""
    client.zadd(redis_keys.LEASES, {job.id: 1})
    client.zadd(f"{redis_keys.PREFIX}render_deadline", {job.id: 1})


def test_a_leap_of_the_clock_takes_no_job_from_a_living_worker(
    store: JobStore, client: redis.Redis, leap: Leap
) -> None:
    """After a suspend of the machine, leases and time limits seem to have expired, and have not."""
    submit(store)
    job = take_one(store)
    store.reap()
    let_be_over(client, job)
    leap(3600)

    assert store.reap() == 0
    assert store.renew("w1", FACTS, [held(job)]) == []
    assert store.reap() == 0
    assert (record(store, job.id).attempt, store.complete(job, result(job))) == (1, True)


def test_a_dead_workers_job_is_taken_back_a_lease_after_a_leap(
    store: JobStore, client: redis.Redis, leap: Leap
) -> None:
    submit(store)
    job = take_one(store)
    store.reap()
    let_be_over(client, job)
    leap(3600)
    store.reap()

    leap(-TERMS.lease_seconds)

    assert store.reap() == 1


def test_a_clock_that_goes_is_no_leap(store: JobStore, client: redis.Redis, leap: Leap) -> None:
    """A reclaim round that was kept waiting, as long as it may have been, takes back what is over."""
    submit(store)
    job = take_one(store)
    store.reap()
    let_be_over(client, job)
    leap(-3600)

    assert store.reap() == 1
