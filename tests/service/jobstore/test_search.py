"""Job search: matching jobs only, newest first, counted exactly, however many there are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from farm.domain.job import Search, State
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import TERMS, new_job, record, result, submit, take_one

FLUX, OTHER = "flux/srpo", "wavespeed-ai/flux-srpo"


def submit_to(store: JobStore, endpoint: str, caller: str = "ada") -> str:
    new = new_job(caller)
    return store.submit(replace(new, order=replace(new.order, endpoint=endpoint))).id


def found(store: JobStore, wanted: Search, *, skip: int = 0, count: int = 100) -> tuple[list[str], int]:
    """Return the ids of a page of ada's jobs, and the total."""
    jobs, total = store.search("ada", wanted, skip=skip, count=count)
    return [job.id for job in jobs], total


def test_thousands_of_jobs_are_counted_exactly(client: redis.Redis) -> None:
    """More than are read at a time."""
    store = JobStore(client, replace(TERMS, queue_limit=10_000))
    ids = [submit_to(store, FLUX if number % 3 else OTHER) for number in range(2100)]
    submit_to(store, OTHER, caller="bob")
    for job_id in ids[5::7]:
        store.cancel(job_id)
    everything = ids[::-1]
    others, cancelled = ids[::3][::-1], ids[5::7][::-1]
    both = [job_id for job_id in others if job_id in cancelled]
    waiting = [job_id for job_id in everything if job_id not in cancelled]

    assert found(store, Search()) == (everything[:100], 2100)
    assert found(store, Search(), skip=1990, count=20) == (everything[1990:2010], 2100)
    assert found(store, Search(), skip=2095) == (everything[2095:], 2100)
    assert found(store, Search(), skip=2100) == ([], 2100)
    assert found(store, Search(endpoint=OTHER), skip=650) == (others[650:], 700)
    assert found(store, Search(state=State.FAILED)) == (cancelled[:100], 300)
    assert found(store, Search(state=State.CREATED), skip=1790) == (waiting[1790:], 1800)
    assert found(store, Search(state=State.FAILED, endpoint=OTHER)) == (both, 100)


def test_each_state_is_found(store: JobStore) -> None:
    done = submit(store)
    job = take_one(store)
    store.complete(job, result(job))
    running = submit(store)
    take_one(store)
    cancelled, waiting = submit(store), submit(store)
    store.cancel(cancelled)

    assert found(store, Search(state=State.COMPLETED)) == ([done], 1)
    assert found(store, Search(state=State.PROCESSING)) == ([running], 1)
    assert found(store, Search(state=State.FAILED)) == ([cancelled], 1)
    assert found(store, Search(state=State.CREATED)) == ([waiting], 1)
    assert found(store, Search(state=State.FAILED, endpoint=OTHER)) == ([], 0)


@pytest.mark.parametrize("endpoint", [None, FLUX])
def test_the_times_at_both_ends_are_included(store: JobStore, endpoint: str | None) -> None:
    ids = [submit(store) for _ in range(5)]
    times = [record(store, job_id).created_us for job_id in ids]

    def between(after: int | None, before: int | None) -> tuple[list[str], int]:
        return found(store, Search(after, before, endpoint=endpoint))

    assert between(times[1], times[3]) == (ids[3:0:-1], 3)
    assert between(times[1] + 1, times[3] - 1) == ([ids[2]], 1)
    assert between(times[3], None) == ([ids[4], ids[3]], 2)
    assert between(None, times[0]) == ([ids[0]], 1)
    assert between(times[3], times[1]) == ([], 0)


def test_a_deleted_job_is_not_found(store: JobStore) -> None:
    gone, left = submit(store), submit(store)
    store.cancel(gone)
    assert store.delete(gone)

    assert found(store, Search()) == found(store, Search(state=State.CREATED)) == ([left], 1)


def test_a_job_that_goes_while_it_is_looked_for_is_left_out(store: JobStore, client: redis.Redis) -> None:
    """Its id was read, its record is gone."""
    gone, left = submit(store), submit(store)
    client.delete(redis_keys.job(gone))

    assert found(store, Search())[0] == [left]
    assert found(store, Search(state=State.CREATED)) == ([left], 1)
