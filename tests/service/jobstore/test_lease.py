"""Leases and fences: how long a worker may hold a job, and what it may write afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import pytest
import redis

from farm.domain.job import State
from farm.jobstore import redis_keys
from farm.jobstore.stats import StoreStats
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import (
    FACTS,
    TERMS,
    end_lease,
    held,
    lose,
    now,
    record,
    result,
    state,
    submit,
    take,
    take_one,
    waiting_count,
)


def lease_end(client: redis.Redis, job_id: str) -> float:
    """Return the seconds until the lease of this job expires, by Redis's clock."""
    end = client.zscore(redis_keys.LEASES, job_id)
    assert end is not None
    return end / 1e6 - now(client)


def test_renewing_extends_the_lease_and_shows_progress(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)
    end_lease(client)

    assert store.renew("w1", FACTS, [held(job, step=3)]) == []

    assert 0.5 < lease_end(client, job.id) <= 1
    assert record(store, job.id).step == 3
    assert store.reap() == 0


def test_right_after_a_start_of_redis_nothing_is_taken_back(store: JobStore, client: redis.Redis) -> None:
    """For one lease after the start every lease seems to have expired, though the workers live."""
    job_id = submit(store)
    take_one(store)
    end_lease(client)

    assert JobStore(client, replace(TERMS, lease_seconds=1_000_000)).reap() == 0
    assert state(store, job_id) is State.PROCESSING


def test_the_crash_of_a_job_alone_is_counted(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    take_one(store)
    lose(client, store)

    assert take_one(store).attempt == 2
    assert record(store, job_id).attempt == 2


def test_the_crash_of_a_batch_of_several_is_not_counted(store: JobStore, client: redis.Redis) -> None:
    wanted = [submit(store), submit(store)]
    take(store)
    lose(client, store)

    alone = [take_one(store), take_one(store)]

    assert {job.id for job in alone} == set(wanted)
    assert [job.attempt for job in alone] == [1, 1]


def test_a_job_that_kills_its_workers_fails_after_the_attempts(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    for _ in range(TERMS.max_attempts):
        assert take_one(store).id == job_id
        lose(client, store)

    job = record(store, job_id)
    assert (job.state, job.code, job.attempt) == (State.FAILED, "attempts_exhausted", 3)
    assert "3 times" in job.error
    assert (take(store), waiting_count(client)) == ((), {})


def test_a_job_that_kills_its_workers_harms_no_other(store: JobStore, client: redis.Redis) -> None:
    """It begins in a batch of four, and ends as the only one that failed."""
    culprit, *innocent = [submit(store) for _ in range(4)]
    assert len(take(store)) == 4
    lose(client, store)

    while batch := take(store):
        for job in batch:
            if job.id == culprit:
                lose(client, store, culprit)
            else:
                store.complete(job, result(job))

    assert [state(store, job_id) for job_id in innocent] == [State.COMPLETED] * 3
    assert (record(store, culprit).code, record(store, culprit).attempt) == ("attempts_exhausted", 3)


def test_attempts_never_fall_below_zero(store: JobStore, client: redis.Redis) -> None:
    """A batch of several is lost, taken up again by its worker, and lost once more."""
    wanted = [submit(store), submit(store)]
    batch = take(store)
    lose(client, store)
    store.renew("w1", FACTS, [held(job) for job in batch])
    lose(client, store)

    assert [record(store, job_id).attempt for job_id in wanted] == [0, 0]


def test_handing_back_never_counts_below_zero(store: JobStore, client: redis.Redis) -> None:
    wanted = [submit(store), submit(store)]
    batch = take(store)
    lose(client, store)
    store.renew("w1", FACTS, [held(job) for job in batch])
    for job in batch:
        store.release(job)

    assert [record(store, job_id).attempt for job_id in wanted] == [0, 0]


def test_a_lost_job_that_was_cancelled_ends_cancelled(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    take_one(store)
    store.cancel(job_id)

    lose(client, store)

    assert (state(store, job_id), record(store, job_id).code) == (State.FAILED, "cancelled")


def test_the_models_of_a_removed_worker_are_still_served(store: JobStore, client: redis.Redis) -> None:
    """Jobs for its model are still accepted while it is started again."""
    store.renew("w1", FACTS, [])
    store.remove_worker("w1", ["srpo"])

    assert client.hkeys(redis_keys.MODELS) == ["srpo"]


@pytest.mark.parametrize(("silent_seconds", "served"), [(800, {"srpo", "kontext"}), (910, {"kontext"})])
def test_models_of_workers_long_gone_are_no_longer_served(
    store: JobStore, client: redis.Redis, silent_seconds: int, served: set[str]
) -> None:
    """The farm was started again with other weights: jobs for what it had before would wait for ever."""
    stats = StoreStats(client)
    store.renew("w1", FACTS, [])
    store.remove_worker("w1", ["srpo"])
    seen = json.loads(cast(str, client.hget(redis_keys.MODELS, "srpo")))
    client.hset(
        redis_keys.MODELS, "srpo", json.dumps(seen | {"seen_us": int(seen["seen_us"]) - silent_seconds * 1_000_000})
    )
    assert set(stats.served()) == {"srpo"}

    store.renew("w2", FACTS | {"models": "kontext"}, [])

    assert set(stats.served()) == served


def test_a_model_of_which_one_worker_has_no_checker_is_not_checked(store: JobStore, client: redis.Redis) -> None:
    """Any of them may take its next job: until that worker is gone, none is accepted that is to be checked."""
    stats, others = StoreStats(client), FACTS | {"models": "kontext"}
    store.renew("w1", FACTS | {"safety": "off"}, [])
    store.renew("w2", FACTS, [])
    store.renew("w3", others, [])
    assert {name: served.safety for name, served in stats.served().items()} == {"srpo": "off", "kontext": "bundled"}

    store.renew("w1", FACTS | {"safety": "off", "state": "draining"}, [])

    assert {name: served.safety for name, served in stats.served().items()} == {"srpo": "bundled", "kontext": "bundled"}


def test_only_a_warm_worker_is_idle_and_announces_its_model(store: JobStore, client: redis.Redis) -> None:
    store.renew("w1", FACTS | {"state": "draining"}, [])
    store.renew("w2", {"state": "loading"}, [])

    assert not client.exists(redis_keys.MODELS, redis_keys.idle_workers("srpo"))
