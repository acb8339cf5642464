"""Blocking calls, which are answered when their job has ended, and the limit on how many hold a thread at a time."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import flask

from api.connections.client_connection import ClientConnection
from farm import clock
from farm.auth.api_keys import Caller
from farm.concurrency.background_thread import BackgroundThread
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, StoreFull, StoreUnavailable
from farm.domain.job import Job, Order, State, as_accepted
from farm.service import Service

#: Seconds between heartbeats: several fit into the time after which the job store takes a call for disconnected.
_HEARTBEAT_SECONDS = 1.0


#: The dialect of a blocking call in its WSGI environment.
HELD_BY = "farm.held_by"


class CallHeartbeat:
    """Heartbeats of this process's blocking calls: once a second, the job store is told which wait for their jobs.

    So the jobs of a process that was killed end like those of callers that disconnected.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: dict[tuple[str, str], ClientConnection] = {}
        self._unreported: dict[tuple[str, str], Callable[[str, str], None]] = {}
        self._lock = threading.Lock()
        self._thread: BackgroundThread | None = None

    def start(self) -> None:
        """Start the thread that sends the heartbeats, unless it runs. To be called before there is a job to lose."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = BackgroundThread("call heartbeat", self._beat, pause=lambda: _HEARTBEAT_SECONDS)
                self._thread.start()

    @contextmanager
    def of(self, job_id: str, call: str, client: ClientConnection) -> Iterator[None]:
        """Send heartbeats of this call of `client` meanwhile: it waits for the job."""
        with self._lock:
            self._calls[job_id, call] = client
        try:
            yield
        finally:
            with self._lock:
                del self._calls[job_id, call]

    def report_disconnected(self) -> None:
        """Tell the job store which of these calls have disconnected, before their own threads notice it.

        A client that has just hung up may be the one that calls again now.
        """
        with self._lock:
            disconnected = [call for call, client in self._calls.items() if client.has_disconnected()]
        for job_id, call in disconnected:
            self._service.call_disconnected(job_id, call)

    def report_answer(self, job_id: str, call: str, *, with_images: bool) -> None:
        """Tell the job store how the call is answered, with its job's images or URL: now, or once the store answers."""
        report = self._service.call_answered if with_images else self._service.keep_after_call
        try:
            report(job_id, call)
        except (StoreUnavailable, StoreFull):
            with self._lock:
                self._unreported[job_id, call] = report

    def _beat(self) -> None:
        with self._lock:
            waiting, unreported = set(self._calls), dict(self._unreported)
        for call, report in unreported.items():
            report(*call)
            with self._lock:
                del self._unreported[call]
        if waiting:
            self._service.call_heartbeat(waiting)


class HeldCalls:
    """At most `max_calls` blocking calls wait at a time, of one caller at most `per_caller`; others are refused.

    Each waits for at most `seconds`.
    """

    def __init__(self, service: Service, *, max_calls: int, seconds: float, per_caller: int | None = None) -> None:
        self._service = service
        self._heartbeat = CallHeartbeat(service)
        self._slots = Slots(max_calls, per_key=per_caller)
        self._seconds = seconds
        self.max_calls = max_calls

    @property
    def count(self) -> int:
        """The number of calls that wait."""
        return self.max_calls - self._slots.free

    def job(self, caller: Caller, order: Order) -> Job:
        """Submit `order`, and return its job when that has ended, or as it is when the time is up.

        Raises ConcurrencyLimitReached, and what a submit raises; then there is no job. Once it is accepted, no error
        may tell the caller to retry, which would make a second job: where the job store is away, the job is returned as
        it was accepted. Where an equal call disconnected shortly before, or was answered before its job's end, this one
        goes on with the job of that call. If this one disconnects, or this process dies, its job ends as
        `client_disconnected` unless the call is repeated within 30 seconds.
        """
        # The slot is taken first: a call that is refused has no job.
        with self._slots.held(caller.id, refusal=ConcurrencyLimitReached()):
            flask.request.environ[HELD_BY] = order.dialect
            order = replace(order, call=str(uuid.uuid4()))
            self._heartbeat.start()
            self._heartbeat.report_disconnected()
            job_id = self._service.submit(caller, order).id
            client, has_disconnected = ClientConnection.of(flask.request.environ), False
            try:
                with self._heartbeat.of(job_id, order.call, client):
                    job = self._service.wait(caller, job_id, seconds=self._seconds, give_up=client.has_disconnected)
                    has_disconnected = client.has_disconnected()
                if has_disconnected:
                    self._service.call_disconnected(job_id, order.call)
            except (StoreUnavailable, StoreFull):
                job = as_accepted(job_id, caller.id, order, at_us=clock.now_us())
            if not (has_disconnected or job.state is State.FAILED):
                self._heartbeat.report_answer(job_id, order.call, with_images=job.state is State.COMPLETED)
            return job
