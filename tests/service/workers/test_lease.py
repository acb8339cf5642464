"""The lease thread: what a worker holds is renewed, what it gave up is not, and cancelled jobs stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from farm.domain.job import Claimed, State
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.process.child import EXIT_HUNG
from tests.farms import wait_for
from tests.service.jobstore.jobs import FACTS, end_lease, lose, record, state, submit, take_one
from workers.lease import Lease


@pytest.fixture
def lease(store: JobStore) -> Iterator[Lease]:
    """Yield a thread that renews four times a second."""
    lease = Lease(store, worker="w1", facts=lambda: FACTS, seconds=0.2)
    lease.start()
    yield lease
    lease.close()


@pytest.fixture
def job(store: JobStore) -> Claimed:
    submit(store)
    return take_one(store)


def ends_at(client: redis.Redis, job: Claimed) -> float:
    return client.zscore(redis_keys.LEASES, job.id) or 0


def is_renewed(client: redis.Redis, job: Claimed, seconds: float = 20) -> bool:
    """Return True if an expired lease is renewed."""
    end_lease(client, job.id)
    try:
        return wait_for(lambda: ends_at(client, job) > 0, seconds=seconds)
    except AssertionError:
        return False


def test_a_worker_is_seen_before_it_holds_anything(lease: Lease, client: redis.Redis) -> None:
    wait_for(lambda: client.hget(redis_keys.worker("w1"), "state") == "warm")


def test_the_lease_of_a_held_job_is_renewed(lease: Lease, client: redis.Redis, job: Claimed) -> None:
    lease.add(job)

    assert is_renewed(client, job)
    assert is_renewed(client, job)


def test_the_lease_of_a_removed_job_is_not_renewed(lease: Lease, client: redis.Redis, job: Claimed) -> None:
    lease.add(job)
    assert is_renewed(client, job)

    lease.remove(job)

    wait_for(lambda: client.hget(redis_keys.worker("w1"), "jobs") == "0")
    assert not is_renewed(client, job, seconds=0.5)


def test_progress_is_shown(lease: Lease, store: JobStore, job: Claimed) -> None:
    lease.add(job)
    lease.progress(job, 3)

    wait_for(lambda: record(store, job.id).step == 3)


def test_a_cancelled_job_must_stop(lease: Lease, store: JobStore, job: Claimed) -> None:
    """If the notification is lost, the next renewal says so."""
    lease.add(job)
    assert not lease.must_stop(job)

    store.cancel(job.id)

    wait_for(lambda: lease.must_stop(job))


def test_a_job_claimed_by_another_worker_must_stop(
    lease: Lease, store: JobStore, client: redis.Redis, job: Claimed
) -> None:
    end_lease(client)
    store.reap()
    take_one(store, "w2")

    lease.add(job)

    wait_for(lambda: lease.must_stop(job))
    assert state(store, job.id) is State.PROCESSING


def test_a_stop_for_a_job_of_another_worker_is_ignored(lease: Lease, job: Claimed) -> None:
    lease.stop_rendering(job.id)
    lease.add(job)

    assert not lease.must_stop(job)


def test_a_job_that_comes_back_is_not_stopped_again(lease: Lease, job: Claimed) -> None:
    lease.add(job)
    lease.stop_rendering(job.id)
    lease.remove(job)
    lease.add(job)

    assert not lease.must_stop(job)


@pytest.mark.parametrize("whose", ["the render thread", "another"])
def test_a_hung_stage_ends_the_process(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], whose: str
) -> None:
    """The log has the stacks of the threads, the first hundred of them."""
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    watchdog = lease.watchdog if whose == "the render thread" else lease.new_watchdog()

    with watchdog.guard(0.1, "loading"):
        wait_for(lambda: left)

    assert set(left) == {EXIT_HUNG}
    assert "(most recent call first)" in capfd.readouterr().err


def test_the_watchdog_does_not_act_while_stages_progress(
    lease: Lease, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    asked = evaluations(client)

    with lease.watchdog.guard(100, "loading"):
        wait_for(lambda: evaluations(client) > asked + 2, what="looks at the watchdog")

    assert left == []


def test_renewing_goes_on_whatever_happens(store: JobStore, client: redis.Redis, job: Claimed) -> None:
    """The worker's own facts may raise; its jobs are held all the same."""
    faults = iter([ZeroDivisionError(), ValueError()])

    def facts() -> dict[str, str]:
        if fault := next(faults, None):
            raise fault
        return FACTS

    lease = Lease(store, worker="w1", facts=facts, seconds=0.2)
    lease.start()
    try:
        lease.add(job)
        wait_for(lambda: client.hget(redis_keys.worker("w1"), "state") == "warm")
        assert is_renewed(client, job)
    finally:
        lease.close()


@pytest.mark.parametrize(
    ("name", "bad", "good"), [("maxmemory", "1", "1gb"), ("min-replicas-to-write", "1", "0")], ids=["full", "read-only"]
)
def test_renewing_goes_on_when_the_store_is_well_again(
    lease: Lease, client: redis.Redis, job: Claimed, name: str, bad: str, good: str
) -> None:
    lease.add(job)
    asked = evaluations(client)
    client.config_set(name, bad)
    try:
        wait_for(lambda: evaluations(client) > asked + 1, what="renewals")
    finally:
        client.config_set(name, good)

    assert is_renewed(client, job)


def evaluations(client: redis.Redis) -> int:
    """Return how often a script has been called, calls that Redis rejected included."""
    found: dict[str, dict[str, int]] = client.info("commandstats")
    return sum(found.get("cmdstat_evalsha", {}).get(name, 0) for name in ("calls", "rejected_calls"))


def test_closing_ends_the_thread(lease: Lease) -> None:
    lease.close()

    assert not lease.is_alive()


def test_news_of_a_claim_that_is_over_does_not_stop_the_next_one(
    store: JobStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job was reclaimed from this worker, and claimed by it again meanwhile: it is not cancelled."""
    lease = Lease(store, worker="w1", facts=lambda: FACTS, seconds=60)
    submit(store)
    first = take_one(store)
    lease.add(first)
    renew, claimed = store.renew, []

    def lose_and_claim_again_meanwhile(*given: Any) -> list[str]:
        lose(client, store, first.id)
        claimed.append(take_one(store))
        lease.add(claimed[0])
        return renew(*given)

    monkeypatch.setattr(store, "renew", lose_and_claim_again_meanwhile)
    lease._renew()

    assert not lease.must_stop(claimed[0])
