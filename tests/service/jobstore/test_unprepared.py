"""Jobs to prepare: they count as waiting, and enter no render queue before they are prepared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from farm.domain.errors import QueueFull
from farm.domain.job import Conditions, State
from farm.domain.request import Request
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import Listener
from farm.jobstore.stats import StoreStats
from farm.jobstore.store import MAX_PREPARATION_ATTEMPTS, JobStore
from tests.farms import wait_for
from tests.service.jobstore.jobs import (
    TERMS,
    end_preparation,
    end_start,
    events,
    ids,
    names,
    new_job,
    record,
    state,
    submit,
    take,
    take_one,
    waiting_count,
)
from tests.unit.dialects.samples import a_request

SOURCE = "https://images.example/cat.png"
LEASE = 60.0


def submit_unprepared(store: JobStore, caller: str = "ada", **fields: Any) -> str:
    return submit(store, caller, sources=(SOURCE,), **fields)


def ready(**changes: Any) -> Request:
    """Return a request as preparation changes it."""
    return a_request(**{"sources": (SOURCE,), "inputs": ("copy.png",)} | changes)


def taken(store: JobStore, count: int = 9) -> list[str]:
    return [job.id for job in store.claim_unprepared(count, LEASE)]


def take_and_lose(store: JobStore, client: redis.Redis, count: int = 9) -> list[str]:
    """Claim as a preparer that dies; return the job that it took."""
    lost = taken(store, count)
    end_preparation(client, *lost)
    return lost


@pytest.mark.parametrize("fields", [{"sources": (SOURCE,)}, {"enhance": True}])
def test_an_unprepared_job_is_not_claimed(store: JobStore, client: redis.Redis, fields: dict[str, Any]) -> None:
    job_id = submit(store, **fields)

    assert (take(store), state(store, job_id)) == ((), State.CREATED)
    assert (waiting_count(client), StoreStats(client).unprepared()) == ({"ada": "1"}, 1)
    assert events(client, job_id) == [(1, "created")]


def test_an_unprepared_job_counts_against_its_callers_limit(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, queue_limit=1))
    submit_unprepared(store)

    with pytest.raises(QueueFull):
        submit(store)


def test_no_idle_worker_is_woken_for_it(store: JobStore) -> None:
    take(store)

    assert store.submit(new_job(sources=(SOURCE,))).idle_workers == 0


def test_a_listener_is_notified_of_an_unprepared_job(store: JobStore, redis_url: str, client: redis.Redis) -> None:
    heard: list[str] = []
    listener = Listener(connect_to_listen(redis_url), lambda channel, _text: heard.append(channel))
    listener.subscribe(redis_keys.UNPREPARED_CHANNEL)
    listener.start()
    wait_for(lambda: heard == [redis_keys.UNPREPARED_CHANNEL], what="the listener's joining")

    submit(store)
    submit_unprepared(store)

    wait_for(lambda: len(heard) == 2, what="the hint")


def test_a_taken_job_comes_as_its_record_and_to_one_alone(store: JobStore) -> None:
    job_id = submit_unprepared(store)

    (job,) = store.claim_unprepared(9, LEASE)

    assert job == record(store, job_id)
    assert taken(store) == []


def test_only_so_many_are_taken(store: JobStore) -> None:
    wanted = [submit_unprepared(store) for _ in range(3)]

    assert [taken(store, 2), taken(store, 2)] == [wanted[:2], wanted[2:]]


def test_callers_are_prepared_in_turn(store: JobStore) -> None:
    """A bulk does not delay a single job of another caller, whatever its images cost later."""
    bulk = [submit_unprepared(store, "ada", images=4) for _ in range(20)]
    taken(store, 5)
    single = submit_unprepared(store, "bob")

    assert single in taken(store, 2)
    assert set(taken(store, 20)) <= set(bulk)


def test_a_new_caller_shares_preparation_with_earlier_ones(store: JobStore) -> None:
    """Ada has had much prepared; bob's bulk does not make good for it."""
    for _ in range(20):
        submit_unprepared(store, "ada")
        for job_id in taken(store):
            store.finish_preparation(job_id, ready())
    bulk = [submit_unprepared(store, "bob") for _ in range(10)]
    single = submit_unprepared(store, "ada")

    assert single in taken(store, 3)
    assert set(taken(store)) < set(bulk)


def test_low_priority_is_prepared_behind_normal(store: JobStore) -> None:
    low, normal = submit_unprepared(store, priority="low"), submit_unprepared(store)

    assert taken(store) == [normal, low]


def test_low_priority_is_prepared_now_and_then(store: JobStore) -> None:
    low = submit_unprepared(store, priority="low")
    for _ in range(10):
        submit_unprepared(store)

    assert low in [taken(store, 1)[0] for _ in range(8)]


def test_a_prepared_job_is_what_is_rendered(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)

    assert store.finish_preparation(job_id, ready(width=1024, prompt="a cat, oil on canvas")) is True

    job = take_one(store)
    assert (job.id, job.request) == (job_id, ready(width=1024, prompt="a cat, oil on canvas"))
    assert (waiting_count(client), StoreStats(client).unprepared()) == ({}, 0)
    assert events(client, job_id) == [(1, "created"), (2, "processing")]


def test_a_prepared_job_joins_a_batch_by_its_prepared_size(store: JobStore) -> None:
    odd, plain = submit_unprepared(store), submit(store, width=512)
    taken(store)
    store.finish_preparation(odd, ready(width=512, images=2))

    assert set(ids(take(store))) == {odd, plain}


def test_its_turn_comes_with_its_preparation(store: JobStore) -> None:
    """Its cost is that of the prepared request: ada's second job is behind bob's."""
    first, second = submit_unprepared(store, "ada"), submit_unprepared(store, "ada")
    taken(store)
    store.finish_preparation(first, ready(images=4))
    store.finish_preparation(second, ready(images=4))
    assert take_one(store).id == first
    other = submit(store, "bob", images=4)

    assert [take_one(store).id for _ in range(2)] == [other, second]


def test_preparing_again_after_a_lost_answer_is_once(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)

    assert [store.finish_preparation(job_id, ready()), store.finish_preparation(job_id, ready())] == [True, True]

    assert ids(take(store)) == [job_id]
    assert take(store) == ()


def test_finishing_a_preparation_twice_is_refused(store: JobStore) -> None:
    job_id = submit_unprepared(store)
    taken(store)
    store.finish_preparation(job_id, ready())

    assert store.finish_preparation(job_id, ready(inputs=("other.png",))) is False

    assert take_one(store).request.inputs == ("copy.png",)


def test_a_slow_preparer_may_still_finish_an_unclaimed_job(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)
    end_preparation(client, job_id)
    assert taken(store) == [job_id]

    assert store.finish_preparation(job_id, ready()) is True
    assert ids(take(store)) == [job_id]


@pytest.mark.parametrize("taken_before", [False, True])
def test_a_cancelled_job_is_neither_taken_nor_prepared(
    store: JobStore, client: redis.Redis, *, taken_before: bool
) -> None:
    job_id = submit_unprepared(store)
    if taken_before:
        taken(store)

    assert store.cancel(job_id) == "cancelled"

    assert (store.finish_preparation(job_id, ready()), store.fail_preparation(job_id, "image_load_error", "no")) == (
        False,
        False,
    )
    assert (taken(store), take(store), waiting_count(client)) == ([], (), {})
    assert record(store, job_id).code == "cancelled"
    assert StoreStats(client).unprepared() == 0


def test_cancelled_jobs_cost_their_caller_no_share_of_preparation(store: JobStore) -> None:
    for _ in range(5):
        store.cancel(submit_unprepared(store, "ada"))
    taken(store)
    submit_unprepared(store, "bob")
    mine = submit_unprepared(store, "ada")

    assert mine in taken(store, 2)


def test_a_refused_job_tells_why(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)

    assert store.fail_preparation(job_id, "image_load_error", "image_url: it is no image") is True

    job = record(store, job_id)
    assert (job.state, job.code, job.error) == (State.FAILED, "image_load_error", "image_url: it is no image")
    assert (events(client, job_id)[-1], waiting_count(client)) == ((2, "failed"), {})
    assert client.zscore(redis_keys.EXPIRY, job_id) is not None


def test_refusing_again_after_a_lost_answer_is_once(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)

    assert [
        store.fail_preparation(job_id, "file_too_large", "x"),
        store.fail_preparation(job_id, "file_too_large", "x"),
    ] == [True, True]

    assert len(events(client, job_id)) == 2


def test_a_prepared_job_is_not_refused(store: JobStore) -> None:
    job_id = submit_unprepared(store)
    taken(store)
    store.finish_preparation(job_id, ready())

    assert store.fail_preparation(job_id, "image_load_error", "no") is False
    assert state(store, job_id) is State.CREATED


def test_a_preparation_whose_lease_expired_is_taken_again(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)

    assert [take_and_lose(store, client), taken(store)] == [[job_id], [job_id]]
    assert taken(store) == []


def test_a_renewed_preparation_is_not_taken(store: JobStore, client: redis.Redis) -> None:
    first, again = submit_unprepared(store), submit_unprepared(store)
    end_preparation(client, *taken(store, 1), again)
    assert set(taken(store)) == {first, again}  # the first of them for the second time
    end_preparation(client, first, again)

    store.renew_unprepared([first, again], LEASE)

    assert taken(store) == []


def test_holding_brings_nothing_back(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)
    store.cancel(job_id)

    store.renew_unprepared([job_id], LEASE)

    assert not client.exists(redis_keys.PREPARING, redis_keys.PREPARING_AGAIN)


def test_a_released_preparation_is_next_and_costs_no_attempt(store: JobStore) -> None:
    first, second = submit_unprepared(store), submit_unprepared(store)
    for _ in range(MAX_PREPARATION_ATTEMPTS + 1):
        assert taken(store, 1) == [first]
        store.release_unprepared(first)

    assert taken(store) == [first, second]


def test_a_suspect_preparation_is_still_taken_alone_after_its_release(store: JobStore, client: redis.Redis) -> None:
    lost = submit_unprepared(store), submit_unprepared(store)
    take_and_lose(store, client)
    (suspect,) = taken(store)

    store.release_unprepared(suspect)

    assert taken(store) == [suspect]
    assert set(lost) > {suspect}


@pytest.mark.parametrize("ended", [True, False])
def test_a_preparation_that_is_not_held_cannot_be_released(store: JobStore, ended: bool) -> None:
    job_id = submit_unprepared(store)
    if ended:
        taken(store)
        store.cancel(job_id)

    store.release_unprepared(job_id)

    assert taken(store) == ([] if ended else [job_id])


def test_a_job_that_kills_its_preparers_fails(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    for _ in range(MAX_PREPARATION_ATTEMPTS):
        assert take_and_lose(store, client) == [job_id]

    assert taken(store) == []

    job = record(store, job_id)
    assert (job.state, job.code) == (State.FAILED, "preparation_failed")
    assert "5 times" in job.error
    assert (waiting_count(client), StoreStats(client).unprepared()) == ({}, 0)


def test_a_job_that_kills_its_preparers_does_not_harm_others(store: JobStore, client: redis.Redis) -> None:
    """Preparers take as much as they can, and one with the culprit dies with all its jobs."""
    culprit, *innocent = [submit_unprepared(store) for _ in range(12)]
    deaths = 0
    while batch := taken(store, 4):
        if culprit in batch:
            deaths += 1
            end_preparation(client, *batch)
        else:
            for job_id in batch:
                assert store.finish_preparation(job_id, ready())

    assert (deaths, record(store, culprit).code) == (MAX_PREPARATION_ATTEMPTS, "preparation_failed")
    takes = [int(str(client.hget(redis_keys.job(job_id), "preparation_attempts"))) for job_id in innocent]
    assert max(takes) <= 2


def test_lost_jobs_are_prepared_one_at_a_time(store: JobStore, client: redis.Redis) -> None:
    lost = sorted(submit_unprepared(store) for _ in range(3))
    assert sorted(take_and_lose(store, client)) == lost
    fresh = submit_unprepared(store)

    assert taken(store) == [lost[0], fresh]
    assert taken(store) == []
    store.finish_preparation(lost[0], ready())
    assert taken(store) == [lost[1]]


def test_its_position_counts_what_is_before_it(store: JobStore) -> None:
    submit(store)
    submit(store)
    low = submit_unprepared(store, priority="low")
    first, second = submit_unprepared(store), submit_unprepared(store)

    assert [store.position(record(store, job_id)) for job_id in (first, second, low)] == [2, 3, 2]
    taken(store, 1)
    assert [store.position(record(store, job_id)) for job_id in (first, second)] == [2, 2]
    store.cancel(second)
    assert store.position(record(store, second)) is None


def test_its_steps_are_those_that_it_will_have(store: JobStore) -> None:
    assert record(store, submit_unprepared(store, strength=0.5, steps=10, images=2)).steps == 10


@pytest.mark.parametrize("taken_before", [False, True])
def test_its_time_to_be_started_runs_while_it_is_prepared(
    store: JobStore, client: redis.Redis, *, taken_before: bool
) -> None:
    job_id = submit_unprepared(store, conditions=Conditions(start_within=60))
    if taken_before:
        taken(store)
    end_start(client, job_id)

    store.reap()

    assert record(store, job_id).code == "start_timeout"
    assert (taken(store), store.finish_preparation(job_id, ready())) == ([], False)


def test_a_finished_one_is_forgotten_whole(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)
    store.fail_preparation(job_id, "image_load_error", "no")

    assert store.delete(job_id)

    assert not [name for name in names(client) if job_id in name]
    assert not client.exists(
        redis_keys.JOBS, redis_keys.EXPIRY, redis_keys.PREPARING, redis_keys.queue(redis_keys.UNPREPARED, "normal")
    )


def test_after_a_crash_of_its_worker_it_stands_in_its_models_line(store: JobStore, client: redis.Redis) -> None:
    job_id = submit_unprepared(store)
    taken(store)
    store.finish_preparation(job_id, ready())
    take_one(store)
    client.zadd(redis_keys.LEASES, {job_id: 0})
    store.reap()

    assert taken(store) == []
    assert take_one(store).request == ready()


def test_an_unprepared_job_is_counted_for_its_model_until_it_is_prepared(store: JobStore, client: redis.Redis) -> None:
    stats = StoreStats(client)
    first, second, other = submit_unprepared(store), submit_unprepared(store), submit_unprepared(store, model="kontext")

    def counted() -> tuple[int, int]:
        return stats.unprepared(["srpo"]), stats.unprepared()

    assert counted() == (2, 3)
    taken(store)
    assert counted() == (2, 3)
    store.finish_preparation(first, ready())
    store.cancel(second)
    assert counted() == (0, 1)
    store.fail_preparation(other, "image_load_error", "x")
    assert counted() == (0, 0)


def test_the_time_without_any_preparation_is_reported(store: JobStore, client: redis.Redis) -> None:
    stats = StoreStats(client)
    assert stats.unattended_seconds() == 0

    job_id = submit_unprepared(store)
    client.zadd(redis_keys.queue_by_age(redis_keys.UNPREPARED, "srpo"), {job_id: stats.now_us() - 90_000_000})
    submit_unprepared(store, model="kontext")
    assert 90 <= stats.unattended_seconds() < 150

    taken(store, 1)
    assert stats.unattended_seconds() == 0

    end_preparation(client, job_id)
    assert stats.unattended_seconds() >= 90


def test_while_others_wait_a_caller_has_half_of_the_places(store: JobStore) -> None:
    """Ada's hosts are slow, bob's jobs are quick: ada's fill no more slots than all other callers' together."""
    for _ in range(8):
        submit_unprepared(store, "ada")
    for _ in range(20):
        submit_unprepared(store, "bob")
    places: list[str] = []
    for _ in range(24):
        places += taken(store, 8 - len(places))
        held_by_ada = sum(record(store, job_id).caller == "ada" for job_id in places)
        assert held_by_ada <= 4
        quick = next(job_id for job_id in places if record(store, job_id).caller == "bob")
        places.remove(quick)
        store.finish_preparation(quick, ready())
        if not waits(store, "bob"):
            break

    assert not waits(store, "bob")


def waits(store: JobStore, caller: str) -> bool:
    """Return True if any of its jobs is in the queue of unprepared jobs."""
    line = cast(list[str], store._redis.zrange(redis_keys.queue(redis_keys.UNPREPARED, "normal"), 0, -1))
    return any(record(store, job_id).caller == caller for job_id in line)


def test_a_lone_caller_gets_every_preparation_slot(store: JobStore) -> None:
    wanted = [submit_unprepared(store) for _ in range(8)]

    assert taken(store, 8) == wanted


@pytest.mark.parametrize("how", ["prepared", "refuse", "cancel", "release", "lose", "late"])
def test_a_place_is_free_again(store: JobStore, client: redis.Redis, how: str) -> None:
    places = f"{redis_keys.PREFIX}preparing_count"
    job_id = submit_unprepared(store)
    taken(store)
    assert client.hgetall(places) == {"ada": "1"}
    if how == "prepared":
        store.finish_preparation(job_id, ready())
    elif how == "refuse":
        store.fail_preparation(job_id, "image_load_error", "x")
    elif how == "cancel":
        store.cancel(job_id)
    elif how == "release":
        store.release_unprepared(job_id)
    elif how == "late":
        end_start(client, job_id)
        client.zadd(redis_keys.START_DEADLINE, {job_id: 1})
        store.reap()
    else:
        end_preparation(client, job_id)
        assert taken(store) == [job_id]
        assert client.hgetall(places) == {"ada": "1"}
        store.finish_preparation(job_id, ready())

    assert client.hgetall(places) == {}
