"""Job operations for callers of every dialect: submit, get, list, wait, cancel, delete."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from farm import clock
from farm.auth.api_keys import LOCAL, Caller
from farm.celery import WakeUps
from farm.dialects import registry
from farm.domain.catalogue import MAX_RANDOM_SEED, MODELS, Model, find
from farm.domain.errors import (
    InvalidRequest,
    ModelNotServed,
    NotFinished,
    NotFound,
    NotReady,
    NotRetryable,
    Problem,
    StoreUnavailable,
    UnknownModel,
)
from farm.domain.job import Job, Moment, NewJob, Order, Run, Search, State, as_accepted
from farm.domain.pause import Group
from farm.domain.preview import Preview
from farm.domain.request import Request
from farm.images.intake import CheckedSource, Intake, with_sources
from farm.jobstore.event_feed import EventFeed, FeedPage
from farm.jobstore.notifications import JobChanges
from farm.jobstore.stats import Served, StoreStats
from farm.jobstore.store import Accepted, JobStore
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.storage import Storage
from farm.tracing import tracer
from farm.tracing.span import Fact
from farm.webhooks.url_check import check

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: How long what workers announced is cached, in seconds.
_SERVED_SECONDS = 1.0
#: How long a watcher relies on notifications before it looks into the record, in seconds.
_LOOK_SECONDS = 1.0
#: Seconds between checks that the caller of a blocking call still waits: libraries repeat a call 0.4 s after a timeout.
_GIVE_UP_SECONDS = 0.25

#: How every error about the missing checker says what is the matter, and what its operator can do.
_NO_CHECKER = "this farm runs without a safety checker (FARM_SAFETY=off)"
_OPERATOR_MUST = "Its operator must set FARM_SAFETY to a checker"

#: Most workers that are woken for one job.
_MAX_WAKE_UPS = 16


def random_seed() -> int:
    """Draw the seed of a request without one: 1 … 2³¹−4."""
    return 1 + secrets.randbelow(MAX_RANDOM_SEED)


@contextmanager
def traced(new: NewJob) -> Iterator[NewJob]:
    """Yield the job with the trace context that its record has: that of a span of this submit, if spans are recorded.

    Otherwise it is the caller's own, and goes along to the webhooks.
    """
    if not tracer.is_on():
        yield new
        return
    order = new.order
    facts: dict[str, Fact] = {
        "job": new.id,
        "model": order.request.model,
        "images": order.request.images,
        "dialect": order.dialect,
        "priority": order.priority,
        "request_id": new.origin.request_id,
    }
    with tracer.start("submit job", new.origin.traceparent, facts, kind="server") as span:
        yield new.in_trace(span.traceparent)


def _differs(job: Job, seen: Job) -> bool:
    """Return True if the job has changed since it was seen, in a way that watchers are told of."""
    return (job.sequence, job.step) != (seen.sequence, seen.step)


class Service:
    """The application service behind all routes."""

    def __init__(
        self,
        store: JobStore,
        *,
        stats: StoreStats,
        storage: Storage,
        wake_ups: WakeUps,
        intake: Intake,
        changes: JobChanges | None,
        feed: EventFeed | None,
        outbound: SsrfSafeClient,
        aliases: Mapping[str, str] | None = None,
        expected: Mapping[str, Served] | None = None,
    ) -> None:
        """Build the service. `expected`: models that workers will bring, which count as served before that."""
        self._store = store
        self._stats = stats
        self._storage = storage
        self._wake_ups = wake_ups
        self._intake = intake
        self._changes = changes
        self._feed = feed
        self._outbound = outbound
        self._aliases = aliases or {}
        self._expected = expected or {}
        self._served: tuple[float, dict[str, Served]] = (-_SERVED_SECONDS, {})

    def model(self, endpoint: str, dialect: str = "native") -> Model:
        """Return the model with this id or alias. Raises UnknownModel, NotReady, or ModelNotServed with what is served.

        `dialect`: where its images are always checked, a farm without a checker does not serve it.
        """
        model = find(self.target(endpoint))
        if model is None:
            raise UnknownModel(f"No model has the id '{endpoint}'. {self._what_is_served()}")
        served = self.served()
        if not served:
            raise NotReady
        if model.name not in served:
            raise ModelNotServed(f"No worker of this farm has '{endpoint}' loaded. {self._what_is_served()}")
        if not self.offers(model, dialect):
            message = f"The images of '{endpoint}' are always checked, but {_NO_CHECKER}. {_OPERATOR_MUST}."
            raise ModelNotServed(f"{message} {self._what_is_served()}")
        return model

    def target(self, model_id: str) -> str:
        """Return the model id that an alias stands for, and any other id as it is."""
        return self._aliases.get(model_id, model_id)

    def aliases(self, model: Model) -> tuple[str, ...]:
        """Return the model's aliases on this farm."""
        return tuple(alias for alias, model_id in self._aliases.items() if find(model_id) is model)

    def offers(self, model: Model, dialect: str = "native") -> bool:
        """Return True if the model is served to callers of this dialect."""
        served = self.served().get(model.name)
        return served is not None and not (served.safety == "off" and model.always_checked_in(dialect))

    def ids(self, model: Model) -> tuple[str, ...]:
        """Return every id by which callers may name the model: its own in each dialect that serves it, and aliases."""
        hidden = {
            model_id
            for dialect, ids in model.ids_of.items()
            for model_id in ids
            if self.offers(model) and not self.offers(model, dialect)
        }
        return (*(model_id for model_id in model.ids if model_id not in hidden), *self.aliases(model))

    def submit(self, caller: Caller, order: Order) -> Accepted:
        """Record a job and wake a worker for it. When this returns, the job is durable."""
        return self.submit_new(
            caller, NewJob(str(uuid.uuid4()), caller.id, order, base=caller.base, origin=caller.origin)
        )

    def submit_new(self, caller: Caller, new: NewJob) -> Accepted:
        """Record a job under an id of its own, and do nothing if there is one already. Raises what `submit` raises."""
        with traced(new) as job:
            return self._submit(caller, job)

    def _submit(self, caller: Caller, new: NewJob) -> Accepted:
        images = self._checked(new.order, caller)
        if not images:
            return self._recorded(new, caller)
        with self._intake.stored(new.id, images) as sources:
            accepted = self._recorded(replace(new, order=with_sources(new.order, sources)), caller)
        if accepted.repeated:
            self._intake.forget(new.id)
        return accepted

    def submit_and_get(self, caller: Caller, order: Order) -> Job:
        """Submit an order and return its job.

        After the job is accepted, no error may make the caller retry, which would create a second job: if the job store
        fails then, the job is returned as it was accepted.
        """
        job_id = self.submit(caller, order).id
        try:
            return self.get(caller, job_id)
        except StoreUnavailable:
            return as_accepted(job_id, caller.id, order, at_us=clock.now_us())

    def retry(self, caller: Caller, job_id: str) -> Accepted:
        """Retry a failed job: submit a new job of the same caller, with the same request and conditions.

        Retrying the same job again returns the same new job, as long as that exists. Raises NotRetryable, and what
        `submit` raises.
        """
        failed = self.get(caller, job_id)
        order = self._order_of(failed)
        new = NewJob(
            str(uuid.uuid4()), failed.caller, order, retry_of=failed.id, base=caller.base, origin=caller.origin
        )
        with traced(new) as new, self._intake.copied(new.id, failed) as request:
            accepted = self._recorded(replace(new, order=replace(order, request=request)), caller)
        if accepted.repeated:
            self._intake.forget(new.id)
        return accepted

    def _order_of(self, failed: Job) -> Order:
        if failed.state is not State.FAILED:
            raise NotRetryable(f"The job is {failed.state}; only failed jobs can be retried.")
        if not failed.request.prompt:
            raise NotRetryable("The job's request was deleted when it ended, as its caller asked; submit it again.")
        self.model(failed.endpoint, failed.dialect)
        order = Order(
            failed.endpoint,
            failed.request,
            failed.priority,
            dialect=failed.dialect,
            webhook=failed.webhook,
            inline=failed.inline,
            conditions=self._store.conditions(failed.id),
        )
        self._checked(order, LOCAL)
        return order

    def get(self, caller: Caller, job_id: str) -> Job:
        """Return a job. Raises NotFound, also for another caller's job: the two must look alike."""
        job = self._store.get(job_id) if _UUID.fullmatch(job_id) else None
        if job is None or not (caller.is_admin or job.caller == caller.id):
            raise NotFound(f"No job has the id '{job_id}'.")
        return job

    def runs(self, job: Job) -> list[Run]:
        """Return the job's last runs, in order."""
        return self._store.runs(job.id)

    def position(self, job: Job) -> int:
        """Return how many jobs are before this one in its queue; 0 if it does not wait."""
        return self._store.position(job) or 0

    def waiting(self, model: Model) -> int:
        """Return how many jobs of all callers wait for this model, unprepared ones included."""
        return self._stats.waiting([model.name]) + self._stats.unprepared([model.name])

    def page(self, caller: Caller, *, before_us: int | None, count: int, owner: str | None = None) -> list[Job]:
        """List the caller's jobs, newest first; for an admin, those of `owner`, or of all callers."""
        return self._store.page(owner if caller.is_admin else caller.id, before_us=before_us, count=count)

    def search(self, caller: Caller, wanted: Search, *, skip: int, count: int) -> tuple[list[Job], int]:
        """Search the caller's own jobs, newest first (an admin's, too); return a page and the number of matches."""
        return self._store.search(caller.id, wanted, skip=skip, count=count)

    def cancel(self, caller: Caller, job_id: str) -> Literal["cancelled", "stopping", "ended"]:
        """Cancel a job. Raises NotFound.

        Returns `cancelled` if it never started, `stopping` if it will end `failed` with the code `cancelled`, and
        `ended` if it had ended before.
        """
        outcome = self._store.cancel(self.get(caller, job_id).id)
        if outcome == "unknown":  # deleted since it was read
            raise NotFound(f"No job has the id '{job_id}'.")
        return outcome

    def delete(self, caller: Caller, job_id: str) -> None:
        """Delete a finished job's images and record. Raises NotFinished."""
        job = self.get(caller, job_id)
        if not job.state.is_terminal:
            raise NotFinished
        self._storage.delete_job(job.id)
        self._store.delete(job.id)

    def watch(self, caller: Caller, job_id: str, *, idle_seconds: float) -> Iterator[Job | None]:
        """Yield the job now and after each change until it has ended; None after `idle_seconds` without a change."""
        for seen in self.watch_with_previews(caller, [job_id], idle_seconds=idle_seconds, previews=False):
            assert not isinstance(seen, tuple)
            yield seen

    def watch_with_previews(
        self, caller: Caller, job_ids: Collection[str], *, idle_seconds: float, previews: bool = True
    ) -> Iterator[Job | tuple[str, Preview] | None]:
        """Yield what `watch` does, of several jobs until all have ended, and previews with their job's id."""
        assert self._changes is not None, "this process does not listen for changes"
        if previews:
            self._get_all(caller, job_ids)  # workers take previews for all who listen: a stranger may not even listen
        with self._changes.of(*job_ids, with_previews=previews) as changed:
            jobs = self._get_all(caller, job_ids)
            yield from jobs.values()
            quiet_since = look_at = clock.monotonic()
            while open_ids := {job.id for job in jobs.values() if not job.state.is_terminal}:
                changed.wait(_LOOK_SECONDS)
                changed.clear()
                yield from changed.take_previews()
                if clock.monotonic() >= look_at:
                    look_at = clock.monotonic() + _LOOK_SECONDS
                else:
                    open_ids &= changed.take_changed()
                news = [job for job in self._get_all(caller, open_ids).values() if _differs(job, jobs[job.id])]
                jobs |= {job.id: job for job in news}
                yield from news
                if news:
                    quiet_since = clock.monotonic()
                elif clock.monotonic() - quiet_since >= idle_seconds:
                    quiet_since = clock.monotonic()
                    yield None

    def _get_all(self, caller: Caller, job_ids: Collection[str]) -> dict[str, Job]:
        return {job_id: self.get(caller, job_id) for job_id in job_ids}

    def follow(self, caller: Caller, after: Moment | None, *, idle_seconds: float) -> Iterator[FeedPage]:
        """Yield changes of the caller's jobs (an admin's: all jobs) after a moment (None: from now on), endlessly."""
        assert self._feed is not None, "this process does not listen for changes"
        return self._feed.follow(after, caller=None if caller.is_admin else caller.id, idle_seconds=idle_seconds)

    def wait(self, caller: Caller, job_id: str, *, seconds: float, give_up: Callable[[], bool]) -> Job:
        """Wait until the job has ended, for `seconds`, or until `give_up`, polled meanwhile, returns True."""
        assert self._changes is not None, "this process does not listen for changes"
        until = clock.monotonic() + seconds
        look_at = min(until, clock.monotonic() + _LOOK_SECONDS)
        with self._changes.of(job_id) as changed:
            job = self.get(caller, job_id)
            while not job.state.is_terminal and (left := until - clock.monotonic()) > 0 and not give_up():
                if changed.wait(min(_GIVE_UP_SECONDS, left)) or clock.monotonic() >= look_at:
                    changed.clear()
                    look_at = min(until, clock.monotonic() + _LOOK_SECONDS)
                    job = self.get(caller, job_id)
            return job

    def call_disconnected(self, job_id: str, call: str) -> None:
        """Record that a direct call disconnected: its job ends unless an equal call arrives within 30 seconds."""
        self._store.call_disconnected(job_id, call)

    def call_heartbeat(self, calls: Collection[tuple[str, str]]) -> None:
        """Record that these direct calls, pairs of job id and call id, still wait. Due once a second."""
        self._store.call_heartbeat(calls)

    def call_answered(self, job_id: str, call: str) -> None:
        """Record that a direct call is answered with its job's images."""
        self._store.call_answered(job_id, call)

    def keep_after_call(self, job_id: str, call: str) -> None:
        """Keep the job of a direct call that was answered with the URL of its future image."""
        self._store.keep_after_call(job_id, call)

    def pause(self, group: Group | None = None) -> None:
        """Pause the farm, or a group of jobs: workers claim none, and submitted ones wait."""
        self._store.pause(group)

    def resume(self, group: Group | None = None) -> None:
        """Resume the farm, or a group of jobs."""
        self._store.resume(group)
        self.reap()

    def drain(self, worker: str) -> None:
        """Drain a worker: it claims no further jobs, and exits. Raises NotFound."""
        if not self._store.drain_worker(worker):
            raise NotFound(f"No worker has the id '{worker}'.")

    def served(self) -> dict[str, Served]:
        """Return what workers serve, or will serve, by model."""
        read_at, served = self._served
        if clock.monotonic() - read_at >= _SERVED_SECONDS:
            served = {**self._expected, **self._stats.served()}
            self._served = (clock.monotonic(), served)
        return served

    def reap(self) -> None:
        """Reclaim jobs of dead workers, and wake idle workers for waiting jobs. Any process may do so."""
        self._store.reap()
        idle = self._stats.idle_workers()
        if idle:
            self._wake_ups.send(min(idle, self._stats.startable()))

    def has_idempotency_key(self, caller: Caller, idempotency_key: str) -> bool:
        """Return True if the caller has a job with this Idempotency-Key."""
        return self._store.has_idempotency_key(caller.id, idempotency_key)

    def _recorded(self, new: NewJob, caller: Caller) -> Accepted:
        accepted = self._store.submit(new, caller.limits, memory_is_shared=caller.id != LOCAL.id)
        caller.report_quotas(accepted.quotas)
        # A wake-up may reach any worker. With an affinity, all are woken, so that the preferred one looks, too.
        wanted = _MAX_WAKE_UPS if new.order.conditions.runner_hint else 1
        self._wake_ups.send(min(wanted, accepted.idle_workers))
        return accepted

    def _checked(self, order: Order, caller: Caller) -> list[CheckedSource]:
        """Check the order and its images. Raises InvalidRequest with everything that is wrong, or ClientGone."""
        problems = self._problems(order.request)
        checked: list[CheckedSource] = []
        try:
            checked = self._intake.examine(order.sources, caller.base, has_disconnected=caller.has_disconnected)
        except InvalidRequest as error:
            problems += error.problems
        if order.webhook:
            try:
                check(self._outbound, registry.by_name(order.dialect).webhook_field, order.webhook.url)
            except InvalidRequest as error:
                problems += error.problems
        if problems:
            raise InvalidRequest(problems)
        return checked

    def _problems(self, request: Request) -> list[Problem]:
        """Return the problems of a request that this farm's workers cannot fulfil."""
        problems = []
        served = self.served().get(request.model)
        if request.safety and served and served.safety == "off":
            problems.append(
                Problem(
                    "enable_safety_checker",
                    f"{_NO_CHECKER}; allowed: false. {_OPERATOR_MUST} for checked images",
                    "feature_not_supported",
                    True,
                )
            )
        return problems

    def _what_is_served(self) -> str:
        ids = [model_id for model in MODELS if self.offers(model) for model_id in self.ids(model)]
        return f"Served here: {', '.join(ids) or 'nothing yet'}."
