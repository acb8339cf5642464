"""Affinity: a caller's jobs of one runner hint go to the worker that claimed the last one, if it is idle."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from farm.domain.job import Conditions
from farm.jobstore import redis_keys
from farm.jobstore.stats import StoreStats
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import FACTS, end_delays, ids, lose, names, record, result, submit, take, take_one
from tests.unit.dialects.samples import a_request

NOBODY: list[str] = []


def hinted(store: JobStore, caller: str = "ada", affinity: str = "h", **fields: Any) -> str:
    """Return a job with a runner hint; it stays reserved for longer than a slow test takes."""
    job_id = submit(store, caller, conditions=Conditions(runner_hint=affinity), **fields)
    stretch_affinity(store._redis, job_id)
    return job_id


def stretch_affinity(client: redis.Redis, job_id: str) -> None:
    if until_us := client.hget(redis_keys.job(job_id), "affinity_deadline_us"):
        client.hset(redis_keys.job(job_id), "affinity_deadline_us", int(str(until_us)) + 60_000_000)


def end_affinity(client: redis.Redis, *job_ids: str) -> None:
    """Let the reservation of these jobs for one worker expire."""
    for job_id in job_ids:
        client.hset(redis_keys.job(job_id), "affinity_deadline_us", 1)


def stand_ready(store: JobStore, worker: str) -> None:
    """Send a heartbeat that lasts for longer than a slow test takes."""
    store.renew(worker, FACTS, [])
    store._redis.zincrby(redis_keys.WORKERS, 60e6, worker)


@pytest.fixture
def preferred(store: JobStore) -> str:
    """Return an idle worker that claimed the last of ada's jobs with the hint; another one is idle, too."""
    hinted(store)
    first = take_one(store, "w1")
    store.complete(first, result(first))
    for worker in ("w1", "w2"):
        take(store, worker)
        stand_ready(store, worker)
    return "w1"


@pytest.mark.usefixtures("preferred")
def test_another_worker_leaves_it_for_a_moment(store: JobStore, client: redis.Redis) -> None:
    job_id = hinted(store)

    assert ids(take(store, "w2")) == NOBODY
    assert StoreStats(client).idle_workers() == 2  # who left it is woken for the next
    assert job_id in ids(take(store, "w1"))


@pytest.mark.usefixtures("preferred")
def test_jobs_behind_one_with_an_affinity_are_claimed_meanwhile(store: JobStore, client: redis.Redis) -> None:
    """Both of the same size, so that they would share a batch."""
    left, taken = hinted(store), submit(store, "bob")
    assert ids(take(store, "w2")) == [taken]

    assert ids(take(store, "w1")) == [left]
    later = submit(store, "bob")
    assert ids(take(store, "w2")) == [later]


@pytest.mark.usefixtures("preferred")
def test_after_a_moment_any_worker_may_have_it(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, conditions=Conditions(runner_hint="h"))
    until_us = int(str(client.hget(redis_keys.job(job_id), "affinity_deadline_us")))
    assert 0.9e6 < until_us - record(store, job_id).created_us < 1.1e6

    end_affinity(client, job_id)

    assert ids(take(store, "w2")) == [job_id]
    other = hinted(store)
    stand_ready(store, "w2")
    assert ids(take(store, "w1")) == NOBODY  # from now on w2 is preferred
    assert ids(take(store, "w2")) == [other]


@pytest.mark.usefixtures("preferred")
@pytest.mark.parametrize("how", ["busy", "gone", "silent", "draining", "told to drain"])
def test_a_worker_that_cannot_take_it_is_not_waited_for(store: JobStore, client: redis.Redis, how: str) -> None:
    if how == "busy":
        submit(store, "bob")
        take_one(store, "w1")
    elif how == "gone":
        store.remove_worker("w1", ["srpo"])
    elif how == "silent":
        client.zadd(redis_keys.WORKERS, {"w1": 1})
    elif how == "draining":
        store.renew("w1", FACTS | {"state": "draining"}, [])
    else:
        store.drain_worker("w1")

    job_id = hinted(store)

    assert ids(take(store, "w2")) == [job_id]


@pytest.mark.usefixtures("preferred")
@pytest.mark.parametrize("fields", [{"affinity": "other"}, {"caller": "bob"}])
def test_another_affinity_or_caller_prefers_no_worker(store: JobStore, fields: dict[str, Any]) -> None:
    job_id = hinted(store, **fields)

    assert ids(take(store, "w2")) == [job_id]


def test_one_worker_alone_takes_everything(store: JobStore) -> None:
    wanted = [hinted(store) for _ in range(3)]
    store.renew("w1", FACTS, [])

    assert ids(take(store)) == wanted


@pytest.mark.usefixtures("preferred")
def test_one_that_is_prepared_is_left_from_then_on(store: JobStore, client: redis.Redis) -> None:
    job_id = hinted(store, enhance=True)
    store.claim_unprepared(1, 60)
    assert client.hget(redis_keys.job(job_id), "affinity_deadline_us") is None

    store.finish_preparation(job_id, a_request(prompt="a fox, oil on canvas"))
    stretch_affinity(client, job_id)

    assert [ids(take(store, worker)) for worker in ("w2", "w1")] == [NOBODY, [job_id]]


@pytest.mark.usefixtures("preferred")
def test_a_job_that_comes_back_is_for_any_worker(store: JobStore, client: redis.Redis) -> None:
    """Its moment was its submit's."""
    job_id = hinted(store)
    take_one(store, "w1")
    end_affinity(client, job_id)
    lose(client, store)
    end_delays(client)

    assert ids(take(store, "w2")) == [job_id]


@pytest.mark.usefixtures("preferred")
def test_many_reserved_jobs_do_not_delay_others(store: JobStore) -> None:
    """No more are passed over than a claim may cost."""
    for _ in range(40):
        hinted(store, images=4)
    plain = submit(store, "bob", images=4, priority="low")

    assert plain not in ids(take(store, "w2"))
    assert len(take(store, "w2")) == 1


def test_turns_go_on_where_one_was_passed_over(store: JobStore, client: redis.Redis, preferred: str) -> None:
    """Virtual time never runs back, though a job is taken after later ones."""
    clock = f"{redis_keys.PREFIX}vclock:srpo:normal"
    left = hinted(store, images=4)
    for _ in range(4):
        submit(store, "eve", images=4)
    for _ in range(4):
        assert record(store, take_one(store, "w2").id).caller == "eve"
    reached = float(str(client.get(clock)))

    assert ids(take(store, preferred)) == [left]

    assert float(str(client.get(clock))) == reached > 0


def test_an_affinity_expires_after_ten_minutes(store: JobStore, client: redis.Redis) -> None:
    hinted(store)
    take_one(store)

    (name,) = [name for name in names(client) if "affinity:" in name]
    assert 590 < client.ttl(name) <= 600
