"""Jobs for tests: submit, claim and end them, and read what the store keeps of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import redis

from farm.domain.job import Claimed, Conditions, Job, NewJob, Order, Result, State, Webhook
from farm.domain.scheduling import HeldJob
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import Listener
from farm.jobstore.store import JobStore, Terms
from tests.farms import wait_for
from tests.unit.dialects.samples import a_request, a_result

BASE = "https://farm.example"
TERMS = Terms(lease_seconds=1, max_attempts=3, queue_limit=1000, result_ttl_seconds=3600)
#: What a warm worker says of itself.
FACTS = {"state": "warm", "models": "srpo", "weights": "miniature", "safety": "bundled", "build": "b"}


def new_job(
    caller: str = "ada",
    *,
    priority: Any = "normal",
    key: str = "",
    digest: str = "",
    webhook: Webhook | None = None,
    conditions: Conditions | None = None,
    **fields: Any,
) -> NewJob:
    """Return a job as a dialect hands it over."""
    order = Order(
        "flux/srpo",
        a_request(**fields),
        priority,
        webhook=webhook,
        conditions=conditions or Conditions(),
        idempotency_key=key,
        body_digest=digest,
    )
    return NewJob(str(uuid.uuid4()), caller, order)


def direct_call(caller: str = "ada", **fields: Any) -> NewJob:
    """Return the job of a direct call; two such calls are equal."""
    new = new_job(caller, **{"digest": "d"} | fields)
    return replace(new, order=replace(new.order, call=f"call of {new.id}"))


def submit(store: JobStore, caller: str = "ada", **fields: Any) -> str:
    """Submit a job, and return its id."""
    return store.submit(new_job(caller, **fields)).id


def take(store: JobStore, worker: str = "w1") -> tuple[Claimed, ...]:
    """Return the jobs of this worker's next claim."""
    return store.claim(worker, ["srpo"]).batch.jobs


def take_one(store: JobStore, worker: str = "w1") -> Claimed:
    (job,) = take(store, worker)
    return job


def ids(jobs: Iterable[Claimed | Job]) -> list[str]:
    return [job.id for job in jobs]


def record(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def state(store: JobStore, job_id: str) -> State:
    return record(store, job_id).state


def result(job: Claimed) -> Result:
    return a_result(job.id, images=job.request.images)


def held(job: Claimed, step: int = 0) -> HeldJob:
    return HeldJob(job.id, job.fence, step)


def end_lease(client: redis.Redis, *job_ids: str) -> None:
    """Let the leases of these jobs (of all, if none is named) expire now."""
    for job_id in job_ids or cast(list[str], client.zrange(redis_keys.LEASES, 0, -1)):
        client.zadd(redis_keys.LEASES, {job_id: 0})


def end_delays(client: redis.Redis) -> None:
    """Let every delay end now."""
    for job_id in cast(list[str], client.zrange(redis_keys.DELAYED, 0, -1)):
        client.zadd(redis_keys.DELAYED, {job_id: 0})


def lose(client: redis.Redis, store: JobStore, *job_ids: str) -> int:
    """Let the leases expire, and have the jobs reclaimed."""
    end_lease(client, *job_ids)
    return store.reap()


def end_start(client: redis.Redis, job_id: str) -> None:
    """Let the time expire within which this job must be started."""
    client.hset(redis_keys.job(job_id), "start_deadline_us", 1)
    client.zadd(redis_keys.START_DEADLINE, {job_id: 1}, xx=True)


def now(client: redis.Redis) -> float:
    """Return Redis's time, in seconds."""
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6)


def hear_shouts(redis_url: str) -> list[str]:
    """Return the stop notifications to workers as they come: none once the listener has joined, then each job."""
    result: list[str] = []
    listener = Listener(connect_to_listen(redis_url), lambda _channel, text: result.append(text))
    listener.subscribe(redis_keys.STOP_CHANNEL)
    listener.start()
    wait_for(lambda: result == [""], what="the listener's joining")
    return result


def end_preparation(client: redis.Redis, *job_ids: str) -> None:
    """Let the preparers' leases on these jobs expire now."""
    for job_id in job_ids:
        client.zadd(redis_keys.PREPARING, {job_id: 0}, xx=True)
        client.zadd(redis_keys.PREPARING_AGAIN, {job_id: 0}, xx=True)


def end_waiting_for_callers(client: redis.Redis) -> None:
    """Let the time expire in which a direct call may be repeated; calls that still wait do so."""
    seconds, _ = client.time()
    for job_id in cast(list[str], client.zrange(redis_keys.ABANDON_DEADLINE, 0, -1)):
        held_until_us = client.zscore(str(client.hget(redis_keys.job(job_id), "direct_key")), job_id)
        if held_until_us is None or held_until_us < (seconds + 1) * 1_000_000:
            client.zadd(redis_keys.ABANDON_DEADLINE, {job_id: 0})


def end_hold(client: redis.Redis, job_id: str) -> None:
    """Let the last heartbeat of a call for this job be long ago, as if its API process were dead."""
    client.zadd(str(client.hget(redis_keys.job(job_id), "direct_key")), {job_id: 1})
    client.zadd(redis_keys.ABANDON_DEADLINE, {job_id: 0})


def outbox(client: redis.Redis) -> list[str]:
    """Return the ids of the outbox, in order."""
    return [entry for entry, _ in cast(list[tuple[str, Any]], client.xrange(redis_keys.OUTBOX))]


def events(client: redis.Redis, job_id: str) -> list[tuple[int, str]]:
    """Return the sequence numbers and states of a job in the outbox, in order."""
    entries = cast(list[tuple[str, dict[str, str]]], client.xrange(redis_keys.OUTBOX))
    return [(int(fields["sequence"]), fields["state"]) for _, fields in entries if fields["job"] == job_id]


def names(client: redis.Redis) -> set[str]:
    """Return all keys of the farm except Celery's: wake-ups are sent by a thread of its own."""
    return {str(name) for name in client.scan_iter() if not str(name).startswith((redis_keys.CELERY, "_kombu"))}


def waiting_count(client: redis.Redis) -> dict[str, str]:
    """Return how many waiting jobs the store counts for each caller."""
    return cast(dict[str, str], client.hgetall(f"{redis_keys.PREFIX}waiting_count"))
