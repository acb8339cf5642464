"""The job store: every job's record in Redis, and the only ways to change one.

Each change is one Lua script (`lua/`), safe to repeat if its answer was lost. Reads are plain commands.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, cast

import redis

from farm import clock
from farm.concurrency.retry import jittered
from farm.domain.catalogue import MODELS
from farm.domain.errors import BulkEnded, IdempotencyConflict, NotFound, StoreDiskFull, StoreFull
from farm.domain.job import UNKNOWN_ORIGIN, Batch, Claimed, Conditions, Job, NewJob, Origin, Result, Run, Search, State
from farm.domain.limits import USUAL, Limits, Quota, Usage
from farm.domain.measures import DEVICE, DRAINED, MILLIONTHS, completion, computed_megapixel_steps
from farm.domain.pause import Group
from farm.domain.request import Request
from farm.domain.scheduling import PRIORITIES, WHOLE_BATCH, Capacity, HeldJob, QueuePriority
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.job_log import JobLog
from farm.jobstore.limit_errors import limit_error
from farm.jobstore.memory_guard import MAX_KEPT_SHARE, MAX_WAITING_SHARE, MemoryGuard
from farm.jobstore.record import CONDITIONS, conditions_from, fields_of, job_from, redacted, result_text, runs_from
from farm.jobstore.scripts import Scripts

#: For how long the process that removes an expired job has it for itself, in seconds.
_REMOVAL_SECONDS = 60.0
#: Jobs whose priority one script changes, so that it holds up no other call.
_CHANGED_AT_ONCE = 100
#: Records that a search reads at a time.
SEARCH_CHUNK = 1000
#: Jobs of a queue that are looked at in one step when a caller is paused: Redis does nothing else meanwhile.
_SET_ASIDE_CHUNK = 250
#: The queues of jobs that are ready for a GPU.
_QUEUES = tuple(redis_keys.queue_name(model.name, priority) for model in MODELS for priority in PRIORITIES)
#: So often a job is given to a preparer; then it counts as one that crashes them.
MAX_PREPARATION_ATTEMPTS = 5

Retry = Literal["never", "again", "alone"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Leases, limits and retention of the job store, in seconds and counts."""

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

    #: How long one run of a job may last.
    render_seconds: float = 900.0
    #: How long the usage of a day is kept.
    usage_seconds: float = 400 * 86400.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submit: the job, whether it existed before, and how many workers are idle for it.

    `quotas` is what is left of its caller's limits by time.
    """

    id: str
    repeated: bool
    idle_workers: int
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: a batch (perhaps empty), how many jobs still wait, and how many workers are idle.

    `is_deferred`: the job that is first is not for this worker until it has rendered or ended what it holds.
    """

    batch: Batch = field(default_factory=Batch)
    waiting: int = 0
    idle_workers: int = 0
    is_deferred: bool = False


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _bounds(wanted: Search) -> tuple[int | str, int | str]:
    """Return the scores between which the wanted jobs lie in an index."""
    return (
        "-inf" if wanted.after_us is None else wanted.after_us,
        "+inf" if wanted.before_us is None else wanted.before_us,
    )


def _claim_from(reply: Mapping[str, Any]) -> Claim:
    jobs = tuple(
        Claimed(
            id=job["id"],
            fence=int(job["fence"]),
            attempt=int(job["attempt"]),
            request=Request.model_validate_json(job["request"]),
            must_be_alone=job["alone"],
            keeps_payload=job["keeps_payload"],
            wait_seconds=round(job["wait"], 3),
            origin=Origin(**job["origin"]),
        )
        for job in reply.get("jobs", ())
    )
    return Claim(Batch(jobs), int(reply["waiting"]), int(reply["idle"]), bool(reply["deferred"]))


class JobStore:
    """Access to the jobs in Redis. Thread-safe."""

    def __init__(self, client: redis.Redis, terms: Terms, guard: Guard = no_guard) -> None:
        self._redis = client
        self._guard = guard
        self._scripts = Scripts(client, guard)
        self._terms = terms
        self._ttl_us = _us(terms.result_ttl_seconds)
        self._memory = MemoryGuard(client)
        self._log = JobLog(client)
        #: By how many seconds Redis's clock was ahead of this process's monotonic one, and when it last leapt.
        self._ahead = math.inf
        self._leapt_at = -math.inf

    # What callers do

    def submit(self, new: NewJob, limits: Limits = USUAL, *, memory_is_shared: bool = False) -> Accepted:
        """Record a job, or raise LimitReached, StoreFull, IdempotencyConflict or StoreUnavailable and record nothing.

        Also raises BulkEnded for a line of a bulk that has ended or ends.

        `limits` are its caller's own. If `memory_is_shared` with other callers, its waiting jobs may have half of the
        memory for new jobs, and all that are kept three quarters. A repeated submit does not count against them; with
        an Idempotency-Key it is never refused, also where nothing new is accepted.

        A failed job is repeated (`retry_of`) only once: a second submit is answered with the first one's job. Raises
        NotFound if the failed job does not exist.
        """
        try:
            return self._submit(new, limits, memory_is_shared=memory_is_shared)
        except (StoreFull, StoreDiskFull):
            if first := self._first_of(new):
                return first
            raise

    def _first_of(self, new: NewJob) -> Accepted | None:
        """Return the submit that this one repeats, by its Idempotency-Key, without a change of the job store.

        Raises IdempotencyConflict.
        """
        order = new.order
        if not order.idempotency_key:
            return None
        with translated():
            known = self._redis.get(redis_keys.idempotency(new.caller, order.idempotency_key))
        if known is None:
            return None
        first = json.loads(cast(str, known))
        if first["digest"] != order.body_digest:
            raise IdempotencyConflict
        return Accepted(first["id"], True, 0, ())

    def _submit(self, new: NewJob, limits: Limits, *, memory_is_shared: bool) -> Accepted:
        order, limits = new.order, limits.or_else(self._terms.limits)
        with translated():
            self._memory.refuse_when_full()
            shared_bytes = self._memory.bytes_for_jobs() if memory_is_shared else 0
            verdict, job_id, idle, *used = self._scripts.run(
                "submit",
                new.id,
                limits.waiting or 0,
                order.idempotency_key,
                order.body_digest,
                order.call if order.body_digest else "",
                _us(order.conditions.start_within),
                limits.rate or 0,
                limits.images_per_day or 0,
                round(shared_bytes * MAX_WAITING_SHARE),
                round(shared_bytes * MAX_KEPT_SHARE),
                *chain.from_iterable(fields_of(new).items()),
            )
        usage = Usage(*used)
        if verdict == "conflict":
            raise IdempotencyConflict
        if verdict == "unknown":
            raise NotFound(f"No failed job has the id '{new.retry_of}'.")
        if verdict == "bulk_ended":
            raise BulkEnded
        if verdict not in ("accepted", "repeated"):
            raise limit_error(verdict, limits, usage)
        self._log.accepted(job_id, new, repeated=verdict == "repeated")
        return Accepted(job_id, verdict == "repeated", idle, limits.quotas(usage))

    def has_idempotency_key(self, caller: str, idempotency_key: str) -> bool:
        """Return True if the caller has a job with this Idempotency-Key; False for an empty one."""
        if not idempotency_key:
            return False
        with translated():
            return bool(self._redis.exists(redis_keys.idempotency(caller, idempotency_key)))

    def expires_us(self, job_id: str) -> int | None:
        """Return when a finished job expires, in microseconds since the epoch; None for any other."""
        with translated():
            expires_us = self._redis.zscore(redis_keys.EXPIRY, job_id)
        return None if expires_us is None else round(expires_us)

    def get(self, job_id: str) -> Job | None:
        """Return the job, or None."""
        with translated():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.job(job_id)))
        return job_from(job_id, fields) if fields else None

    def runs(self, job_id: str) -> list[Run]:
        """Return the last runs of a job, the present one included, in order."""
        with translated():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.job(job_id)))
            host = self._redis.hget(redis_keys.worker(fields.get("worker", "")), "host")
        return runs_from(fields, host=cast("str | None", host) or "")

    def conditions(self, job_id: str) -> Conditions:
        """Return the conditions of a job; its request shows whether its payload was kept."""
        with translated():
            values = cast(list[str | None], self._redis.hmget(redis_keys.job(job_id), *CONDITIONS))
        return conditions_from(values)

    def page(self, caller: str | None, *, before_us: int | None, count: int) -> list[Job]:
        """Return up to `count` jobs of one caller (None: of all), newest first, created before `before_us`."""
        newest = f"({before_us}" if before_us is not None else "+inf"
        with translated():
            ids = cast(
                list[str], self._redis.zrevrangebyscore(redis_keys.jobs_of(caller), newest, "-inf", start=0, num=count)
            )
            return self._records(ids)

    def search(self, caller: str, wanted: Search, *, skip: int, count: int) -> tuple[list[Job], int]:
        """Return up to `count` of the caller's wanted jobs, newest first, after `skip` of them; and their total."""
        with translated():
            if wanted.is_by_time_only:
                ids, total = self._page_of_range(caller, wanted, skip, count)
            else:
                matching = self._matching(caller, wanted)
                ids, total = matching[skip : skip + count], len(matching)
            return self._records(ids), total

    def position(self, job: Job) -> int | None:
        """Return how many waiting jobs of the same model are before this one; None if it does not wait.

        All jobs of a higher priority count as before it, and all of its own before one whose caller is paused. All
        prepared jobs of its model, and the unprepared ones in front of it, count as before an unprepared one.
        """
        if job.request.needs_preparation:
            return self._position_of_unprepared(job)
        model, priority = job.request.model, job.priority
        with translated(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zrank(redis_keys.queue(model, priority), job.id)
            pipeline.zrank(redis_keys.paused_jobs(job.caller), job.id)
            pipeline.zcard(redis_keys.queue(model, priority))
            for higher in PRIORITIES[: PRIORITIES.index(priority)]:
                pipeline.zcard(redis_keys.queue(model, higher))
            rank, paused_rank, queued, *before = pipeline.execute()
        if rank is None and paused_rank is not None:
            rank = int(queued) + int(paused_rank)
        return None if rank is None else int(rank) + sum(map(int, before))

    def _position_of_unprepared(self, job: Job) -> int | None:
        if job.state is not State.CREATED:
            return None
        model, priority = job.request.model, job.priority
        with translated(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zrank(redis_keys.queue(redis_keys.UNPREPARED, priority), job.id)  # None: a preparer has it
            for counted in PRIORITIES[: PRIORITIES.index(priority) + 1]:
                pipeline.zcard(redis_keys.queue(model, counted))
            rank, *others = pipeline.execute()
        return int(rank or 0) + sum(map(int, others))

    def cancel(self, job_id: str) -> Literal["cancelled", "stopping", "ended", "unknown"]:
        """Cancel a job.

        `cancelled`: it never started. `stopping`: its worker is notified, and it ends `failed`, code `cancelled`.
        """
        with translated():
            answer: Literal["cancelled", "stopping", "ended", "unknown"] = self._scripts.run(
                "cancel", job_id, self._ttl_us
            )
        if answer == "cancelled":
            self._log.ended([job_id])
        return answer

    def change_priority(self, job_ids: Collection[str], priority: QueuePriority) -> int:
        """Have waiting jobs join the queue of a priority. Return how many were in another one."""
        ids, changed = list(job_ids), 0
        for start in range(0, len(ids), _CHANGED_AT_ONCE):
            with translated():
                changed += int(self._scripts.run("change_priority", priority, *ids[start : start + _CHANGED_AT_ONCE]))
        return changed

    def waiting_count(self, caller: str) -> int:
        """Return the number of waiting jobs of a caller, unprepared ones included."""
        with translated():
            return int(cast("str | None", self._redis.hget(redis_keys.WAITING_COUNT, caller)) or 0)

    def call_disconnected(self, job_id: str, call: str) -> bool:
        """Record that a direct call disconnected before its answer. True: no call waits for the job any longer.

        For 30 seconds an equal call goes on with the job; then it ends `failed`, code `client_disconnected`, if it has
        not ended. A job with an Idempotency-Key goes on: its caller has said how it comes back.
        """
        with translated():
            return bool(self._scripts.run("call_disconnected", job_id, call))

    def call_heartbeat(self, calls: Collection[tuple[str, str]]) -> None:
        """Send a heartbeat for direct calls that wait, each the id of its job and the name of the call.

        Three seconds after its last heartbeat (a submit is the first) a call counts as disconnected.
        """
        with translated():
            self._scripts.run("call_heartbeat", *chain.from_iterable(calls))

    def call_answered(self, job_id: str, call: str) -> None:
        """Record that a direct call is answered with its completed job's images: no equal call gets them.

        At the end of the job a call whose heartbeats were missing, because Redis or its process did not answer,
        had counted as disconnected.
        """
        with translated():
            self._scripts.run("call_answered", job_id, call)

    def keep_after_call(self, job_id: str, call: str) -> None:
        """Record that a direct call was answered before its job's end: the job goes on without it.

        For 30 seconds an equal call goes on with the job, too.
        """
        with translated():
            self._scripts.run("keep_after_call", job_id, call)

    # What operators do

    def pause(self, group: Group | None = None) -> None:
        """Have no worker take jobs (of a group) until `resume`. Running jobs go on to their end, and new ones wait."""
        self._guard("pause")
        with translated():
            if group is None:
                self._redis.set(redis_keys.PAUSED, 1)
                return
            self._scripts.run("pause_group", group.kind, group.name)
            if group.kind == "caller":
                self._set_aside(group.name)

    def resume(self, group: Group | None = None) -> bool:
        """End a pause. False: it was not paused. The jobs of a caller return to their queues with the next `reap`."""
        with translated():
            if group is None:
                return bool(self._redis.delete(redis_keys.PAUSED))
            return bool(self._scripts.run("resume_group", group.kind, group.name, *_QUEUES))

    def _set_aside(self, caller: str) -> None:
        """Take the jobs of a paused caller out of the queues, so that no claim has to pass over them."""
        for name in _QUEUES:
            first, looked_at = 0, 1
            while looked_at:
                looked_at, moved = self._scripts.run("set_aside", caller, name, first, _SET_ASIDE_CHUNK)
                first += looked_at - moved

    def drain_worker(self, worker: str) -> bool:
        """Have a worker take no more jobs, and exit. False: no worker has this name."""
        with translated():
            return bool(self._scripts.run("drain_worker", worker))

    def is_draining(self, worker: str) -> bool:
        """Return True if this worker was told to drain."""
        with translated():
            return bool(self._redis.hexists(redis_keys.worker(worker), "draining"))

    # What preparers do

    def claim_unprepared(
        self, count: int, lease_seconds: float, *, not_of: Collection[str] = (), worker: str = ""
    ) -> list[Job]:
        """Lease up to `count` unprepared jobs for `lease_seconds`, in fair order of their callers.

        Each must be ended by `finish_preparation` or `fail_preparation`, or be renewed; else it comes again when its
        lease is over, without another such beside it. After five attempts it ends `failed`, code `preparation_failed`.
        While others wait, a caller has at most half of all preparations. The callers `not_of` get none, except those
        that another preparer lost. `worker` is the id of this process, whose exit ends the leases (`worker_died`).
        """
        with translated():
            ids, ended = self._scripts.run(
                "claim_unprepared", count, _us(lease_seconds), MAX_PREPARATION_ATTEMPTS, self._ttl_us, worker, *not_of
            )
            jobs = self._records(ids)
        self._log.ended(ended)
        return [job for job in jobs if job.state is State.CREATED]

    def renew_unprepared(self, job_ids: Collection[str], lease_seconds: float) -> None:
        """Renew a preparer's leases: they last so long from now on."""
        with translated():
            self._scripts.run("renew_unprepared", _us(lease_seconds), *job_ids)

    def release_unprepared(self, job_id: str) -> None:
        """Hand a job back unprepared, at the front of its queue; that attempt does not count."""
        with translated():
            self._scripts.run("release_unprepared", job_id)

    def finish_preparation(self, job_id: str, request: Request, *, origin: Origin = UNKNOWN_ORIGIN) -> bool:
        """Enqueue a prepared job for a GPU; the preparer then wakes a worker.

        False: it has ended, or another preparer was first: the inputs of this request belong to no job.
        """
        facts = (request.model, request.batch_key, request.cost, request.images)
        with translated():
            done = self._scripts.run("finish_preparation", job_id, request.model_dump_json(), redacted(request), *facts)
        if done:
            self._log.prepared(job_id, request, origin)
        return bool(done)

    def fail_preparation(self, job_id: str, code: str, error: str, *, cause: str = "") -> bool:
        """End a job that cannot be prepared. False: it has ended, or another preparer was first.

        `error` is for its caller, `cause` for the log only.
        """
        with translated():
            done = self._scripts.run("fail_preparation", job_id, code, error, self._ttl_us)
        if done:
            self._log.ended([job_id], cause=cause)
        return bool(done)

    # What workers do

    def claim(self, worker: str, models: Sequence[str], capacity: Capacity = WHOLE_BATCH, *, nonce: str = "") -> Claim:
        """Lease the next batch to `worker`. An empty batch marks the worker idle, unless it claims ahead.

        It is empty while the farm is paused, or the worker drains. A job with an affinity is reserved for a second for
        the idle worker that took its caller's last job with that affinity. A run that lasts longer than the terms allow
        is ended by `reap`: the job ends `failed`, code `render_timeout`, or, if it was not alone, comes back to be
        rendered alone, and that attempt does not count. A job that must be rendered alone is given only to a worker
        that holds no other.

        A call with the same `nonce` returns the same batch: a worker that got no answer repeats it.
        """
        nonce = nonce or uuid.uuid4().hex
        times = (_us(self._terms.lease_seconds), self._ttl_us, _us(self._terms.render_seconds))
        wanted = (capacity.images, capacity.batch_key, int(capacity.claims_ahead))
        held = [part for job in capacity.held for part in (job.id, job.fence)]
        with translated():
            reply = json.loads(self._scripts.run("claim", worker, nonce, *times, *wanted, len(models), *models, *held))
        claim = _claim_from(reply)
        self._log.ended(reply.get("ended", ()))
        self._log.claimed(claim.batch.jobs)
        return claim

    def renew(self, worker: str, facts: Mapping[str, str], held: Sequence[HeldJob]) -> list[str]:
        """Send a worker's heartbeat, and return the ids of jobs that it must stop rendering."""
        arguments = [item for job in held for item in (job.id, job.fence, job.step)]
        lease_us = _us(self._terms.lease_seconds)
        text = json.dumps({**facts, "jobs": str(len(held)), "lease_us": str(lease_us)})
        with translated():
            stop: list[str] = self._scripts.run("renew", worker, lease_us, text, *arguments)
        return stop

    def complete(self, job: Claimed, result: Result) -> bool:
        """Complete a job. False: the fence is stale or the job was cancelled, and its images belong to no job."""
        with translated():
            counts = [item for count in completion(job.request, result).items() for item in count]
            device_us = _us(result.timings.get(DEVICE, 0))
            usage = (round(computed_megapixel_steps(job.request, result) * MILLIONTHS), _us(self._terms.usage_seconds))
            text = result_text(result)
            outcome = self._scripts.run("complete", job.id, job.fence, text, self._ttl_us, device_us, *usage, *counts)
        if outcome == "completed":
            self._log.completed(job, result)
        else:
            self._log_end_of(job, outcome)
        return bool(outcome == "completed")

    def fail(self, job: Claimed, code: str, error: str, *, retry: Retry = "never", cause: str = "") -> State | None:
        """Fail a job, or have it tried again (`alone`: without the others of its batch). None: stale fence.

        `error` is for its caller, `cause` for the log only.
        """
        delay = _us(jittered(2 ** (job.attempt - 1), 0.5, 1.0))
        with translated():
            state = self._scripts.run(
                "fail", job.id, job.fence, code, error, retry, delay, self._terms.max_attempts, self._ttl_us
            )
        if state == State.CREATED:
            self._log.returned(job, code, cause=cause)
        else:
            self._log_end_of(job, state, exhausted=retry != "never", cause=cause)
        return None if state == "stale" else State(state)

    def release(self, job: Claimed) -> None:
        """Hand a job back unfinished; that attempt does not count."""
        with translated():
            state = self._scripts.run("release", job.id, job.fence, self._ttl_us)
        if state == State.CREATED:
            self._log.returned(job, DRAINED)
        else:
            self._log_end_of(job, state)

    def _log_end_of(self, job: Claimed, state: str, *, exhausted: bool = False, cause: str = "") -> None:
        """Log what became of a worker's job, if it is not the worker's any longer (`stale`) or has ended."""
        if state == "stale":
            self._log.lost(job)
        else:
            self._log.ended([job.id], exhausted=exhausted, cause=cause)

    def remove_worker(self, worker: str, models: Sequence[str]) -> None:
        """Remove a worker that exits."""
        with translated():
            self._scripts.run("remove_worker", worker, *models)

    # What every process does

    def reap(self) -> int:
        """Take back jobs of dead workers, end overdue ones, and enqueue delayed ones.

        Return the number of jobs taken back.
        """
        taken_back, more = 0, 1
        while more:
            with translated():
                count, more, ended, returned = self._scripts.run(
                    "reap",
                    int(self._cannot_judge()),
                    self._terms.max_attempts,
                    self._ttl_us,
                    _us(3 * self._terms.lease_seconds),
                    _us(self._terms.render_seconds),
                )
            taken_back += int(count)
            self._log.ended(ended)
            self._log_taken_back(returned)
        return taken_back

    def worker_died(self, worker: str) -> int:
        """Take back what a worker held whose process has exited, and return how many jobs, deliveries and bulks it was.

        Only for the process that has seen it exit: a worker that is merely silent is left to its leases. It counts
        just as a lost lease does. What the dead worker sent before, and Redis reads later, is given and keeps nothing.
        """
        with translated():
            count, ended, returned = self._scripts.run("worker_died", worker, self._terms.max_attempts, self._ttl_us)
        self._log.ended(ended)
        self._log_taken_back(returned)
        return int(count)

    def _log_taken_back(self, returned: Sequence[str]) -> None:
        """Log jobs that returned to their queues: id, reason, id, reason, …"""
        self._log.taken_back(dict(zip(returned[::2], returned[1::2], strict=True)))

    def _cannot_judge(self) -> bool:
        """Return True if leases look expired although their workers live and will renew them.

        This is so right after a start of Redis, and after its clock has leapt, as on a machine that slept.
        """
        server, lease = self._redis.info("server"), self._terms.lease_seconds
        now = clock.monotonic()
        ahead = float(server["server_time_usec"]) / 1e6 - now
        if ahead - self._ahead > lease:
            self._leapt_at = now
        self._ahead = ahead
        return float(server["uptime_in_seconds"]) < lease or now - self._leapt_at < lease

    def claim_expired(self, count: int = 100) -> list[str]:
        """Return ids of finished jobs whose retention is over and whose end was delivered.

        Jobs that are not deleted within a minute come again.
        """
        with translated():
            ids: list[str] = self._scripts.run("claim_expired", count, _us(_REMOVAL_SECONDS))
        return ids

    def records(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return those of these jobs that exist, by their ids."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hgetall(redis_keys.job(job_id))
            records = zip(job_ids, pipeline.execute(), strict=True)
        return {job_id: job_from(job_id, fields) for job_id, fields in records if fields}

    def delete(self, job_id: str) -> bool:
        """Delete a finished job. False: it has not ended."""
        return self._delete(job_id, "requested")

    def forget(self, job_id: str) -> bool:
        """Delete an expired job. False: its end has still to be delivered to a webhook."""
        return self._delete(job_id, "expired")

    def _delete(self, job_id: str, reason: str) -> bool:
        facts = self._log.read(job_id)
        with translated():
            done = self._scripts.run("delete", job_id, reason)
        if done and facts:
            self._log.deleted(facts, reason)
        return bool(done)

    def _page_of_range(self, caller: str, wanted: Search, skip: int, count: int) -> tuple[list[str], int]:
        index, oldest, newest = redis_keys.jobs_of(caller, wanted.dialect), *_bounds(wanted)
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zrevrangebyscore(index, newest, oldest, start=skip, num=count)
            pipeline.zcount(index, oldest, newest)
            ids, total = pipeline.execute()
        return ids, total

    def _matching(self, caller: str, wanted: Search) -> list[str]:
        """Return the ids of all wanted jobs, newest first. Their records are read: there is no index by state."""
        oldest, newest = _bounds(wanted)
        index = redis_keys.jobs_of(caller, wanted.dialect)
        ids = cast(list[str], self._redis.zrevrangebyscore(index, newest, oldest))
        matching: list[str] = []
        for start in range(0, len(ids), SEARCH_CHUNK):
            chunk = ids[start : start + SEARCH_CHUNK]
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in chunk:
                    pipeline.hmget(redis_keys.job(job_id), "state", "endpoint")
                facts = pipeline.execute()
            matching += [job_id for job_id, fact in zip(chunk, facts, strict=True) if wanted.matches(*fact)]
        return matching

    def _records(self, ids: Sequence[str]) -> list[Job]:
        """Return the jobs with these ids, without those that are gone."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hgetall(redis_keys.job(job_id))
            records = pipeline.execute()
        return [job_from(job_id, fields) for job_id, fields in zip(ids, records, strict=True) if fields]
