"""The job store: every job's record in Redis, and the only ways to change one. The truth of the farm.

Each change is one server-side script (`lua/`), safe to repeat when its answer was lost. Reads are plain commands.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, cast

import redis

from farm import clock
from farm.concurrency.retry import jittered
from farm.domain.catalogue import BATCH_IMAGES
from farm.domain.errors import IdempotencyConflict, NotFound
from farm.domain.job import Batch, Claimed, Conditions, Job, NewJob, Result, Search, State
from farm.domain.limits import USUAL, Limits, Quota, Spent
from farm.domain.request import Request
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.limit_errors import refusal
from farm.jobstore.memory_guard import MemoryGuard
from farm.jobstore.record import CONDITIONS, blank, conditions_from, fields_of, job_from, result_text
from farm.jobstore.scripts import Scripts

#: For how long whoever removes an expired job has it for itself, in seconds.
_REMOVAL_SECONDS = 60.0
#: Records that a search reads at a time.
SEARCH_CHUNK = 1000
#: So often a job is given to a preparer; then it counts as one that kills them.
MOST_TAKES = 5

Retry = Literal["never", "again", "alone"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the job store promises and demands: seconds, and counts."""

    lease_seconds: float
    max_attempts: int
    queue_limit: int
    result_ttl_seconds: float
    #: Submits a minute and images a day of each caller that has no limits of its own. 0: any.
    rate_limit: int = 0
    images_per_day: int = 0

    @property
    def limits(self) -> Limits:
        return Limits(self.rate_limit, self.queue_limit, self.images_per_day)

    #: How long one start of a job may last.
    render_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submit: the job, whether it was there before, and how many workers stand idle for it.

    `quotas` is what is left of its caller's limits by time.
    """

    id: str
    repeated: bool
    idle_workers: int
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim brought: a batch (perhaps empty), and what is still waiting for how many idle workers."""

    batch: Batch
    waiting: int
    idle_workers: int


@dataclass(frozen=True, slots=True)
class Held:
    """A job that a worker holds, and the denoising steps done of all its images together."""

    id: str
    fence: int
    step: int


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _bounds(wanted: Search) -> tuple[int | str, int | str]:
    """The scores between which the wanted jobs lie in an index."""
    return (
        "-inf" if wanted.after_us is None else wanted.after_us,
        "+inf" if wanted.before_us is None else wanted.before_us,
    )


class JobStore:
    """One client's view of the records. Thread-safe."""

    def __init__(self, client: redis.Redis, terms: Terms) -> None:
        self._redis = client
        self._scripts = Scripts(client)
        self._terms = terms
        self._ttl_us = _us(terms.result_ttl_seconds)
        self._memory = MemoryGuard(client)
        #: By how many seconds Redis's clock was ahead of this process's monotonic one, and when that last leapt.
        self._ahead = math.inf
        self._leapt_at = -math.inf

    # What callers do

    def submit(self, new: NewJob, limits: Limits = USUAL) -> Accepted:
        """Record a job, or raise LimitReached, StoreFull, IdempotencyConflict or StoreUnavailable and record nothing.

        `limits` are its caller's own. What was submitted before counts nothing, and is not refused.

        A job that repeats another (`retry_of`) is recorded once for that one: a second is answered with the first.
        Raises NotFound where there is no such failed job any more.
        """
        order, limits = new.order, limits.or_else(self._terms.limits)
        with translated():
            self._memory.refuse_when_full()
            verdict, job_id, idle, *used = self._scripts.run(
                "submit",
                new.id,
                limits.waiting or 0,
                order.idempotency_key,
                order.body_digest,
                order.call if order.body_digest else "",
                int(order.is_resent),
                _us(order.conditions.start_within),
                limits.rate or 0,
                limits.images_per_day or 0,
                *chain.from_iterable(fields_of(new).items()),
            )
        spent = Spent(*used)
        if verdict == "conflict":
            raise IdempotencyConflict
        if verdict == "unknown":
            raise NotFound(f"No failed job has the id '{new.retry_of}'.")
        if verdict not in ("accepted", "repeated"):
            raise refusal(verdict, limits, spent)
        return Accepted(job_id, verdict == "repeated", idle, limits.quotas(spent))

    def is_known(self, caller: str, idempotency_key: str) -> bool:
        """Whether the caller has a job that came of this Idempotency-Key."""
        with translated():
            return bool(self._redis.exists(redis_keys.idempotency(caller, idempotency_key)))

    def forgotten_us(self, job_id: str) -> int | None:
        """When a job that has ended is forgotten, in microseconds since the epoch; None for any other."""
        with translated():
            found = self._redis.zscore(redis_keys.EXPIRY, job_id)
        return None if found is None else round(found)

    def get(self, job_id: str) -> Job | None:
        """The record, or None."""
        with translated():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.job(job_id)))
        return job_from(job_id, fields) if fields else None

    def conditions(self, job_id: str) -> Conditions:
        """What its caller wanted of a job beside its images; what became of its payload, its request tells."""
        with translated():
            values = cast(list[str | None], self._redis.hmget(redis_keys.job(job_id), *CONDITIONS))
        return conditions_from(values)

    def page(self, caller: str | None, *, before_us: int | None, count: int) -> list[Job]:
        """Up to `count` jobs of one caller (None: of everybody), newest first, created before `before_us`."""
        newest = f"({before_us}" if before_us is not None else "+inf"
        with translated():
            ids = cast(
                list[str], self._redis.zrevrangebyscore(redis_keys.jobs_of(caller), newest, "-inf", start=0, num=count)
            )
            return self._records(ids)

    def search(self, caller: str, wanted: Search, *, skip: int, count: int) -> tuple[list[Job], int]:
        """Up to `count` of the caller's jobs that are wanted, newest first, after `skip` of them; and how many are."""
        with translated():
            if wanted.is_by_time_only:
                ids, total = self._page_of_range(caller, wanted, skip, count)
            else:
                matching = self._matching(caller, wanted)
                ids, total = matching[skip : skip + count], len(matching)
            return self._records(ids), total

    def position(self, job: Job) -> int | None:
        """How many waiting jobs of the same model are before this one; None when it does not wait.

        All of normal priority are before one of low, though now and then a low one is let in. Before one that is to be
        prepared are all of its model, as things stand, and those that are prepared before it.
        """
        if job.request.needs_preparation:
            return self._position_of_unprepared(job)
        model, priority = job.request.model, job.priority
        with translated(), self._redis.pipeline(transaction=False) as reads:
            reads.zrank(redis_keys.waiting(model, priority), job.id)
            reads.zcard(redis_keys.waiting(model, "normal"))
            rank, normal = reads.execute()
        if rank is None:
            return None
        return int(rank) + (int(normal) if priority == "low" else 0)

    def _position_of_unprepared(self, job: Job) -> int | None:
        if job.state is not State.CREATED:
            return None
        model, priority = job.request.model, job.priority
        with translated(), self._redis.pipeline(transaction=False) as reads:
            reads.zrank(redis_keys.waiting(redis_keys.PREPARATION, priority), job.id)  # none: a preparer has it
            for lane in {"normal", priority}:
                reads.zcard(redis_keys.waiting(model, lane))
            rank, *others = reads.execute()
        return int(rank or 0) + sum(map(int, others))

    def cancel(self, job_id: str) -> Literal["cancelled", "stopping", "ended", "unknown"]:
        """`cancelled`: it never started. `stopping`: its worker is told to stop; it ends `failed`, code `cancelled`."""
        with translated():
            answer: Literal["cancelled", "stopping", "ended", "unknown"] = self._scripts.run(
                "cancel", job_id, self._ttl_us
            )
        return answer

    def abandon(self, job_id: str, call: str) -> bool:
        """The direct call of this name hung up before its answer. True: nobody waits for the job any more.

        For 30 seconds an equal call goes on with it; then it ends `failed`, code `client_disconnected`, if it has not
        ended. Not so a job with an Idempotency-Key: its caller has said how it comes back.
        """
        with translated():
            return bool(self._scripts.run("abandon", job_id, call))

    def hold_calls(self, calls: Collection[tuple[str, str]]) -> None:
        """A sign of life for direct calls that wait, each the id of its job and the call's own name.

        Three seconds after the last one (a submit is the first) a call is believed to have hung up.
        """
        with translated():
            self._scripts.run("hold_calls", *chain.from_iterable(calls))

    def let_be(self, job_id: str, call: str) -> None:
        """The direct call of this name was answered before its job's end: the job goes on, whoever hangs up."""
        with translated():
            self._scripts.run("let_be", job_id, call)

    # What operators do

    def pause(self) -> None:
        """Have no worker take anything, until `resume`. What they hold they end; whatever is submitted waits."""
        with translated():
            self._redis.set(redis_keys.PAUSED, 1)

    def resume(self) -> None:
        with translated():
            self._redis.delete(redis_keys.PAUSED)

    def drain(self, worker: str) -> bool:
        """Have a worker take nothing more, and leave. False: there is none of this name."""
        with translated():
            return bool(self._scripts.run("drain", worker))

    def is_to_drain(self, worker: str) -> bool:
        """Whether this worker is to leave."""
        with translated():
            return bool(self._redis.hexists(redis_keys.worker(worker), "drain"))

    # What preparers do

    def take_unprepared(self, count: int, lease_seconds: float) -> list[Job]:
        """Up to `count` jobs that are to be prepared, callers in turn; nobody else has them for `lease_seconds`.

        Each must be ended by `prepared` or `refuse`, or be held; else it comes again when its lease is over, without
        another such beside it. After five takes that brought nothing it ends `failed`, code `preparation_failed`. While
        others wait, a caller is given one more only if it then has at most half of all that are taken.
        """
        with translated():
            ids = self._scripts.run("take_unprepared", count, _us(lease_seconds), MOST_TAKES, self._ttl_us)
            jobs = self._records(ids)
        return [job for job in jobs if job.state is State.CREATED]

    def hold_unprepared(self, job_ids: Collection[str], lease_seconds: float) -> None:
        """A preparer's sign of life: what it has taken stays its own for so long from now on."""
        with translated():
            self._scripts.run("hold_unprepared", _us(lease_seconds), *job_ids)

    def release_unprepared(self, job_id: str) -> None:
        """A preparer that drains hands a job back: whoever comes next may have it, and the take does not count."""
        with translated():
            self._scripts.run("release_unprepared", job_id)

    def prepared(self, job_id: str, request: Request) -> bool:
        """Line a job up for a GPU with what its request has become; whoever prepared it then rings for a worker.

        False: it has ended meanwhile, or somebody else has prepared it, and this request's inputs are nobody's.
        """
        facts = (request.model, request.batch_key, request.cost, request.images)
        with translated():
            return bool(self._scripts.run("prepared", job_id, request.model_dump_json(), blank(request), *facts))

    def refuse(self, job_id: str, code: str, error: str) -> bool:
        """End a job that cannot be prepared. False: it has ended meanwhile, or somebody else has prepared it."""
        with translated():
            return bool(self._scripts.run("refuse", job_id, code, error, self._ttl_us))

    # What workers do

    def claim(self, worker: str, models: Sequence[str], *, nonce: str = "") -> Claim:
        """Take the next batch for `worker` under a lease. An empty batch marks the worker idle.

        While the farm is paused, or the worker is to drain, it is empty. A job with a hint that is younger than a
        second is passed over where the worker that took its caller's last one with that hint stands idle. A start that
        lasts longer than the terms allow is cut short by `reap`: the job ends `failed`, code `render_timeout`, or, if
        it was not alone, comes back alone, uncharged.

        With the same `nonce` the same batch comes again: so a caller that got no answer asks once more.
        """
        nonce = nonce or uuid.uuid4().hex
        ends = (self._ttl_us, _us(self._terms.render_seconds))
        with translated():
            text = self._scripts.run(
                "claim", worker, nonce, _us(self._terms.lease_seconds), BATCH_IMAGES, *ends, *models
            )
        reply = json.loads(text)
        jobs = tuple(
            Claimed(
                id=job["id"],
                fence=int(job["fence"]),
                attempt=int(job["attempt"]),
                request=Request.model_validate_json(job["request"]),
                keeps_payload=job["keeps_payload"],
            )
            for job in reply.get("jobs", ())
        )
        return Claim(batch=Batch(jobs), waiting=int(reply["waiting"]), idle_workers=int(reply["idle"]))

    def renew(self, worker: str, facts: Mapping[str, str], held: Sequence[Held]) -> list[str]:
        """A worker's sign of life. Returns the ids of jobs it must stop rendering."""
        arguments = [item for job in held for item in (job.id, job.fence, job.step)]
        with translated():
            stop: list[str] = self._scripts.run(
                "renew", worker, _us(self._terms.lease_seconds), json.dumps(dict(facts)), *arguments
            )
        return stop

    def complete(self, job: Claimed, result: Result) -> bool:
        """End a job well. False: the fence is stale or the job was cancelled, and its images are nobody's."""
        with translated():
            done = self._scripts.run("complete", job.id, job.fence, result_text(result), self._ttl_us)
        return bool(done)

    def fail(self, job: Claimed, code: str, error: str, *, retry: Retry = "never") -> State | None:
        """End a job badly, or have it tried again (`alone`: without the others of its batch). None: stale fence."""
        delay = _us(jittered(2 ** (job.attempt - 1), 0.5, 1.0))
        with translated():
            state = self._scripts.run(
                "fail", job.id, job.fence, code, error, retry, delay, self._terms.max_attempts, self._ttl_us
            )
        return None if state == "stale" else State(state)

    def release(self, job: Claimed) -> None:
        """Hand a job back unfinished; that start does not count."""
        with translated():
            self._scripts.run("release", job.id, job.fence, self._ttl_us)

    def leave(self, worker: str, models: Sequence[str]) -> None:
        """Forget a worker that goes."""
        with translated():
            self._scripts.run("leave", worker, *models)

    # What every process does

    def reap(self) -> int:
        """Take back what dead workers held, end what is overdue, line up what was delayed.

        Returns the number of jobs taken back.
        """
        taken, more = 0, 1
        while more:
            with translated():
                back, more = self._scripts.run(
                    "reap",
                    int(self._cannot_judge()),
                    self._terms.max_attempts,
                    self._ttl_us,
                    _us(3 * self._terms.lease_seconds),
                    _us(self._terms.render_seconds),
                )
            taken += int(back)
        return taken

    def _cannot_judge(self) -> bool:
        """Whether every lease looks as if it had run out, though the workers live and will renew theirs.

        So it is right after a start of Redis, and after its clock has leapt, as it does on a machine that slept.
        """
        server, lease = self._redis.info("server"), self._terms.lease_seconds
        now = clock.monotonic()
        ahead = float(server["server_time_usec"]) / 1e6 - now
        if ahead - self._ahead > lease:
            self._leapt_at = now
        self._ahead = ahead
        return float(server["uptime_in_seconds"]) < lease or now - self._leapt_at < lease

    def expired(self, count: int = 100) -> list[str]:
        """Ids of finished jobs whose time to be kept is over and whose end is told to all that were to be.

        What is not deleted within a minute comes again.
        """
        with translated():
            ids: list[str] = self._scripts.run("expired", count, _us(_REMOVAL_SECONDS))
        return ids

    def records(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Those of these jobs that are known, by their ids."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hgetall(redis_keys.job(job_id))
            found = zip(job_ids, pipeline.execute(), strict=True)
        return {job_id: job_from(job_id, fields) for job_id, fields in found if fields}

    def delete(self, job_id: str) -> bool:
        """Forget a finished job. False: it has not ended."""
        with translated():
            return bool(self._scripts.run("delete", job_id, "wanted"))

    def forget(self, job_id: str) -> bool:
        """Forget a finished job whose time is over. False: its end is still to be told to a webhook."""
        with translated():
            return bool(self._scripts.run("delete", job_id, "over"))

    def _page_of_range(self, caller: str, wanted: Search, skip: int, count: int) -> tuple[list[str], int]:
        index, oldest, newest = redis_keys.jobs_of(caller), *_bounds(wanted)
        with self._redis.pipeline(transaction=True) as both:
            both.zrevrangebyscore(index, newest, oldest, start=skip, num=count)
            both.zcount(index, oldest, newest)
            ids, total = both.execute()
        return ids, total

    def _matching(self, caller: str, wanted: Search) -> list[str]:
        """Ids of all jobs that are wanted, newest first. Their records are read: there is no index by state."""
        oldest, newest = _bounds(wanted)
        ids = cast(list[str], self._redis.zrevrangebyscore(redis_keys.jobs_of(caller), newest, oldest))
        found = []
        for start in range(0, len(ids), SEARCH_CHUNK):
            chunk = ids[start : start + SEARCH_CHUNK]
            with self._redis.pipeline(transaction=False) as reads:
                for job_id in chunk:
                    reads.hmget(redis_keys.job(job_id), "state", "endpoint")
                facts = reads.execute()
            found += [job_id for job_id, fact in zip(chunk, facts, strict=True) if wanted.matches(*fact)]
        return found

    def _records(self, ids: Sequence[str]) -> list[Job]:
        """The jobs of these ids, without those that are gone."""
        with self._redis.pipeline(transaction=False) as reads:
            for job_id in ids:
                reads.hgetall(redis_keys.job(job_id))
            records = reads.execute()
        return [job_from(job_id, fields) for job_id, fields in zip(ids, records, strict=True) if fields]
