"""Webhook deliveries and their attempts, enqueued by the scripts that change a job's state."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

import redis

from farm.domain.delivery import LATE_SECONDS, Attempt, Delivery, Due, Outcome
from farm.domain.errors import RateLimited
from farm.domain.job import Job
from farm.domain.limits import USUAL, Limits
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.memory_guard import MemoryGuard
from farm.jobstore.scripts import Scripts

#: How many attempts a caller's receiver may have at a time, …
MAX_ATTEMPTS_PER_RECEIVER = 8
#: … and after how many failures in a row only one.
MAX_FAILURES_IN_A_ROW = 3
#: How many attempts a caller may have at a time, over all its receivers.
MAX_ATTEMPTS_PER_CALLER = 32
#: So many of the last attempts are kept.
MAX_KEPT_ATTEMPTS = 20
#: Test deliveries of a caller a minute. Each is kept for an hour.
MAX_TESTS_PER_MINUTE = 10
#: Redeliveries of a caller's deliveries a minute.
MAX_REDELIVERIES_PER_MINUTE = 60


class DeliveryStore:
    """One client's view of the deliveries. Thread-safe."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard, *, limits: Limits = USUAL) -> None:
        """`limits` are those of callers that have none of their own."""
        self._redis = client
        self._limits = limits
        self._scripts = Scripts(client, guard)
        self._memory = MemoryGuard(client)

    def claim(self, count: int, *, lease_seconds: float, nonce: str = "", worker: str = "") -> list[Due]:
        """Return up to `count` due deliveries, one of each caller and receiver, leased for `lease_seconds`.

        A call with the same `nonce` returns the same ones: a courier that got no answer repeats it. `worker` is the
        id of its process, whose exit ends the leases (`JobStore.worker_died`).
        """
        nonce = nonce or uuid.uuid4().hex
        with translated():
            text = self._scripts.run(
                "claim_deliveries",
                count,
                round(lease_seconds * 1e6),
                MAX_ATTEMPTS_PER_RECEIVER,
                MAX_FAILURES_IN_A_ROW,
                MAX_ATTEMPTS_PER_CALLER,
                nonce,
                worker,
            )
        claimed = json.loads(text)
        times = ("created_us", "claimed_us")
        return [Due(**fields | {name: int(fields[name]) for name in times}) for fields in claimed]

    def finish(self, due: Due, outcome: Outcome, attempt: Attempt | None = None, *, pause_seconds: float = 0) -> bool:
        """Record an attempt and its outcome; return True if any delivery is due now.

        `WAITING`: the next attempt comes after `pause_seconds`.
        """
        text = json.dumps(asdict(attempt), ensure_ascii=False, separators=(",", ":")) if attempt else ""
        with translated():
            any_is_due = self._scripts.run(
                "finish_delivery",
                due.id,
                due.fence,
                outcome,
                text,
                round(pause_seconds * 1e6),
                MAX_KEPT_ATTEMPTS,
                round(LATE_SECONDS * 1e6),
            )
        return bool(any_is_due)

    def get(self, delivery_id: str) -> Delivery | None:
        return next(iter(self._records([delivery_id])), None)

    def of_job(self, job: Job) -> list[Delivery]:
        """Return the deliveries of a job's events, in order."""
        return self._records([f"{job.id}-{sequence}" for sequence in range(1, job.sequence + 1)])

    def page(self, caller: str | None, *, before_us: int | None, count: int) -> list[Delivery]:
        """Return up to `count` deliveries of one caller (None: of all), newest first, created before `before_us`."""
        newest = f"({before_us}" if before_us is not None else "+inf"
        with translated():
            index = redis_keys.deliveries_of(caller)
            ids = cast(list[str], self._redis.zrevrangebyscore(index, newest, "-inf", start=0, num=count))
        return self._records(ids)

    def redeliver(self, delivery_id: str, *, limits: Limits = USUAL) -> None:
        """Attempt a delivery again now, from the beginning of its schedule. Raises StoreFull and RateLimited.

        It counts as a submit of its caller, whose `limits` are these.
        """
        with translated():
            self._memory.refuse_when_full()
            wait_us = self._scripts.run(
                "redeliver", delivery_id, MAX_REDELIVERIES_PER_MINUTE, limits.or_else(self._limits).rate or 0
            )
        if wait_us:
            raise _too_fast("redeliveries", MAX_REDELIVERIES_PER_MINUTE, wait_us / 1e6)

    def enqueue_test(self, job_id: str, *, caller: str, url: str, receiver: str, limits: Limits = USUAL) -> str:
        """Enqueue a delivery to `url` that belongs to no job, and return its id; `job_id` is a new one.

        It counts as a submit of the caller, whose `limits` are these. Raises StoreFull and RateLimited.
        """
        rate = limits.or_else(self._limits).rate or 0
        with translated():
            self._memory.refuse_when_full()
            delivery_id, wait_us = self._scripts.run(
                "enqueue_test", job_id, caller, url, receiver, MAX_TESTS_PER_MINUTE, rate
            )
        if wait_us:
            raise _too_fast("test deliveries", MAX_TESTS_PER_MINUTE, wait_us / 1e6)
        return str(delivery_id)

    def _records(self, ids: list[str]) -> list[Delivery]:
        """Return those of these deliveries that exist."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for delivery_id in ids:
                pipeline.hgetall(redis_keys.delivery(delivery_id))
                pipeline.lrange(redis_keys.delivery_attempts(delivery_id), 0, -1)
            replies = pipeline.execute()
        records = zip(ids, replies[::2], replies[1::2], strict=True)
        return [_delivery(name, fields, attempts) for name, fields, attempts in records if fields]


def _too_fast(what: str, allowed: int, seconds: float) -> RateLimited:
    message = f"You may request {allowed} {what} a minute, which count as submits, too; try again later."
    return RateLimited(message, seconds=seconds)


def _delivery(delivery_id: str, fields: Mapping[str, str], attempts: list[str]) -> Delivery:
    return Delivery(
        id=delivery_id,
        job=fields["job"],
        caller=fields["caller"],
        receiver=fields["receiver"],
        event=fields["event"],
        sequence=int(fields["sequence"]),
        state=Outcome(fields["state"]),
        created_us=int(fields["created_us"]),
        due_us=int(fields.get("due_us", 0)),
        attempts=tuple(Attempt(**json.loads(attempt)) for attempt in attempts),
    )
