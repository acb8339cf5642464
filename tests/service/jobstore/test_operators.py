"""Operators' commands: pause and resume, drain a worker, and the time limit of an attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from farm.doctor import work
from farm.doctor.finding import Mark
from farm.domain.job import State
from farm.jobstore import redis_keys
from farm.jobstore.stats import StoreStats
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobstore.jobs import (
    FACTS,
    TERMS,
    events,
    hear_shouts,
    held,
    ids,
    lose,
    names,
    new_job,
    record,
    result,
    state,
    submit,
    take,
    take_one,
)


def test_while_it_is_paused_nothing_is_taken_and_nothing_refused(store: JobStore, client: redis.Redis) -> None:
    running = submit(store)
    job = take_one(store)

    store.pause()
    waiting = submit(store)

    assert (take(store), StoreStats(client).is_paused()) == ((), True)
    assert store.complete(job, result(job)) is True  # what was taken goes on
    assert (state(store, running), state(store, waiting)) == (State.COMPLETED, State.CREATED)


def test_no_worker_is_woken_while_the_farm_is_paused(store: JobStore) -> None:
    take(store)
    store.pause()

    assert store.submit(new_job()).idle_workers == 0
    claim = store.claim("w1", ["srpo"])
    assert (claim.waiting, claim.idle_workers) == (0, 0)


def test_after_a_pause_all_goes_on(store: JobStore, client: redis.Redis) -> None:
    store.pause()
    job_id = submit(store)
    assert take(store) == ()

    store.resume()

    assert StoreStats(client).idle_workers() == 1
    assert (ids(take(store)), StoreStats(client).is_paused()) == ([job_id], False)


def test_the_doctor_tells_of_a_pause_and_of_nothing_that_is_stuck(store: JobStore, client: redis.Redis) -> None:
    store.renew("w1", FACTS, [])
    store.pause()
    submit(store)
    client.zadd(
        redis_keys.queue_by_age("srpo", "normal"), {job.id: 1 for job in store.page(None, before_us=None, count=1)}
    )

    (finding,) = work.queue(StoreStats(client), lease_seconds=60)

    assert (finding.mark, finding.remedy) == (Mark.NOTE, "farm resume")
    assert "paused: 1 wait" in finding.text


def test_a_claim_before_the_pause_is_answered_again(store: JobStore) -> None:
    submit(store)
    first = store.claim("w1", ["srpo"], nonce="once")

    store.pause()

    assert store.claim("w1", ["srpo"], nonce="once") == first


def test_a_worker_that_is_to_drain_takes_nothing(store: JobStore, client: redis.Redis) -> None:
    store.renew("w1", FACTS, [])

    assert (store.drain_worker("w1"), store.is_draining("w1"), store.is_draining("w2")) == (True, True, False)

    job_id = submit(store)
    assert take(store, "w1") == ()
    store.renew("w1", FACTS, [])
    assert client.smembers(redis_keys.idle_workers("srpo")) == set()  # no wake-up is for it
    assert ids(take(store, "w2")) == [job_id]


def test_a_pending_drain_is_not_among_a_workers_facts(store: JobStore, client: redis.Redis) -> None:
    store.renew("w1", FACTS, [])
    store.drain_worker("w1")

    assert StoreStats(client).workers()[0].facts.keys() == {*FACTS, "jobs"}


def test_draining_an_unknown_worker_writes_nothing(store: JobStore, client: redis.Redis) -> None:
    assert store.drain_worker("w1") is False
    assert names(client) == set()


def test_the_supervisor_learns_that_its_worker_was_drained(store: JobStore, client: redis.Redis) -> None:
    store.renew("w1", FACTS | {"host": "here", "pid": "42"}, [])

    store.drain_worker("w1")
    store.remove_worker("w1", ["srpo"])

    stats = StoreStats(client)
    assert [stats.is_dismissed("here", 42), stats.is_dismissed("here", 43)] == [True, False]


# How long a start may last


def end_rendering(client: redis.Redis, *job_ids: str) -> None:
    """Let the time limit of these jobs' current attempts expire."""
    for job_id in job_ids:
        client.zadd(redis_keys.RENDER_DEADLINE, {job_id: 0}, xx=True)


def test_a_start_has_so_long(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, render_seconds=100))
    submit(store)
    job = take_one(store)

    end_us = client.zscore(redis_keys.RENDER_DEADLINE, job.id)

    assert end_us is not None
    assert end_us - record(store, job.id).started_us == pytest.approx(100e6, abs=1e6)
    store.reap()
    assert state(store, job.id) is State.PROCESSING


def test_one_that_lasts_longer_fails_though_its_worker_lives(
    store: JobStore, client: redis.Redis, redis_url: str
) -> None:
    ended = hear_shouts(redis_url)
    submit(store)
    job = take_one(store)

    end_rendering(client, job.id)
    store.reap()

    seen = record(store, job.id)
    assert (seen.state, seen.code, bool(seen.error)) == (State.FAILED, "render_timeout", True)
    wait_for(lambda: ended == ["", job.id], what="the worker's being told")
    assert store.renew("w1", FACTS, [held(job)]) == [job.id]
    assert store.complete(job, result(job)) is False
    assert [name for _, name in events(client, job.id)] == ["created", "processing", "failed"]


def test_jobs_of_a_crashed_batch_are_retried_alone(store: JobStore, client: redis.Redis) -> None:
    """Any of them may be to blame; their old worker can neither end them nor return them."""
    wanted = [submit(store) for _ in range(2)]
    batch = take(store)
    assert len(batch) == 2

    end_rendering(client, *wanted)
    store.reap()

    assert {state(store, job_id) for job_id in wanted} == {State.CREATED}
    assert sorted(store.renew("w1", FACTS, [held(job) for job in batch])) == sorted(wanted)
    assert [store.complete(job, result(job)) for job in batch] == [False, False]
    alone = [take_one(store), take_one(store)]
    assert ({job.id for job in alone}, {job.attempt for job in alone}) == (set(wanted), {1})
    end_rendering(client, alone[0].id)
    store.reap()
    assert record(store, alone[0].id).code == "render_timeout"
    assert store.complete(alone[1], result(alone[1])) is True


def test_one_that_was_to_stop_ends_as_what_was_wanted(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)
    store.cancel(job.id)

    end_rendering(client, job.id)
    store.reap()

    assert record(store, job.id).code == "cancelled"


@pytest.mark.parametrize("how", ["complete", "fail", "again", "release", "lose"])
def test_waiting_is_not_counted(store: JobStore, client: redis.Redis, how: str) -> None:
    submit(store)
    job = take_one(store)
    if how == "complete":
        store.complete(job, result(job))
    elif how == "lose":
        lose(client, store)
    elif how == "release":
        store.release(job)
    else:
        store.fail(job, "render_failed", "x", retry="again" if how == "again" else "never")

    assert client.zcard(redis_keys.RENDER_DEADLINE) == 0


def test_a_start_that_is_taken_back_is_the_same_start(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)
    end_us = client.zscore(redis_keys.RENDER_DEADLINE, job.id)
    lose(client, store)

    assert store.renew("w1", FACTS, [held(job)]) == []

    assert client.zscore(redis_keys.RENDER_DEADLINE, job.id) == end_us
