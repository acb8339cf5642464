"""Accepting jobs: recorded as submitted, once, and within the limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from farm import clock
from farm.domain.catalogue import SEEDS
from farm.domain.delivery import Attempt, Outcome
from farm.domain.errors import (
    IdempotencyConflict,
    MemoryShareUsedUp,
    QueueFull,
    StoreDiskFull,
    StoreFull,
    StoreUnavailable,
)
from farm.domain.job import Conditions, State, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect
from farm.jobstore.memory_guard import FULL_AT, MAX_KEPT_SHARE
from farm.jobstore.store import JobStore
from farm.webhooks.store import DeliveryStore
from tests.service.jobstore.jobs import (
    TERMS,
    end_delays,
    events,
    lose,
    names,
    new_job,
    record,
    result,
    submit,
    take,
    take_one,
    waiting_count,
)


def finish_one(store: JobStore) -> None:
    job = take_one(store)
    assert store.complete(job, result(job))


def full_disk(_change: str) -> None:
    raise StoreDiskFull


@pytest.mark.parametrize("cause", ["memory", "disk"])
def test_a_repeat_is_answered_where_nothing_new_is_accepted(client: redis.Redis, store: JobStore, cause: str) -> None:
    first = store.submit(new_job(key="k", digest="d"))
    full = JobStore(client, TERMS, full_disk) if cause == "disk" else store
    client.config_set("maxmemory", 1 if cause == "memory" else 0)
    try:
        again = full.submit(new_job(key="k", digest="d"))
        with pytest.raises(IdempotencyConflict):
            full.submit(new_job(key="k", digest="another"))
        for new in (new_job(key="another", digest="d"), new_job()):
            with pytest.raises((StoreFull, StoreDiskFull)):
                full.submit(new)
    finally:
        client.config_set("maxmemory", 0)

    assert (again.id, again.repeated) == (first.id, True)


def test_a_job_comes_back_as_it_was_submitted(store: JobStore) -> None:
    new = new_job("ada", priority="low", prompt='ünï "x" \\ \x00 🦊', seed=SEEDS - 1, images=3, output_format="png")
    store.submit(new)

    job = record(store, new.id)

    assert job.request == new.order.request
    assert (job.id, job.caller, job.endpoint, job.priority) == (new.id, "ada", "flux/srpo", "low")
    assert (job.state, job.attempt, job.fence, job.step, job.sequence) == (State.CREATED, 0, 0, 0, 1)
    assert (job.code, job.error, job.result, job.cancelling) == ("", "", None, False)
    assert (job.started_us, job.finished_us) == (0, 0)
    assert abs(clock.now_us() - job.created_us) < 5_000_000


def test_an_unknown_id_is_no_job(store: JobStore) -> None:
    assert store.get("0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11") is None


def test_the_same_submit_again_is_the_same_job(store: JobStore, client: redis.Redis) -> None:
    """Its answer was lost, and the client library sent it again."""
    new = new_job()
    first, second = store.submit(new), store.submit(new)

    assert (first.id, second.id, second.repeated) == (new.id, new.id, False)
    assert len(take(store)) == 1
    assert events(client, new.id)[0:1] == [(1, "created")]
    assert waiting_count(client) == {}


def test_the_same_submit_again_changes_nothing_later_either(store: JobStore) -> None:
    new = new_job()
    store.submit(new)
    finish_one(store)
    before = record(store, new.id)

    store.submit(new)

    assert record(store, new.id) == before


def test_equal_requests_without_a_key_are_two_jobs(store: JobStore) -> None:
    assert submit(store) != submit(store)
    assert len(take(store)) == 2


def test_the_same_key_and_body_is_the_same_job(store: JobStore) -> None:
    first = store.submit(new_job(key="k", digest="d"))
    again = store.submit(new_job(key="k", digest="d"))

    assert (again.id, first.repeated, again.repeated) == (first.id, False, True)
    assert len(take(store)) == 1


def test_the_same_key_with_another_body_is_refused(store: JobStore, client: redis.Redis) -> None:
    store.submit(new_job(key="k", digest="d"))

    with pytest.raises(IdempotencyConflict):
        store.submit(new_job(key="k", digest="e"))

    assert len(take(store)) == 1
    assert client.zcard(redis_keys.JOBS) == 1


def test_a_key_belongs_to_its_caller(store: JobStore) -> None:
    first = store.submit(new_job("ada", key="k", digest="d"))
    other = store.submit(new_job("bob", key="k", digest="e"))

    assert other.id != first.id
    assert not other.repeated


def test_a_key_outlives_its_job_by_a_day(store: JobStore, client: redis.Redis) -> None:
    """Before the end it is kept for as long as the job waits."""
    job_id = submit(store, key="k", digest="d")
    name = f"{redis_keys.PREFIX}idempotency:ada:k"
    assert client.ttl(name) == -1

    finish_one(store)

    assert 86_390 < client.ttl(name) <= 86_400
    assert store.submit(new_job(key="k", digest="d")).id == job_id


@pytest.mark.parametrize("first", [{"inline": True}, {"conditions": Conditions(keep_seconds=60)}])
def test_a_key_outlives_a_job_that_is_kept_for_less_than_a_day(store: JobStore, first: dict[str, Any]) -> None:
    new = new_job(key="k", digest="d")
    new = replace(new, order=replace(new.order, **first))
    job_id = store.submit(new).id
    store.complete(job := take_one(store), result(job))

    assert store.forget(job_id)

    again = store.submit(new_job(key="k", digest="d"))
    assert (again.id, again.repeated) == (job_id, True)


def test_a_caller_may_have_so_many_jobs_waiting(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, queue_limit=2))
    submit(store, "ada")
    submit(store, "ada")

    with pytest.raises(QueueFull, match="2"):
        submit(store, "ada")

    submit(store, "bob")
    assert client.zcard(redis_keys.JOBS) == 3
    assert waiting_count(client) == {"ada": "2", "bob": "1"}


def test_a_full_queue_still_answers_a_repeated_submit(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, queue_limit=1))
    first = store.submit(new_job(key="k", digest="d"))

    assert store.submit(new_job(key="k", digest="d")).id == first.id


def test_a_returned_job_is_not_dropped_over_the_queue_limit(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, queue_limit=1))
    taken, other = submit(store), None
    job = take_one(store)
    other = submit(store)

    store.fail(job, "render_failed", "x", retry="again")

    assert waiting_count(client) == {"ada": "2"}
    end_delays(client)
    store.reap()
    assert {taken, other} == {job.id for job in (*take(store), *take(store))}


def test_the_list_of_jobs_is_by_caller_and_newest_first(store: JobStore) -> None:
    first, second, other = submit(store, "ada"), submit(store, "ada"), submit(store, "bob")

    assert [job.id for job in store.page("ada", before_us=None, count=9)] == [second, first]
    assert [job.id for job in store.page(None, before_us=None, count=9)] == [other, second, first]


def test_the_list_goes_on_where_a_page_ended(store: JobStore) -> None:
    wanted = [submit(store) for _ in range(7)][::-1]
    seen, before = [], None
    while page := store.page("ada", before_us=before, count=3):
        seen += [job.id for job in page]
        before = page[-1].created_us

    assert seen == wanted


def test_the_position_counts_the_jobs_before(store: JobStore) -> None:
    first, second = submit(store, images=4), submit(store)
    low, bulk = submit(store, priority="low"), submit(store, priority="bulk")

    assert [store.position(record(store, job_id)) for job_id in (first, second, low, bulk)] == [0, 1, 2, 3]
    take(store)
    assert [store.position(record(store, job_id)) for job_id in (first, second, low, bulk)] == [None, 0, 1, 2]


@pytest.fixture
def memory(client: redis.Redis) -> Iterator[redis.Redis]:
    """Yield a Redis whose memory limit a test may change."""
    before = str(client.config_get("maxmemory")["maxmemory"])
    yield client
    client.config_set("maxmemory", before)


def limit_memory(client: redis.Redis, share: float) -> None:
    """Set the memory limit so that the current use is this share of it; connection buffers make no difference."""
    client.setrange("ballast", 20_000_000, "x")  # a value that is sent takes as much in buffers, for a while
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] / share))


def test_nothing_new_is_accepted_above_80_percent_of_memory(memory: redis.Redis) -> None:
    limit_memory(memory, 0.85)

    with pytest.raises(StoreFull):
        submit(JobStore(memory, TERMS))

    assert names(memory) == {"ballast"}


def test_below_80_percent_of_memory_jobs_are_accepted(memory: redis.Redis) -> None:
    limit_memory(memory, 0.7)

    assert submit(JobStore(memory, TERMS))


def test_one_caller_has_half_of_the_memory_for_waiting_jobs(memory: redis.Redis, store: JobStore) -> None:
    limit_memory(memory, 0.5)
    half = int(memory.info("memory")["maxmemory"] * FULL_AT / 2)
    first = store.submit(new_job("ada"), memory_is_shared=True).id
    own = int(memory.hget("srpo:waiting_bytes", "ada") or 0)
    memory.hset("srpo:waiting_bytes", "ada", half - own - 1)

    store.submit(new_job("ada"), memory_is_shared=True)
    with pytest.raises(MemoryShareUsedUp):
        store.submit(new_job("ada"), memory_is_shared=True)

    assert store.submit(new_job("bob"), memory_is_shared=True).id
    store.cancel(first)
    assert store.submit(new_job("ada"), memory_is_shared=True).id
    assert store.submit(new_job("ada")).id  # the farm's only caller


@pytest.mark.parametrize("prompt", ["a", "a" * 4000, "\N{FOX FACE}" * 4000])
def test_the_bytes_of_a_job_are_about_what_it_takes(memory: redis.Redis, store: JobStore, prompt: str) -> None:
    store.submit(new_job("warm up"))
    before, count = int(memory.info("memory")["used_memory"]), 300
    for _ in range(count):
        store.submit(new_job("ada", prompt=prompt))

    taken = int(memory.info("memory")["used_memory"]) - before
    counted = int(memory.hget("srpo:waiting_bytes", "ada") or 0)
    assert 0.6 < counted / taken < 1.6


def test_one_caller_keeps_three_quarters_of_the_memory_finished_jobs_included(
    memory: redis.Redis, store: JobStore
) -> None:
    limit_memory(memory, 0.5)
    share = int(memory.info("memory")["maxmemory"] * FULL_AT * MAX_KEPT_SHARE)
    finished = store.submit(new_job("ada"), memory_is_shared=True).id
    store.cancel(finished)
    memory.hincrby("srpo:kept_bytes", "ada", share - 2 * int(memory.hget("srpo:kept_bytes", "ada") or 0))

    store.submit(new_job("ada"), memory_is_shared=True)
    with pytest.raises(MemoryShareUsedUp, match="finished"):
        store.submit(new_job("ada"), memory_is_shared=True)

    assert store.submit(new_job("bob"), memory_is_shared=True).id
    assert store.delete(finished)
    assert store.submit(new_job("ada"), memory_is_shared=True).id
    assert store.submit(new_job("ada")).id  # the farm's only caller


def test_a_finished_job_counts_with_its_deliveries_until_it_is_deleted(memory: redis.Redis, store: JobStore) -> None:
    deliveries, answer = DeliveryStore(memory), Attempt(1, 0.5, 500, answer="\N{FOX FACE}" * 512)
    webhook = Webhook("https://hook.example/")
    store.submit(new_job("warm up"))
    before, count = int(memory.info("memory")["used_memory"]), 100
    ids = [store.submit(new_job("ada", webhook=webhook)).id for _ in range(count)]
    for job_id in ids:
        store.cancel(job_id)
    while claimed := deliveries.claim(1, lease_seconds=60):
        is_last = claimed[0].attempts_made == 3
        deliveries.finish(claimed[0], Outcome.FAILED if is_last else Outcome.WAITING, answer)

    taken = int(memory.info("memory")["used_memory"]) - before
    counted = int(memory.hget("srpo:kept_bytes", "ada") or 0)
    assert 0.6 < counted / taken < 1.6
    assert all(store.delete(job_id) for job_id in ids)
    assert not memory.hget("srpo:kept_bytes", "ada")


def test_an_accepted_job_still_completes_above_80_percent(memory: redis.Redis, store: JobStore) -> None:
    submit(store)
    limit_memory(memory, 0.9)

    job = take_one(store)

    assert store.complete(job, result(job))


def test_memory_that_is_really_full_records_nothing(memory: redis.Redis, store: JobStore) -> None:
    """The reading of the memory is up to a second old: the server itself refuses then."""
    submit(store)
    memory.config_set("maxmemory", 1)

    with pytest.raises(StoreFull):
        submit(store)

    memory.config_set("maxmemory", 0)
    assert memory.zcard(redis_keys.JOBS) == 1
    assert waiting_count(memory) == {"ada": "1"}


def test_memory_that_is_really_full_can_be_emptied_again(memory: redis.Redis, store: JobStore) -> None:
    over, deliveries = submit(store), DeliveryStore(memory)
    store.cancel(over)
    submit(store, webhook=Webhook("https://hook.example/"))
    (job,) = take(store)
    store.fail(job, "render_failed", "no")
    (due,) = deliveries.claim(1, lease_seconds=60)
    memory.zadd(redis_keys.EXPIRY, {over: 0})
    memory.config_set("maxmemory", 1)

    with pytest.raises(StoreFull):
        deliveries.redeliver(due.id)
    deliveries.finish(due, Outcome.DELIVERED, Attempt(1, 0.1, 200))
    assert store.claim_expired() == [over]
    assert store.forget(over)

    memory.config_set("maxmemory", 0)
    delivery = deliveries.get(due.id)
    assert delivery is not None
    assert (store.get(over), delivery.state) == (None, Outcome.DELIVERED)


@pytest.mark.parametrize("mark", ["not a socket", "nobody"])
def test_an_absent_store_raises_store_unavailable(mark: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "socket"
    if mark == "not a socket":
        path.write_text("")
    store = JobStore(connect(f"unix://{path}"), TERMS)

    with pytest.raises(StoreUnavailable):
        submit(store)
    with pytest.raises(StoreUnavailable):
        store.get("x")


def test_a_server_that_refuses_writes_is_unavailable(client: redis.Redis, store: JobStore) -> None:
    """Redis does so if it has lost its replicas, or cannot write its append-only file."""
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(StoreUnavailable):
            submit(store)
    finally:
        client.config_set("min-replicas-to-write", 0)


def test_the_store_survives_that_redis_forgets_the_scripts(client: redis.Redis, store: JobStore) -> None:
    submit(store)
    client.script_flush()

    submit(store)

    assert len(take(store)) == 2
    assert lose(client, store) == 2
