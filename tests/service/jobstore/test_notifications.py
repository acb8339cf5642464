"""Waiting for changes of single jobs: many threads over one connection."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import redis

from farm.jobstore import redis_keys
from farm.jobstore.notifications import JobChanges
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobstore.jobs import submit


def is_watched(client: redis.Redis, job_id: str) -> bool:
    return client.pubsub_numsub(redis_keys.changes_channel(job_id))[0][1] > 0


def test_a_change_wakes_every_watcher_of_its_job(changes: JobChanges, store: JobStore) -> None:
    job_id, other = submit(store), submit(store)
    with changes.of(job_id) as first, changes.of(job_id) as second, changes.of(other) as third:
        for event in (first, second, third):  # joined: something may have been missed
            assert event.wait(2)
            event.clear()
        store.cancel(job_id)

        assert first.wait(2)
        assert second.wait(2)
        assert not third.wait(0.05)


def test_closing_a_watcher_leaves_the_others_subscribed(changes: JobChanges, store: JobStore) -> None:
    job_id = submit(store)
    with changes.of(job_id) as stays:
        with changes.of(job_id):
            pass
        store.cancel(job_id)

        assert stays.wait(2)


def test_a_job_without_watchers_costs_nothing(changes: JobChanges, client: redis.Redis, store: JobStore) -> None:
    job_id = submit(store)
    with changes.of(job_id):
        wait_for(lambda: is_watched(client, job_id))

    wait_for(lambda: not is_watched(client, job_id))
    assert changes._watchers == {}


def test_a_lost_connection_is_made_good(changes: JobChanges, client: redis.Redis, store: JobStore) -> None:
    job_id = submit(store)
    with changes.of(job_id) as changed:
        wait_for(lambda: is_watched(client, job_id))
        client.client_kill_filter(_type="pubsub")
        wait_for(lambda: is_watched(client, job_id), what="a new subscription")
        store.cancel(job_id)

        assert changed.wait(2)


def test_many_may_come_and_go_at_once(changes: JobChanges, client: redis.Redis) -> None:
    """Anyone who watches hears, whatever the other threads begin and end meanwhile, on the same job and on others."""

    def watch(number: int) -> bool:
        job_id = f"job-{number % 7}"
        with changes.of(job_id) as changed:
            wait_for(lambda: is_watched(client, job_id))
            client.publish(redis_keys.changes_channel(job_id), "")
            return changed.wait(2)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(watch, range(300)))

    assert changes._watchers == {}
