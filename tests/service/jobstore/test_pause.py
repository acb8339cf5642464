"""Pauses of a group of jobs: of a model, a priority or a caller."""

from __future__ import annotations

import pytest
import redis

from farm.doctor import work
from farm.domain.job import State
from farm.domain.pause import Group
from farm.jobstore import redis_keys
from farm.jobstore.reading import Reading
from farm.jobstore.stats import StoreStats
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import (
    FACTS,
    end_delays,
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

ADA = Group("caller", "ada")
GROUPS = (Group("model", "srpo"), Group("priority", "normal"), ADA)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_a_paused_group_waits_and_others_go_on(store: JobStore, client: redis.Redis, group: Group) -> None:
    before = submit(store, "ada")
    store.pause(group)
    after = submit(store, "ada")
    other = submit(store, "bob", priority="low", model="kontext")

    assert ids(store.claim("w1", ["srpo", "kontext"]).batch.jobs) == [other]
    assert {state(store, job_id) for job_id in (before, after)} == {State.CREATED}
    assert store.resume(group) is True
    store.reap()
    assert set(ids(take(store))) == {before, after}
    assert not names(client) & {redis_keys.PAUSED_GROUPS, redis_keys.paused_jobs("ada")}


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_no_worker_is_woken_for_a_paused_group(store: JobStore, client: redis.Redis, group: Group) -> None:
    take(store)
    store.pause(group)

    assert store.submit(new_job()).idle_workers == 0
    stats = StoreStats(client)
    assert (stats.startable(), stats.waiting()) == (0, 1)
    store.resume(group)
    store.reap()
    assert stats.startable() == 1


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_a_paused_group_is_shown(store: JobStore, client: redis.Redis, group: Group) -> None:
    store.renew("w1", FACTS, [])
    submit(store)
    assert Reading.of(client).paused_jobs("srpo", "normal") == 0
    store.pause(group)

    reading = Reading.of(client)
    (paused,) = reading.paused_groups
    findings = list(work.queue(StoreStats(client), lease_seconds=60))

    assert (paused.group, reading.paused_jobs("srpo", "normal")) == (group, 1)
    assert paused.since_us == pytest.approx(reading.now_us, abs=5e6)
    assert [finding.remedy for finding in findings if finding.remedy] == [f"farm resume --{group.kind} {group.name}"]


def test_returned_and_prepared_jobs_of_a_paused_caller_wait(store: JobStore, client: redis.Redis) -> None:
    lost, failed = submit(store), submit(store, width=512)
    source = submit(store, sources=("https://images.example/cat.png",))
    failing = {job.id: job for job in (*take(store), *take(store))}[failed]
    store.pause(ADA)

    lose(client, store, lost)
    store.fail(failing, "storage_failed", "x", retry="again")
    end_delays(client)
    store.reap()
    (job,) = store.claim_unprepared(1, 60)
    store.finish_preparation(source, job.request.model_copy(update={"inputs": ("cat.png",)}))

    assert take(store) == ()
    store.resume(ADA)
    store.reap()
    assert {job_id for _ in range(3) for job_id in ids(take(store))} == {lost, failed, source}


def test_a_paused_caller_has_no_place_before_others(store: JobStore) -> None:
    paused = submit(store, "ada")
    store.pause(ADA)
    others = [submit(store, "bob") for _ in range(2)]

    assert [store.position(record(store, job_id)) for job_id in (paused, *others)] == [2, 0, 1]


def test_after_a_pause_a_caller_is_neither_first_nor_last(store: JobStore) -> None:
    """It does not catch up on what it missed, nor is it charged for jobs that were not rendered."""
    mine = [submit(store, "ada") for _ in range(20)]
    store.pause(ADA)
    for _ in range(12):
        submit(store, "bob")
        store.complete(job := take_one(store), result(job))
    theirs = [submit(store, "bob") for _ in range(20)]

    store.resume(ADA)
    store.reap()
    started = [job_id for _ in range(5) for job_id in ids(take(store))]

    assert 7 <= len({*started} & {*mine}) <= 13
    assert {*started} <= {*mine, *theirs}


def test_a_job_may_be_cancelled_while_its_caller_is_paused(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    store.pause(ADA)

    assert store.cancel(job_id) == "cancelled"
    assert redis_keys.paused_jobs("ada") not in names(client)


def test_a_paused_job_ended_by_an_older_version_does_not_return(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    store.pause(ADA)
    client.hset(redis_keys.job(job_id), "state", State.FAILED)

    store.resume(ADA)
    store.reap()

    assert take(store) == ()
    assert not client.exists(redis_keys.queue("srpo", "normal"), redis_keys.paused_jobs("ada"))


def test_a_claim_sets_aside_jobs_that_a_pause_has_missed(store: JobStore, client: redis.Redis) -> None:
    """As if its process had died before it looked at the queues."""
    paused = [submit(store, "ada") for _ in range(3)]
    client.hset(redis_keys.PAUSED_GROUPS, "caller:ada", 1)
    other = submit(store, "bob")

    assert [ids(take(store)), ids(take(store))] == [[other], []]
    assert set(client.zrange(redis_keys.paused_jobs("ada"), 0, -1)) == {*paused}


def test_a_caller_that_is_paused_again_at_once_stays_paused(store: JobStore) -> None:
    submit(store)
    store.pause(ADA)
    store.resume(ADA)
    store.pause(ADA)
    store.reap()

    assert take(store) == ()


def test_a_claim_costs_the_same_however_many_jobs_of_a_paused_caller_wait(store: JobStore, client: redis.Redis) -> None:
    def commands() -> int:
        """Return how many commands Redis runs for a claim."""
        submit(store, "bob")
        client.config_resetstat()
        job = take_one(store)
        calls = sum(stats["calls"] for stats in client.info("commandstats").values())
        store.complete(job, result(job))
        return int(calls)

    def with_paused(count: int) -> int:
        for _ in range(count):
            submit(store, "ada")
        store.pause(ADA)
        return commands()

    commands()  # loads the scripts
    few = with_paused(20)

    assert with_paused(400) == few
    assert client.zcard(redis_keys.queue("srpo", "normal")) == 0
