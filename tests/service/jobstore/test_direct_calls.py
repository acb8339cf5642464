"""Direct calls: a client that disconnected may repeat its call within 30 seconds, and gets the same job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from farm.domain.errors import QueueFull
from farm.domain.job import State
from farm.jobstore import redis_keys
from farm.jobstore.store import Accepted, JobStore
from tests.farms import wait_for
from tests.service.jobstore.jobs import (
    FACTS,
    TERMS,
    direct_call,
    end_hold,
    end_preparation,
    end_waiting_for_callers,
    hear_shouts,
    held,
    lose,
    names,
    new_job,
    record,
    result,
    state,
    take,
    take_one,
    waiting_count,
)


def call(store: JobStore, caller: str = "ada", **fields: Any) -> tuple[str, str]:
    """Make a direct call; return its job's id, and the call's own id."""
    new = direct_call(caller, **fields)
    return store.submit(new).id, new.order.call


def abandoned(store: JobStore, caller: str = "ada", **fields: Any) -> str:
    """Return the job of a call that disconnected."""
    job_id, name = call(store, caller, **fields)
    assert store.call_disconnected(job_id, name) is True
    return job_id


def let_time_pass(store: JobStore, client: redis.Redis) -> None:
    end_waiting_for_callers(client)
    store.reap()


def test_two_equal_calls_that_both_wait_are_two_jobs(store: JobStore) -> None:
    assert call(store)[0] != call(store)[0]


def test_an_equal_call_after_a_disconnect_gets_the_abandoned_job(store: JobStore, client: redis.Redis) -> None:
    job_id = abandoned(store)

    again = store.submit(direct_call())

    assert (again.id, again.repeated) == (job_id, True)
    let_time_pass(store, client)
    assert state(store, job_id) is State.CREATED
    assert waiting_count(client) == {"ada": "1"}


def test_an_abandoned_job_is_kept_for_half_a_minute(store: JobStore, client: redis.Redis) -> None:
    seconds, _ = client.time()
    job_id = abandoned(store)

    until_us = client.zscore(redis_keys.ABANDON_DEADLINE, job_id)

    assert until_us is not None
    assert 29 < until_us / 1e6 - seconds < 32
    store.reap()
    assert state(store, job_id) is State.CREATED


def test_without_a_reconnect_the_job_ends(store: JobStore, client: redis.Redis) -> None:
    job_id = abandoned(store)

    let_time_pass(store, client)

    job = record(store, job_id)
    assert (job.state, job.code, bool(job.error)) == (State.FAILED, "client_disconnected", True)
    assert (take(store), waiting_count(client)) == ((), {})
    assert call(store)[0] != job_id


def test_a_running_one_is_stopped(store: JobStore, client: redis.Redis, redis_url: str) -> None:
    result = hear_shouts(redis_url)
    job_id = abandoned(store)
    job = take_one(store)

    let_time_pass(store, client)

    wait_for(lambda: result == ["", job_id], what="the worker's being told")
    assert (state(store, job_id), record(store, job_id).cancelling) == (State.PROCESSING, True)
    assert store.renew("w1", FACTS, [held(job)]) == [job_id]
    assert store.fail(job, "cancelled", "The job was cancelled.") is State.FAILED
    assert record(store, job_id).code == "client_disconnected"


@pytest.mark.parametrize("how", ["complete", "release", "lose"])
def test_a_stopped_one_ends_however_its_worker_leaves_it(store: JobStore, client: redis.Redis, how: str) -> None:
    job_id = abandoned(store)
    job = take_one(store)
    let_time_pass(store, client)

    if how == "complete":
        assert store.complete(job, result(job)) is False
    elif how == "release":
        store.release(job)
    else:
        lose(client, store)

    assert record(store, job_id).code == "client_disconnected"


def test_an_equal_call_after_the_deadline_gets_a_new_job(store: JobStore, client: redis.Redis) -> None:
    job_id = abandoned(store)
    take_one(store)
    let_time_pass(store, client)

    assert call(store)[0] != job_id


def test_an_equal_call_does_not_join_a_cancelled_job(store: JobStore) -> None:
    """The next equal call does not go on with a job that is about to stop."""
    job_id = abandoned(store)
    take_one(store)
    store.cancel(job_id)

    assert call(store)[0] != job_id


def test_an_abandoned_job_that_completes_is_given_to_one_equal_call(store: JobStore, client: redis.Redis) -> None:
    job_id = abandoned(store)
    job = take_one(store)
    store.complete(job, result(job))

    assert store.submit(direct_call()) == Accepted(job_id, repeated=True, idle_workers=0)
    assert call(store)[0] != job_id  # somebody has it now

    let_time_pass(store, client)
    assert state(store, job_id) is State.COMPLETED


def test_a_job_that_completes_meanwhile_stays_completed(store: JobStore, client: redis.Redis) -> None:
    job_id = abandoned(store)
    job = take_one(store)
    store.complete(job, result(job))

    let_time_pass(store, client)

    assert state(store, job_id) is State.COMPLETED
    assert call(store)[0] != job_id


def test_hanging_up_just_when_it_completes_is_before_the_answer(store: JobStore) -> None:
    job_id, name = call(store)
    job = take_one(store)
    store.complete(job, result(job))

    store.call_disconnected(job_id, name)

    assert call(store)[0] == job_id


def test_a_failure_is_not_given_again(store: JobStore) -> None:
    """A repeated call gets another attempt."""
    job_id = abandoned(store)
    store.fail(take_one(store), "render_failed", "x")

    assert call(store)[0] != job_id


def test_every_abandoned_job_is_asked_for_once(store: JobStore) -> None:
    calls = [call(store) for _ in range(3)]
    for job_id, name in calls[:2]:
        store.call_disconnected(job_id, name)

    assert {call(store)[0] for _ in range(2)} == {job_id for job_id, _ in calls[:2]}
    assert call(store)[0] not in {job_id for job_id, _ in calls}


def test_another_request_or_caller_gets_a_job_of_its_own(store: JobStore) -> None:
    job_id = abandoned(store)

    assert job_id not in {call(store, digest="other")[0], call(store, "bob")[0], store.submit(new_job(digest="d")).id}


def test_a_submit_to_the_queue_is_not_abandoned(store: JobStore, client: redis.Redis) -> None:
    job_id = store.submit(new_job(digest="d")).id

    assert store.call_disconnected(job_id, "") is False
    let_time_pass(store, client)

    assert state(store, job_id) is State.CREATED


def test_with_a_key_the_caller_has_said_how_it_comes_back(store: JobStore, client: redis.Redis) -> None:
    job_id, name = call(store, key="k")

    assert store.call_disconnected(job_id, name) is False
    let_time_pass(store, client)

    assert state(store, job_id) is State.CREATED
    assert call(store)[0] != job_id
    assert call(store, key="k")[0] == job_id


def test_an_answered_job_is_given_to_no_other_call(store: JobStore) -> None:
    answered = [call(store)[0] for _ in range(3)]
    for job in take(store):
        store.complete(job, result(job))

    assert call(store)[0] not in answered


def test_a_job_whose_call_had_missed_its_heartbeats_but_got_the_images_is_not_joined(
    store: JobStore, client: redis.Redis
) -> None:
    """Redis, or the API's process, was away meanwhile; the call was still there, and got the images."""
    job_id, name = call(store)
    job = take_one(store)
    end_hold(client, job_id)
    store.complete(job, result(job))

    store.call_answered(job_id, name)

    assert call(store)[0] != job_id


def test_the_images_of_a_call_that_joined_are_not_those_of_the_one_that_had_left(
    store: JobStore, client: redis.Redis
) -> None:
    """A call reported late as disconnected does not take the job from an equal call that may still reconnect."""
    job_id, first = call(store)
    end_hold(client, job_id)
    _, second = call(store)
    job = take_one(store)
    store.complete(job, result(job))
    store.call_disconnected(job_id, first)
    store.call_disconnected(job_id, second)

    store.call_answered(job_id, first)

    assert call(store)[0] == job_id


def test_a_job_is_given_away_once(store: JobStore, client: redis.Redis) -> None:
    job_id = abandoned(store)
    assert call(store)[0] == job_id
    job = take_one(store)
    store.complete(job, result(job))

    assert call(store)[0] != job_id
    let_time_pass(store, client)
    assert call(store)[0] != job_id


def test_a_call_that_joined_a_job_and_disconnects_leaves_it_to_the_next(store: JobStore) -> None:
    job_id = abandoned(store)
    _, second = call(store)

    assert store.call_disconnected(job_id, second) is True

    assert call(store)[0] == job_id


def test_joining_a_job_may_be_repeated(store: JobStore, client: redis.Redis) -> None:
    """The answer of the job store was lost; the client library sent the same submit again."""
    job_id = abandoned(store)
    again = direct_call()

    assert [store.submit(again).id, store.submit(again).id] == [job_id, job_id]

    assert store.call_disconnected(job_id, again.order.call) is True
    assert client.zcard(redis_keys.JOBS) == 1


def test_submitting_may_be_repeated(store: JobStore, client: redis.Redis) -> None:
    new = direct_call()

    assert [store.submit(new).id, store.submit(new).id] == [new.id, new.id]
    assert client.zcard(redis_keys.JOBS) == 1


def test_hanging_up_may_be_repeated(store: JobStore, client: redis.Redis) -> None:
    job_id, name = call(store)
    store.call_disconnected(job_id, name)
    until = client.zscore(redis_keys.ABANDON_DEADLINE, job_id)

    assert store.call_disconnected(job_id, name) is True

    assert client.zscore(redis_keys.ABANDON_DEADLINE, job_id) == until


def test_going_on_with_a_job_is_no_new_one_for_the_limit(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, queue_limit=1))
    job_id = abandoned(store)

    assert call(store)[0] == job_id
    with pytest.raises(QueueFull):
        call(store)


def test_a_call_without_a_digest_is_like_no_other(store: JobStore) -> None:
    job_id, name = call(store, digest="")
    store.call_disconnected(job_id, name)

    assert call(store, digest="")[0] != job_id


def test_an_unprepared_one_ends_too(store: JobStore, client: redis.Redis) -> None:
    waiting, taken = (abandoned(store, digest=digest, enhance=True) for digest in "ab")
    store.claim_unprepared(1, 60)

    let_time_pass(store, client)

    assert {record(store, job_id).code for job_id in (waiting, taken)} == {"client_disconnected"}
    end_preparation(client, waiting, taken)
    assert (store.claim_unprepared(9, 60), waiting_count(client)) == ([], {})


@pytest.mark.parametrize("how", ["cancel", "complete", "disconnect", "delete"])
def test_nothing_of_the_calls_is_left(store: JobStore, client: redis.Redis, how: str) -> None:
    job_id, name = call(store)
    job = take_one(store)
    if how == "cancel":
        store.fail(job, "cancelled", "x")
    elif how == "disconnect":
        store.call_disconnected(job_id, name)
    else:
        store.complete(job, result(job))
    if how == "delete":
        assert store.delete(job_id)
    else:
        let_time_pass(store, client)

    assert not [left for left in names(client) if "_calls:" in left or left == redis_keys.ABANDON_DEADLINE]


# Who waits shows it


def test_a_call_without_heartbeats_counts_as_disconnected(store: JobStore, client: redis.Redis) -> None:
    """Its API was killed: an equal call goes on with the job, and if none comes it ends."""
    left, _ = call(store, digest="a")
    lost, _ = call(store, digest="b")
    for job_id in (left, lost):
        end_hold(client, job_id)

    again = store.submit(direct_call(digest="a"))
    store.reap()

    assert (again.id, again.repeated) == (left, True)
    assert (state(store, left), record(store, lost).code) == (State.CREATED, "client_disconnected")


def test_a_sign_of_life_holds_for_seconds(store: JobStore, client: redis.Redis) -> None:
    job_id, name = call(store)
    end_hold(client, job_id)

    store.call_heartbeat([(job_id, name)])

    seconds, _ = client.time()
    until_us = client.zscore(redis_keys.ABANDON_DEADLINE, job_id)
    assert until_us is not None
    assert 31 < until_us / 1e6 - seconds < 35
    assert call(store)[0] != job_id


@pytest.mark.parametrize("how", ["complete", "fail", "cancel", "delete"])
def test_a_sign_of_life_changes_nothing_of_what_ended(store: JobStore, client: redis.Redis, how: str) -> None:
    job_id, name = call(store)
    job = take_one(store)
    if how == "fail":
        store.fail(job, "render_failed", "x")
    elif how == "cancel":
        store.cancel(job_id)
        store.fail(job, "cancelled", "x")
    else:
        store.complete(job, result(job))
    if how == "delete":
        store.delete(job_id)
    before = {key: client.zrange(key, 0, -1, withscores=True) for key in names(client) if "direct" in key}

    store.call_heartbeat([(job_id, name), ("no-job", "no-call")])

    assert {key: client.zrange(key, 0, -1, withscores=True) for key in names(client) if "direct" in key} == before


def test_a_late_heartbeat_after_a_disconnect_is_ignored(store: JobStore) -> None:
    job_id, name = call(store)
    store.call_disconnected(job_id, name)

    store.call_heartbeat([(job_id, name)])

    assert call(store)[0] == job_id


def answered_before_the_end(store: JobStore) -> str:
    """Return the job of a call that was told where its image will be."""
    job_id, name = call(store)
    store.keep_after_call(job_id, name)
    return job_id


def test_an_equal_call_joins_the_job_of_a_call_that_got_504(store: JobStore) -> None:
    job_id = answered_before_the_end(store)

    assert call(store)[0] == job_id
    assert call(store)[0] != job_id  # a call waits for it


def test_an_equal_call_joins_once_a_job_that_completed_after_the_504(store: JobStore) -> None:
    job_id = answered_before_the_end(store)
    job = take_one(store)
    store.complete(job, result(job))

    assert call(store)[0] == job_id
    assert call(store)[0] != job_id


def test_an_equal_call_joins_a_job_that_completed_just_at_the_504(store: JobStore) -> None:
    job_id, name = call(store)
    job = take_one(store)
    store.complete(job, result(job))

    store.keep_after_call(job_id, name)

    assert call(store)[0] == job_id


@pytest.mark.parametrize("is_joined", [False, True])
def test_a_job_whose_caller_got_504_goes_on_without_an_equal_call(
    store: JobStore, client: redis.Redis, *, is_joined: bool
) -> None:
    job_id = answered_before_the_end(store)
    if is_joined:
        _, second = call(store)
        store.call_disconnected(job_id, second)

    let_time_pass(store, client)

    assert state(store, job_id) is State.CREATED
    assert call(store)[0] != job_id


def test_telling_a_caller_may_be_repeated(store: JobStore, client: redis.Redis) -> None:
    job_id, name = call(store)
    store.keep_after_call(job_id, name)
    until = client.zscore(redis_keys.ABANDON_DEADLINE, job_id)

    store.call_heartbeat([(job_id, name)])
    store.keep_after_call(job_id, name)  # its answer was lost

    assert client.zscore(redis_keys.ABANDON_DEADLINE, job_id) == until


def test_calls_are_not_abandoned_just_after_redis_has_started(store: JobStore, client: redis.Redis) -> None:
    """All heartbeats are old then."""
    job_id, _ = call(store)
    end_hold(client, job_id)

    store._scripts.run("reap", 1, 3, 3_600_000_000, 3_000_000, 900_000_000)

    assert state(store, job_id) is State.CREATED


def test_a_job_is_kept_for_one_call_after_its_504_while_another_waits(store: JobStore, client: redis.Redis) -> None:
    """Both wait for one job, because heartbeats of the first were late; then the other's API is killed."""
    job_id, first = call(store)
    end_hold(client, job_id)
    assert call(store)[0] == job_id

    store.keep_after_call(job_id, first)
    end_hold(client, job_id)
    store.reap()

    assert state(store, job_id) is State.CREATED
