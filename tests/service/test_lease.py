"""The lease thread: what a worker holds is renewed, what it gave up is not, and the news it brings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from farm import clock
from farm.job import Claimed, State
from farm.jobstore import keys
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobs import FACTS, end_lease, record, state, submit, take_one
from workers.lease import Lease


@pytest.fixture
def lease(store: JobStore) -> Iterator[Lease]:
    """A thread that renews four times a second."""
    lease = Lease(store, worker="w1", facts=lambda: FACTS, seconds=0.2)
    lease.start()
    yield lease
    lease.close()


@pytest.fixture
def job(store: JobStore) -> Claimed:
    submit(store)
    return take_one(store)


def ends_at(client: redis.Redis, job: Claimed) -> float:
    return client.zscore(keys.LEASES, job.id) or 0


def is_renewed(client: redis.Redis, job: Claimed) -> bool:
    """Whether the lease is renewed after it was made to run out."""
    end_lease(client, job.id)
    try:
        return wait_for(lambda: ends_at(client, job) > 0, seconds=0.5)
    except AssertionError:
        return False


def test_a_worker_is_seen_before_it_holds_anything(lease: Lease, client: redis.Redis) -> None:
    wait_for(lambda: client.hget(keys.worker("w1"), "state") == "warm")


def test_what_is_held_is_renewed(lease: Lease, client: redis.Redis, job: Claimed) -> None:
    lease.hold(job)

    assert is_renewed(client, job)
    assert is_renewed(client, job)


def test_what_was_dropped_is_not_renewed(lease: Lease, client: redis.Redis, job: Claimed) -> None:
    lease.hold(job)
    assert is_renewed(client, job)

    lease.drop(job)

    wait_for(lambda: client.hget(keys.worker("w1"), "jobs") == "0")
    assert not is_renewed(client, job)


def test_progress_is_shown(lease: Lease, store: JobStore, job: Claimed) -> None:
    lease.hold(job)
    lease.progress(job, 3)

    wait_for(lambda: record(store, job.id).step == 3)


def test_a_cancelled_job_must_stop(lease: Lease, store: JobStore, job: Claimed) -> None:
    """Also when nobody heard the shout: the next renewal brings it."""
    lease.hold(job)
    assert not lease.must_stop(job)

    store.cancel(job.id)

    wait_for(lambda: lease.must_stop(job))


def test_a_job_that_is_anothers_by_now_must_stop(
    lease: Lease, store: JobStore, client: redis.Redis, job: Claimed
) -> None:
    end_lease(client)
    store.reap()
    take_one(store, "w2")

    lease.hold(job)

    wait_for(lambda: lease.must_stop(job))
    assert state(store, job.id) is State.PROCESSING


def test_a_shout_about_anothers_job_means_nothing(lease: Lease, job: Claimed) -> None:
    lease.stop_rendering(job.id)
    lease.hold(job)

    assert not lease.must_stop(job)


def test_a_job_that_comes_back_is_not_stopped_again(lease: Lease, job: Claimed) -> None:
    lease.hold(job)
    lease.stop_rendering(job.id)
    lease.drop(job)
    lease.hold(job)

    assert not lease.must_stop(job)


def test_a_job_that_is_published_for_too_long_is_let_go(
    lease: Lease, client: redis.Redis, job: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.hold(job)
    lease.publishing(job)
    assert is_renewed(client, job)
    now = clock.monotonic()

    monkeypatch.setattr(clock, "monotonic", lambda: now + 601)

    wait_for(lambda: not is_renewed(client, job))


def test_a_job_that_comes_back_starts_a_new_count(
    lease: Lease, client: redis.Redis, job: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its pictures could not be stored, the job was given up, and its last picture was painted only then."""
    lease.hold(job)
    lease.drop(job)
    lease.publishing(job)
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 601)

    lease.hold(job)

    assert is_renewed(client, job)


@pytest.mark.parametrize(
    ("name", "bad", "good"), [("maxmemory", "1", "1gb"), ("min-replicas-to-write", "1", "0")], ids=["full", "read-only"]
)
def test_renewing_goes_on_when_the_store_is_well_again(
    lease: Lease, client: redis.Redis, job: Claimed, name: str, bad: str, good: str
) -> None:
    lease.hold(job)
    asked = evaluations(client)
    client.config_set(name, bad)
    try:
        wait_for(lambda: evaluations(client) > asked + 1, what="renewals that are refused")
    finally:
        client.config_set(name, good)

    assert is_renewed(client, job)


def evaluations(client: redis.Redis) -> int:
    """How often a script has been called."""
    found: dict[str, dict[str, int]] = client.info("commandstats")
    return found["cmdstat_evalsha"]["calls"]


def test_closing_ends_the_thread(lease: Lease) -> None:
    lease.close()

    assert not lease.is_alive()
