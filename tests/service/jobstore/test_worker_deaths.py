"""Workers whose processes were seen to exit: their jobs return at once, and nothing that they still sent counts."""

from __future__ import annotations

import redis

from farm.domain.delivery import Attempt, Outcome
from farm.domain.job import State, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.stats import StoreStats
from farm.jobstore.store import JobStore
from farm.webhooks.store import DeliveryStore
from tests.service.jobstore.jobs import (
    FACTS,
    TERMS,
    held,
    ids,
    lose,
    record,
    result,
    state,
    submit,
    take,
    take_one,
)

SOURCE = "https://images.example/cat.png"


def test_a_dead_workers_job_is_claimable_at_once(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    store.renew("w1", FACTS, [])
    take_one(store)

    assert store.worker_died("w1") == 1

    job = take_one(store, "w2")
    assert (job.id, job.attempt) == (job_id, 2)
    assert [worker.id for worker in StoreStats(client).workers()] == []
    assert client.hget(redis_keys.TOTALS, "job_retries:worker_lost") == "1"


def test_only_the_jobs_of_the_dead_worker_are_taken(store: JobStore) -> None:
    """Not those of one whose id begins alike, as that of a process with the same pid does."""
    submit(store)
    mine = take_one(store, "host-7-a1b2c3")
    submit(store)
    others = take_one(store, "host-7-d4e5f6")

    assert store.worker_died("host-7-a1b2c3") == 1

    assert (state(store, mine.id), state(store, others.id)) == (State.CREATED, State.PROCESSING)
    assert store.complete(others, result(others))


def test_a_death_that_is_reported_twice_charges_once(store: JobStore) -> None:
    job_id = submit(store)
    take_one(store)
    store.worker_died("w1")
    again = take_one(store, "w2")

    assert store.worker_died("w1") == 0

    assert (state(store, job_id), record(store, job_id).attempt) == (State.PROCESSING, 2)
    assert store.complete(again, result(again))


def test_a_job_that_was_lost_to_another_worker_before_is_left_to_it(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    take_one(store)
    lose(client, store)
    second = take_one(store, "w2")

    assert store.worker_died("w1") == 0

    assert store.renew("w2", FACTS, [held(second)]) == []
    assert store.complete(second, result(second))


def test_a_batch_of_several_is_not_charged_and_renders_alone(store: JobStore) -> None:
    wanted = [submit(store), submit(store)]
    take(store)

    assert store.worker_died("w1") == 2

    alone = [take_one(store, "w2"), take_one(store, "w3")]
    assert {job.id for job in alone} == set(wanted)
    assert [(job.attempt, job.must_be_alone) for job in alone] == [(1, True), (1, True)]


def test_a_job_that_kills_its_workers_fails_after_the_attempts(store: JobStore) -> None:
    job_id = submit(store)
    for number in range(TERMS.max_attempts):
        take_one(store, f"w{number}")
        store.worker_died(f"w{number}")

    job = record(store, job_id)
    assert (job.state, job.code, job.attempt) == (State.FAILED, "attempts_exhausted", TERMS.max_attempts)


def test_a_cancelled_job_of_a_dead_worker_ends(store: JobStore) -> None:
    job_id = submit(store)
    take_one(store)
    store.cancel(job_id)

    store.worker_died("w1")

    assert record(store, job_id).code == "cancelled"


def test_a_heartbeat_that_is_read_after_the_death_keeps_nothing(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)
    store.worker_died("w1")

    assert store.renew("w1", FACTS, [held(job)]) == [job.id]

    assert state(store, job.id) is State.CREATED
    assert StoreStats(client).workers() == []
    assert StoreStats(client).idle_workers() == 0


def test_a_claim_that_is_read_after_the_death_is_given_nothing(store: JobStore) -> None:
    """Even if it was the worker's first sign of life."""
    store.worker_died("w1")
    job_id = submit(store)

    assert take(store) == ()
    assert ids(take(store, "w2")) == [job_id]


def test_images_that_a_worker_had_stored_before_its_death_count(store: JobStore) -> None:
    """As with a lease that ended: no other worker has claimed the job yet."""
    submit(store)
    job = take_one(store)
    store.worker_died("w1")

    assert store.complete(job, result(job))
    assert state(store, job.id) is State.COMPLETED


def test_the_mark_of_a_dead_worker_expires(store: JobStore, client: redis.Redis) -> None:
    store.worker_died("w1")

    assert 0 < client.ttl(redis_keys.worker("w1")) <= 60


def test_jobs_that_a_dead_process_prepared_are_prepared_again_at_once(store: JobStore) -> None:
    """One at a time, since one of them may have killed it; what another process prepares is left to it."""
    wanted = [submit(store, sources=(SOURCE,)) for _ in range(3)]
    mine = ids(store.claim_unprepared(2, 60, worker="b1"))
    others = ids(store.claim_unprepared(1, 60, worker="b2"))

    assert store.worker_died("b1") == 2

    first = ids(store.claim_unprepared(9, 60, worker="b3"))
    assert store.claim_unprepared(9, 60, worker="b3") == []
    store.worker_died("b3")
    assert len(first) == 1
    assert set(first) < set(mine)
    assert {*mine, *others} == set(wanted)
    assert len(store.claim_unprepared(9, 60, worker="b4")) == 1


def test_a_prepared_job_is_no_longer_its_preparers(store: JobStore) -> None:
    job_id = submit(store, sources=(SOURCE,))
    (job,) = store.claim_unprepared(1, 60, worker="b1")
    assert store.finish_preparation(job_id, job.request.model_copy(update={"inputs": ("cat.png",)}))

    assert store.worker_died("b1") == 0
    assert ids(take(store)) == [job_id]


def test_deliveries_of_a_dead_courier_are_due_at_once(store: JobStore, client: redis.Redis) -> None:
    deliveries = DeliveryStore(client)
    job_ids = [submit(store, webhook=Webhook(f"http://hook-{n}.example/", frozenset({State.CREATED}))) for n in (1, 2)]
    (mine,) = deliveries.claim(1, lease_seconds=60, worker="b1")
    (others,) = deliveries.claim(1, lease_seconds=60, worker="b2")

    assert store.worker_died("b1") == 1

    (again,) = deliveries.claim(9, lease_seconds=60, worker="b3")
    assert (again.id, again.fence) == (mine.id, mine.fence + 1)
    assert {mine.job, others.job} == set(job_ids)
    assert store.worker_died("b1") == 0


def test_a_delivery_that_was_finished_is_not_made_again(store: JobStore, client: redis.Redis) -> None:
    deliveries = DeliveryStore(client)
    submit(store, webhook=Webhook("http://hook.example/", frozenset({State.CREATED})))
    (due,) = deliveries.claim(1, lease_seconds=60, worker="b1")
    deliveries.finish(due, Outcome.DELIVERED, Attempt(1, 0.1, 200))

    assert store.worker_died("b1") == 0
    assert deliveries.claim(1, lease_seconds=60) == []
