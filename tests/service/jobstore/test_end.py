"""Ends of jobs: each reaches one, once; and deleted jobs leave nothing behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from farm.domain.job import State
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import JobChanges, listen_for_stops
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobstore.jobs import (
    FACTS,
    TERMS,
    end_delays,
    events,
    held,
    lose,
    names,
    new_job,
    now,
    record,
    result,
    state,
    submit,
    take,
    take_one,
)


def test_a_completed_job_has_its_result(store: JobStore, client: redis.Redis) -> None:
    submit(store, images=2)
    job = take_one(store)
    ended = replace(result(job), flagged=(False, True), warnings=("long prompt", "ünï"))

    assert store.complete(job, ended) is True

    seen = record(store, job.id)
    assert (seen.state, seen.result, seen.code, seen.error) == (State.COMPLETED, ended, "", "")
    assert seen.finished_us >= seen.started_us
    assert events(client, job.id) == [(1, "created"), (2, "processing"), (3, "completed")]
    assert client.zcard(redis_keys.LEASES) == 0


def test_a_failed_job_tells_why(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)

    assert store.fail(job, "render_failed", "It did not work.") is State.FAILED

    seen = record(store, job.id)
    assert (seen.state, seen.code, seen.error) == (State.FAILED, "render_failed", "It did not work.")
    assert seen.finished_us >= seen.started_us
    assert events(client, job.id)[-1] == (3, "failed")
    assert client.zcard(redis_keys.LEASES) == 0


@pytest.mark.parametrize("ended", ["completed", "failed", "cancelled"])
def test_an_end_is_final(store: JobStore, client: redis.Redis, ended: str) -> None:
    submit(store)
    job = take_one(store)
    if ended == "completed":
        store.complete(job, result(job))
    elif ended == "failed":
        store.fail(job, "render_failed", "x")
    else:
        store.cancel(job.id)
        store.fail(job, "cancelled", "x")
    before = client.hgetall(redis_keys.job(job.id))

    store.complete(job, replace(result(job), build="other"))
    store.fail(job, "other", "y")
    store.fail(job, "other", "y", retry="again")
    store.release(job)
    store.renew("w1", FACTS, [held(job, 9)])
    assert store.cancel(job.id) == "ended"
    lose(client, store, job.id)

    assert client.hgetall(redis_keys.job(job.id)) == before
    assert take(store) == ()


def test_a_job_is_tried_again_after_a_while(store: JobStore, client: redis.Redis) -> None:
    """Half a second to one after the first try, twice that after each further one."""
    job_id = submit(store)
    for minimum in (0.5, 1.0):
        job = take_one(store)
        before = now(client)
        assert store.fail(job, "storage_failed", "disk", retry="again") is State.CREATED
        after = now(client)
        due = client.zscore(redis_keys.DELAYED, job_id)
        assert due is not None
        assert before + minimum <= due / 1e6 <= after + 2 * minimum
        end_delays(client)
        store.reap()


def test_a_job_that_always_fails_fails_after_the_attempts(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    states = []
    for _ in range(TERMS.max_attempts):
        states.append(store.fail(take_one(store), "storage_failed", "disk", retry="again"))
        end_delays(client)
        store.reap()

    assert states == [State.CREATED, State.CREATED, State.FAILED]
    assert (record(store, job_id).code, record(store, job_id).error) == ("storage_failed", "disk")


def test_batch_mates_come_back_alone_at_once_and_uncounted(store: JobStore) -> None:
    wanted = [submit(store), submit(store)]
    for job in take(store):
        assert store.fail(job, "render_failed", "x", retry="alone") is State.CREATED

    alone = [take_one(store), take_one(store)]

    assert {job.id for job in alone} == set(wanted)
    assert [job.attempt for job in alone] == [1, 1]


def test_a_job_that_fails_alone_is_counted_and_waits(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)

    assert store.fail(job, "render_failed", "x", retry="alone") is State.CREATED
    assert take(store) == ()

    end_delays(client)
    store.reap()
    assert take_one(store).attempt == 2


def test_batch_mates_that_failed_once_too_often_still_get_their_try_alone(client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, max_attempts=1))
    submit(store)
    submit(store)

    assert [store.fail(job, "render_failed", "x", retry="alone") for job in take(store)] == [State.CREATED] * 2
    assert store.fail(take_one(store), "render_failed", "x", retry="alone") is State.FAILED


def test_a_cancelled_running_job_is_stopped_at_the_next_heartbeat(store: JobStore) -> None:
    submit(store)
    job = take_one(store)

    assert store.cancel(job.id) == "stopping"

    assert (state(store, job.id), record(store, job.id).cancelling) == (State.PROCESSING, True)
    assert store.renew("w1", FACTS, [held(job)]) == [job.id]
    assert store.cancel(job.id) == "stopping"


def channels_of(client: redis.Redis, name: str) -> int:
    """Return how many channels this listener has joined: those of earlier tests listen to the same ones."""
    return sum(int(each["sub"]) for each in client.client_list() if each["name"] == name)


def test_stopping_is_shouted_too(store: JobStore, client: redis.Redis, redis_url: str) -> None:
    heard: list[str] = []
    listener = connect_to_listen(redis_url)
    listener.connection_pool.connection_kwargs["client_name"] = "told-to-stop"
    listen_for_stops(listener, heard.append)
    wait_for(lambda: channels_of(client, "told-to-stop") == 1, what="the listener's joining")
    submit(store)
    job = take_one(store)

    store.cancel(job.id)

    wait_for(lambda: heard == [job.id], what="the worker's being told")


@pytest.mark.parametrize("what", ["complete", "fail", "fail again", "fail alone", "release", "lose"])
def test_whatever_its_worker_does_a_cancelled_job_ends_cancelled(
    store: JobStore, client: redis.Redis, what: str
) -> None:
    submit(store)
    job = take_one(store)
    store.cancel(job.id)

    if what == "complete":
        assert store.complete(job, result(job)) is False
    elif what == "release":
        store.release(job)
    elif what == "lose":
        lose(client, store)
    else:
        store.fail(job, "render_failed", "x", retry=what.removeprefix("fail").strip() or "never")  # type: ignore[arg-type]

    seen = record(store, job.id)
    assert (seen.state, seen.code, seen.result) == (State.FAILED, "cancelled", None)
    assert [name for _, name in events(client, job.id)].count("failed") == 1
    assert client.zcard(redis_keys.LEASES) == 0


def test_a_watcher_is_notified_of_each_change(store: JobStore, changes: JobChanges) -> None:
    job_id = submit(store)
    with changes.of(job_id) as changed:
        job = take_one(store)
        assert changed.wait(2)
        for step in (1, 2):
            changed.clear()
            store.renew("w1", FACTS, [held(job, step)])
            assert changed.wait(2)
        changed.clear()
        store.complete(job, result(job))
        assert changed.wait(2)


def test_nothing_new_is_no_change(store: JobStore, changes: JobChanges) -> None:
    job_id = submit(store)
    job = take_one(store)
    store.renew("w1", FACTS, [held(job, 1)])
    with changes.of(job_id) as changed:
        assert changed.wait(2)  # joined
        changed.clear()
        store.renew("w1", FACTS, [held(job, 1)])

        assert not changed.wait(0.1)


def test_a_finished_job_is_kept_for_its_time(client: redis.Redis) -> None:
    brief, long = JobStore(client, replace(TERMS, result_ttl_seconds=0.000001)), JobStore(client, TERMS)
    first, second = submit(long, images=4), submit(long, images=4)
    for store in (brief, long):
        job = take_one(store)
        store.complete(job, result(job))

    assert long.claim_expired() == [first]
    assert client.zrange(redis_keys.EXPIRY, 0, -1) == [first, second]


def test_a_deleted_job_is_gone(store: JobStore) -> None:
    job_id = submit(store)
    store.cancel(job_id)

    assert store.delete(job_id) is True

    assert store.get(job_id) is None
    assert store.page("ada", before_us=None, count=9) == []
    assert store.delete(job_id) is True


def test_a_deleted_job_gives_its_key_free(store: JobStore) -> None:
    job_id = submit(store, key="k", digest="d")
    store.cancel(job_id)
    store.delete(job_id)

    again = store.submit(new_job(key="k", digest="d"))

    assert (again.repeated, again.id != job_id) == (False, True)


def test_deleting_a_job_leaves_its_successor_the_key(store: JobStore, client: redis.Redis) -> None:
    """The key's day was over and it was used again; then the old job's week is over too."""
    old = submit(store, key="k", digest="d")
    store.cancel(old)
    client.delete(f"{redis_keys.PREFIX}idempotency:ada:k")
    new = submit(store, key="k", digest="d")

    store.delete(old)

    assert store.submit(new_job(key="k", digest="d")).id == new


def test_nothing_is_left_of_jobs_that_were_deleted(store: JobStore, client: redis.Redis) -> None:
    """Only counters, virtual clocks, the outbox and the workers stay; none of them has a prompt."""
    wanted = [submit(store, f"c{number % 3}", prompt="a secret fox", priority=priority, key=str(number))
              for number in range(12) for priority in ("normal", "low")]  # fmt: skip
    store.cancel(wanted[0])
    for job in take(store):
        store.fail(job, "render_failed", "x", retry="alone")
    for retry in ("again", "alone"):
        store.fail(take_one(store), "render_failed", "x", retry=retry)
    take(store)
    lose(client, store)
    end_delays(client)
    store.reap()
    while batch := take(store):
        for job in batch:
            store.complete(job, result(job))
    for job_id in wanted:
        assert store.delete(job_id)

    left = {name.removeprefix(redis_keys.PREFIX).split(":")[0] for name in names(client)}
    assert left == {
        *("vclock", "accepted_vfinish", "claimed_vfinish", "totals", "pace", "caller_images", "fence", "outbox"),
        "daily_usage",
        *("worker", "workers", "idle_workers", "worker_vfinish"),
    }
    assert "secret" not in str(client.xrange(redis_keys.OUTBOX))
    assert "secret" not in str(client.hgetall(redis_keys.worker("w1")))
