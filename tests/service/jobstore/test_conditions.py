"""Conditions of a submit: time to start, retention, no retry, redaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from farm.domain.job import Conditions, Job, State, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.webhooks.store import DeliveryStore
from tests.service.jobstore.jobs import (
    TERMS,
    end_start,
    events,
    held,
    ids,
    lose,
    names,
    record,
    result,
    state,
    submit,
    take,
    take_one,
    waiting_count,
)
from tests.unit.dialects.samples import a_request

IN_TIME = Conditions(start_within=60)
ONCE = Conditions(may_retry=False)
FORGETFUL = Conditions(keeps_payload=False)


def kept_seconds(client: redis.Redis, store: JobStore, job_id: str) -> float:
    """Return for how long after its end the job will be kept."""
    end = client.zscore(redis_keys.EXPIRY, job_id)
    assert end is not None
    return (end - record(store, job_id).finished_us) / 1e6


# A time within which it must have been started


def test_the_time_to_start_counts_from_the_submit(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, conditions=IN_TIME)

    by_us = client.zscore(redis_keys.START_DEADLINE, job_id)

    assert by_us == record(store, job_id).created_us + 60_000_000
    store.reap()
    assert state(store, job_id) is State.CREATED


def test_a_job_that_is_not_started_in_time_fails(store: JobStore, client: redis.Redis) -> None:
    job_id, other = submit(store, conditions=IN_TIME), submit(store)
    end_start(client, job_id)

    store.reap()

    job = record(store, job_id)
    assert (job.state, job.code, bool(job.error)) == (State.FAILED, "start_timeout", True)
    assert (events(client, job_id)[-1], waiting_count(client)) == ((2, "failed"), {"ada": "1"})
    assert ids(take(store)) == [other]


def test_no_claim_takes_a_job_that_comes_too_late(store: JobStore, client: redis.Redis) -> None:
    """It is claimed neither as the first of its queue nor as another job's batch peer."""
    first, second, third, fourth = [submit(store, conditions=IN_TIME) for _ in range(4)]
    end_start(client, first)
    end_start(client, third)

    assert ids(take(store)) == [second, fourth]

    assert record(store, first).code == "start_timeout"
    store.reap()
    assert record(store, third).code == "start_timeout"


def test_more_jobs_than_a_call_may_end_are_ended_too(store: JobStore, client: redis.Redis) -> None:
    late = [submit(store, conditions=IN_TIME) for _ in range(450)]
    wanted = submit(store)
    for job_id in late:
        end_start(client, job_id)

    assert take(store) == ()
    store.reap()

    assert {record(store, job_id).code for job_id in late} == {"start_timeout"}
    assert ids(take(store)) == [wanted]


def test_once_started_the_time_does_not_matter(store: JobStore, client: redis.Redis) -> None:
    submit(store, conditions=IN_TIME)
    job = take_one(store)
    end_start(client, job.id)

    store.reap()

    assert store.complete(job, result(job)) is True


def test_a_crash_does_not_start_the_time_again(store: JobStore, client: redis.Redis) -> None:
    kept, late = submit(store, conditions=IN_TIME), submit(store, conditions=IN_TIME)
    by_us = client.zscore(redis_keys.START_DEADLINE, kept)
    take(store)
    end_start(client, late)

    lose(client, store)

    assert client.zscore(redis_keys.START_DEADLINE, kept) == by_us
    assert record(store, late).code == "start_timeout"
    assert ids(take(store)) == [kept]


def test_a_late_worker_takes_its_job_up_again_in_time(store: JobStore, client: redis.Redis) -> None:
    submit(store, conditions=IN_TIME)
    job = take_one(store)
    lose(client, store)
    store.renew("w1", {}, [held(job)])
    end_start(client, job.id)

    store.reap()

    assert store.complete(job, result(job)) is True


def test_a_cancelled_job_ends_once(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, conditions=IN_TIME)
    store.cancel(job_id)
    end_start(client, job_id)

    store.reap()

    assert record(store, job_id).code == "cancelled"
    assert not client.exists(redis_keys.START_DEADLINE)


# A time for which it is kept


def test_a_job_is_kept_for_as_long_as_its_caller_wishes(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, conditions=Conditions(keep_seconds=90))
    store.cancel(job_id)

    assert kept_seconds(client, store, job_id) == pytest.approx(90, abs=0.01)


@pytest.mark.parametrize("wish", [0, 1_000_000])
def test_no_job_is_kept_for_longer_than_the_farm_keeps_them(store: JobStore, client: redis.Redis, wish: float) -> None:
    job_id = submit(store, conditions=Conditions(keep_seconds=wish))
    store.cancel(job_id)

    assert kept_seconds(client, store, job_id) == pytest.approx(TERMS.result_ttl_seconds, abs=0.01)


# No second try


def test_a_crash_ends_what_may_not_be_tried_again(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, conditions=ONCE)
    take_one(store)

    lose(client, store)

    job = record(store, job_id)
    assert (job.state, job.code, job.attempt) == (State.FAILED, "attempts_exhausted", 1)
    assert "must not be retried" in job.error


def test_a_failure_ends_what_may_not_be_tried_again(store: JobStore) -> None:
    for retry in ("again", "alone"):
        submit(store, conditions=ONCE)

        assert store.fail(take_one(store), "storage_failed", "x", retry=retry) is State.FAILED


def test_a_job_without_retries_is_claimed_alone(store: JobStore, client: redis.Redis) -> None:
    """Therefore it does not end with the crash of another job."""
    before, once, after = submit(store), submit(store, conditions=ONCE), submit(store)

    assert [ids(take(store)) for _ in range(2)] == [[before, after], [once]]
    lose(client, store, before, after)
    assert [state(store, job_id) for job_id in (before, once)] == [State.CREATED, State.PROCESSING]


def test_a_drain_is_no_try(store: JobStore) -> None:
    submit(store, conditions=ONCE)
    job = take_one(store)

    store.release(job)

    assert take_one(store).id == job.id


# To be forgotten


def finished(store: JobStore, how: str, **fields: Any) -> Job:
    """Return a job that ended in this way."""
    sources = ("https://images.example/secret.png",)
    job_id = submit(store, prompt="a secret", sources=sources, conditions=FORGETFUL, **fields)
    if how == "cancelled":
        store.cancel(job_id)
        return record(store, job_id)
    store.claim_unprepared(1, 60)
    facts = {"original_prompt": "a secret", "sources": sources, "inputs": ("secret.png",), "width": 512}
    request = a_request(prompt="a secret, in oil", **facts)
    store.finish_preparation(job_id, request)
    job = take_one(store)
    assert job.request == request
    if how == "completed":
        store.complete(job, result(job))
    else:
        store.fail(job, "render_failed", "x")
    return record(store, job_id)


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_a_request_that_is_not_kept_is_forgotten_at_its_end(store: JobStore, client: redis.Redis, how: str) -> None:
    job = finished(store, how)

    assert (job.request.prompt, job.request.original_prompt) == ("", None)
    assert (job.request.sources, job.request.inputs, job.request.needs_preparation) == ((), (), False)
    assert "secret" not in str(client.hgetall(redis_keys.job(job.id)))
    assert (job.request.seed, job.request.width, job.steps) == (7, 256 if how == "cancelled" else 512, 4)
    assert (job.result is not None) == (how == "completed")


def test_a_job_that_is_not_kept_still_has_its_webhook(store: JobStore, client: redis.Redis) -> None:
    job = finished(store, "completed", webhook=Webhook("https://hook.example/"))

    (due,) = DeliveryStore(client).claim(1, lease_seconds=60)

    assert (due.job, due.event) == (job.id, "completed")


def test_until_the_end_nothing_is_forgotten(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, prompt="a secret", conditions=FORGETFUL)
    take_one(store)
    lose(client, store)

    assert take_one(store).request.prompt == "a secret"
    assert record(store, job_id).request.prompt == "a secret"


def test_the_rest_is_kept_as_it_is(store: JobStore) -> None:
    job_id = submit(store, prompt="no secret")
    job = take_one(store)
    store.complete(job, replace(result(job), build="x"))

    assert record(store, job_id).request.prompt == "no secret"


def test_a_job_with_all_conditions_is_deleted_whole(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store, conditions=Conditions(60, 90, may_retry=False, keeps_payload=False))
    store.cancel(job_id)

    store.delete(job_id)

    assert not [name for name in names(client) if job_id in name]
    assert not client.exists(redis_keys.START_DEADLINE, redis_keys.EXPIRY, redis_keys.JOBS)
