"""Bulks in Redis: their records, and the only ways to change one. Each change is one script, safe to repeat."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import cast

import redis

from farm.auth.api_keys import LOCAL
from farm.domain.bulk import TRANSITIONS, Bulk, BulkState, Ending, Endpoint, LineProblem, NewBulk, Progress, event_id
from farm.domain.catalogue import MAX_BULK_SECONDS
from farm.domain.errors import (
    IdempotencyConflict,
    InvalidRequest,
    LimitReached,
    MemoryShareUsedUp,
    Problem,
    RateLimited,
)
from farm.domain.job import Webhook
from farm.domain.limits import Limits
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.memory_guard import MAX_KEPT_SHARE, MemoryGuard
from farm.jobstore.scripts import Scripts

#: Most bulks of a caller that are kept, ended ones included: all callers share the job store's memory. A claim
#: looks at as many, to find one of another caller.
MAX_BULKS_PER_CALLER = 10_000
#: Most bulks that a caller may create in a minute. They do not count as submits: their lines do.
MAX_BULKS_PER_MINUTE = 60
#: After how long a caller that has as many should try again, in seconds.
FULL_RETRY_SECONDS = 60.0
_KEPT_TOO_MUCH = (
    "Your jobs and batches, those that ended included, take as much memory as one caller may have; delete finished "
    "jobs, or try again when some have expired."
)


@dataclass(frozen=True, slots=True)
class LeasedBulk:
    """A bulk that this process works on. Every later change must present the fencing token `fence`."""

    bulk: Bulk
    fence: int
    #: Its jobs that have not ended.
    open_jobs: int
    #: When it was claimed, by Redis's clock.
    claimed_us: int

    @property
    def id(self) -> str:
        return self.bulk.id


class BulkStore:
    """Access to the bulks in Redis. Thread-safe."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard, *, result_ttl_seconds: float) -> None:
        """`result_ttl_seconds`: how long a bulk, its jobs and its results are kept after its completion window."""
        self._redis = client
        self._scripts = Scripts(client, guard)
        self._memory = MemoryGuard(client)
        self._ttl_us = _us(result_ttl_seconds)

    def create(self, new: NewBulk) -> str:
        """Record a bulk and return its id, or that of an earlier one with the same Idempotency-Key.

        Raises StoreFull, LimitReached, IdempotencyConflict, and InvalidRequest if its file has been deleted.
        """
        with translated():
            self._memory.refuse_when_full()
            verdict, bulk_id = self._scripts.run(
                "create_bulk",
                new.id,
                new.idempotency_key,
                new.body_digest,
                _us(new.window_seconds),
                self._ttl_us,
                self._ttl_us + _us(MAX_BULK_SECONDS),
                new.file.id,
                MAX_BULKS_PER_CALLER,
                MAX_BULKS_PER_MINUTE,
                self._kept_limit(new.caller),
                *chain.from_iterable(_fields_of(new).items()),
            )
        if verdict == "conflict":
            raise IdempotencyConflict
        if verdict == "unknown":
            raise no_such_file(new.file.id)
        if verdict == "too_fast":
            message = f"You may create {MAX_BULKS_PER_MINUTE} batches a minute; try again when the next one is allowed."
            raise RateLimited(message, seconds=int(bulk_id) / 1e6)
        if verdict == "kept_too_much":
            raise MemoryShareUsedUp(_KEPT_TOO_MUCH, seconds=FULL_RETRY_SECONDS)
        if verdict == "full":
            raise LimitReached(
                f"You have {MAX_BULKS_PER_CALLER} batches, as many as are kept; try again when the oldest has expired.",
                seconds=FULL_RETRY_SECONDS,
            )
        return str(bulk_id)

    def get(self, bulk_id: str) -> Bulk | None:
        """Return the bulk, or None."""
        with translated():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.bulk(bulk_id)))
        return _bulk(bulk_id, fields) if "state" in fields else None

    def page(self, caller: str, *, after: Bulk | None, count: int) -> list[Bulk]:
        """Return up to `count` bulks of a caller, newest first, created before `after`."""
        newest = f"({after.created_us}" if after else "+inf"
        with translated():
            index = redis_keys.bulks_of(caller)
            ids = cast(list[str], self._redis.zrevrangebyscore(index, newest, "-inf", start=0, num=count))
            return self._records(ids)

    def open_bulks(self) -> list[Bulk]:
        """Return the bulks of all callers that have not ended, oldest first."""
        with translated():
            ids = cast(list[str], self._redis.zrange(redis_keys.BULK_DUE, 0, -1))
            return sorted(self._records(ids), key=lambda bulk: bulk.created_us)

    def _records(self, ids: Sequence[str]) -> list[Bulk]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for bulk_id in ids:
                pipeline.hgetall(redis_keys.bulk(bulk_id))
            records = zip(ids, pipeline.execute(), strict=True)
        return [_bulk(bulk_id, fields) for bulk_id, fields in records if "state" in fields]

    def end(self, bulk_id: str, ending: Ending) -> BulkState | None:
        """Let no further line become a job. Return the state before; None if there is no such bulk."""
        with translated():
            state = self._scripts.run("end_bulk", bulk_id, ending)
        return BulkState(state) if state else None

    # What the process does that works on a bulk

    def claim(self, lease_seconds: float, worker: str = "", *, not_of: Collection[str] = ()) -> LeasedBulk | None:
        """Lease the next bulk that is due, of a caller that is not among `not_of`; None if there is none now.

        `worker` is the id of this process, whose exit ends the lease (`JobStore.worker_died`).
        """
        with translated():
            claimed = self._scripts.run("claim_bulk", _us(lease_seconds), MAX_BULKS_PER_CALLER, worker, *not_of)
            if not claimed:
                return None
            bulk_id, fence, claimed_us = claimed
            bulk = self.get(bulk_id)
            if bulk is None:
                return None
            open_count = self._redis.scard(redis_keys.bulk_open(bulk_id))
            return LeasedBulk(bulk, int(fence), open_count, int(claimed_us))

    def renew(self, leases: Collection[tuple[str, int]], lease_seconds: float) -> None:
        """Renew leases, each the id of a bulk and its fence."""
        with translated():
            arguments: list[str | int] = [item for lease in leases for item in lease]
            self._scripts.run("renew_bulk", _us(lease_seconds), *arguments)

    def release(self, leased: LeasedBulk, *, pause_seconds: float | None) -> None:
        """Give a bulk back. It is due after a pause, or when its last job (None) or its completion window ends."""
        with translated():
            self._scripts.run(
                "release_bulk", leased.id, leased.fence, "" if pause_seconds is None else _us(pause_seconds)
            )

    def refuse_when_full(self) -> None:
        """Raise StoreFull while the job store accepts no jobs: what bulks leave there must wait, too."""
        with translated():
            self._memory.refuse_when_full()

    def advance(self, leased: LeasedBulk, progress: Progress, errors: Mapping[int, str]) -> bool:
        """Record that the lines up to `progress` are jobs, or cannot become one: line → error. False: stale fence.

        Raises MemoryShareUsedUp, with nothing recorded, if there are errors and the caller keeps as much as one may.
        """
        refused: list[str | int] = [item for error in errors.items() for item in error]
        with translated():
            arguments = (leased.id, leased.fence, progress.offset, progress.line, self._kept_limit(leased.bulk.caller))
            recorded = int(self._scripts.run("advance_bulk", *arguments, *refused))
        if recorded < 0:
            raise MemoryShareUsedUp(_KEPT_TOO_MUCH, seconds=FULL_RETRY_SECONDS)
        return bool(recorded)

    def _kept_limit(self, caller: str) -> int:
        """Return how many bytes the caller may keep in the job store; 0 for the farm's only caller."""
        return 0 if caller == LOCAL.id else round(self._memory.bytes_for_jobs() * MAX_KEPT_SHARE)

    def change(self, leased: LeasedBulk, state: BulkState, **fields: str | int) -> bool:
        """Change the state and fields of the record. False: the fence is stale, or the state has changed meanwhile."""
        origins = ",".join(TRANSITIONS[state])
        arguments = (leased.id, leased.fence, state, int(state.is_terminal), origins)
        with translated():
            return bool(self._scripts.run("change_bulk", *arguments, *chain.from_iterable(fields.items())))

    def open_jobs(self, bulk_id: str) -> set[str]:
        """Return the ids of the bulk's jobs that have not ended."""
        with translated():
            return cast(set[str], self._redis.smembers(redis_keys.bulk_open(bulk_id)))

    def line_errors(self, bulk_id: str, lines: Sequence[int]) -> list[str | None]:
        """Return the recorded error of each line, or None."""
        with translated():
            return cast(
                list[str | None], self._redis.hmget(redis_keys.bulk_line_errors(bulk_id), [str(line) for line in lines])
            )


def no_such_file(file_id: str) -> InvalidRequest:
    """Return the error for a file that does not exist, or belongs to another caller."""
    message = f"no file has the id '{file_id[:100]}'; upload it to /v1/files with the purpose batch"
    return InvalidRequest([Problem("input_file_id", message, "file_not_found", file_id)])


def errors_text(errors: Sequence[LineProblem]) -> str:
    """Return problems as the record keeps them, in ASCII: UTF-8 cannot hold the lone surrogates that lines may have."""
    return json.dumps([asdict(problem) for problem in errors])


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _fields_of(new: NewBulk) -> dict[str, str | int]:
    fields: dict[str, str | int] = {
        "caller": new.caller,
        "endpoint": new.endpoint,
        "file": new.file.id,
        "key": new.file.key,
        "bytes": new.file.bytes,
        "window": new.window,
        "metadata": json.dumps(dict(new.metadata)),
        "output_seconds": new.output_seconds,
        "limits": json.dumps(asdict(new.limits)),
        "base": new.base,
    }
    if new.webhook:
        receiver = Webhook(new.webhook).receiver
        fields |= {"webhook": new.webhook, "receiver": receiver, "event": event_id(new.id)}
    return fields


def _bulk(bulk_id: str, fields: Mapping[str, str]) -> Bulk:
    problems = json.loads(fields.get("errors", "[]"))
    return Bulk(
        id=bulk_id,
        caller=fields["caller"],
        state=BulkState(fields["state"]),
        endpoint=cast(Endpoint, fields["endpoint"]),
        file=fields["file"],
        key=fields["key"],
        bytes=int(fields["bytes"]),
        window=fields["window"],
        created_us=int(fields["created_us"]),
        expires_us=int(fields["expires_us"]),
        kept_until_us=int(fields["kept_until_us"]),
        base=fields["base"],
        limits=Limits(**json.loads(fields["limits"])),
        metadata=json.loads(fields["metadata"]),
        output_seconds=int(fields["output_seconds"]),
        model=fields.get("model", ""),
        total=int(fields.get("total", 0)),
        completed=int(fields.get("completed", 0)),
        failed=int(fields.get("failed", 0)),
        progress=Progress(int(fields.get("offset", 0)), int(fields.get("line", 0))),
        ending=cast("Ending | None", fields.get("ending")),
        errors=tuple(LineProblem(**problem) for problem in problems),
        output_file=fields.get("output_file", ""),
        error_file=fields.get("error_file", ""),
        reached_us={state: int(fields[f"{state}_us"]) for state in BulkState if f"{state}_us" in fields},
    )
