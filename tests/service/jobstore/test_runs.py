"""The runs of a job on workers, as its record keeps them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from farm.domain.job import Claimed, Run
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import FACTS, held, lose, result, submit, take_one


def shown(runs: list[Run]) -> list[tuple[str, str, int, str]]:
    """Return what ended how; of one that goes on, no reason."""
    assert all(bool(run.reason) == (run.ended_us > 0) for run in runs)
    assert all(run.started_us <= run.ended_us for run in runs if run.ended_us)
    return [(run.worker, run.host, run.step, run.reason) for run in runs]


def started(store: JobStore, worker: str = "w1") -> Claimed:
    """Have a worker of the machine `rack-1` start the next job, and make three steps."""
    facts = FACTS | {"host": "rack-1"}
    store.renew(worker, facts, [])
    job = take_one(store, worker)
    store.renew(worker, facts, [held(job, 3)])
    return job


def test_each_run_is_kept_with_its_worker_and_its_end(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    assert store.runs(job_id) == []
    store.release(started(store))
    started(store, "w2")
    assert shown(store.runs(job_id)) == [("w1", "rack-1", 3, "drained"), ("w2", "rack-1", 3, "")]
    lose(client, store)
    last = started(store)

    store.complete(last, result(last))

    lost, completed = ("w2", "rack-1", 3, "worker_lost"), ("w1", "rack-1", 3, "completed")
    assert shown(store.runs(job_id)) == [("w1", "rack-1", 3, "drained"), lost, completed]


@pytest.mark.parametrize("end", ["complete", "renew"])
def test_a_run_that_seemed_lost_is_one_run(store: JobStore, client: redis.Redis, end: str) -> None:
    job_id = submit(store)
    job = started(store)
    lose(client, store)
    assert shown(store.runs(job_id)) == [("w1", "rack-1", 3, "worker_lost")]

    if end == "renew":
        store.renew("w1", FACTS, [held(job, 5)])
        assert shown(store.runs(job_id)) == [("w1", "rack-1", 5, "")]
    store.complete(job, result(job))

    (run,) = store.runs(job_id)
    assert (run.worker, run.reason) == ("w1", "completed")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda store, job: store.fail(job, "render_failed", "x"), "render_failed"),
        (lambda store, job: store.fail(job, "storage_failed", "x", retry="again"), "storage_failed"),
        (lambda store, job: (store.cancel(job.id), store.complete(job, result(job))), "cancelled"),
    ],
    ids=["fails", "is tried again", "is cancelled"],
)
def test_a_run_says_why_it_ended(store: JobStore, end: Callable[[JobStore, Claimed], object], reason: str) -> None:
    job_id = submit(store)
    end(store, started(store))

    assert shown(store.runs(job_id)) == [("w1", "rack-1", 3, reason)]


def test_the_last_ten_runs_are_kept(store: JobStore) -> None:
    job_id = submit(store)
    for number in range(12):
        store.release(started(store, f"w{number}"))

    assert [run.worker for run in store.runs(job_id)] == [f"w{number}" for number in range(2, 12)]


def test_a_job_that_never_started_has_none(store: JobStore) -> None:
    job_id = submit(store)
    store.cancel(job_id)

    assert store.runs(job_id) == []
