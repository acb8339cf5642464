"""Calls that are answered when their job has ended, and the bound on how many of them hold a thread at once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import flask

from api.connections.client_connection import Peer
from farm import clock
from farm.auth.api_keys import Caller
from farm.concurrency.background_thread import BackgroundThread
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, StoreFull, StoreUnavailable
from farm.domain.job import Job, Order, as_accepted
from farm.service import Service

#: How often the job store is told which calls still wait, in seconds: several times before it believes them gone.
_HEARTBEAT_SECONDS = 1.0


class CallHeartbeat:
    """Tells the job store once a second which calls of this process wait for their jobs.

    So the jobs of a process that was killed are given up as those of callers who hung up.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: set[tuple[str, str]] = set()
        self._answered: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._thread = BackgroundThread("call heartbeat", self._beat, pause=lambda: _HEARTBEAT_SECONDS)

    @contextmanager
    def of(self, job_id: str, call: str) -> Iterator[None]:
        """Send heartbeats of this call meanwhile: it waits for the job."""
        with self._lock:
            if not self._thread.is_alive():
                self._thread.start()
            self._calls.add((job_id, call))
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard((job_id, call))

    def keep_after_call(self, job_id: str, call: str) -> None:
        """The call was told where its image will be; the job store hears of it now, or as soon as it listens."""
        try:
            self._service.keep_after_call(job_id, call)
        except (StoreUnavailable, StoreFull):
            with self._lock:
                self._answered.add((job_id, call))

    def _beat(self) -> None:
        with self._lock:
            waiting, answered = set(self._calls), set(self._answered)
        for call in answered:
            self._service.keep_after_call(*call)
            with self._lock:
                self._answered.discard(call)
        if waiting:
            self._service.call_heartbeat(waiting)


class HeldCalls:
    """At most `most` calls wait at a time, of them `most_of_one` of one caller; one more is told to come back.

    Each waits for at most `seconds`.
    """

    def __init__(self, service: Service, *, most: int, seconds: float, most_of_one: int | None = None) -> None:
        self._service = service
        self._heartbeat = CallHeartbeat(service)
        self._slots = Slots(most, per_key=most_of_one)
        self._seconds = seconds

    def job(self, caller: Caller, order: Order) -> Job:
        """Submit `order`, and wait: its job when that has ended, or as it is when the time is up.

        Raises ConcurrencyLimitReached, and what a submit raises; then there is no job. Once it is accepted, no error
        may tell the caller to retry, which would make a second job: where the job store is away, the job is returned as
        it was accepted. Where an equal call disconnected shortly before, this one goes on with the job of that call. If
        this one disconnects, or this process dies, its job ends as `client_disconnected` unless the call is repeated
        within 30 seconds.
        """
        # Taken before the job is submitted: a call that is refused has no job.
        with self._slots.held(caller.id, refusal=ConcurrencyLimitReached()):
            order = replace(order, call=str(uuid.uuid4()))
            job_id = self._service.submit(caller, order).id
            has_left = False
            try:
                with self._heartbeat.of(job_id, order.call):
                    job, has_left = self._wait(caller, job_id)
                if has_left:
                    self._service.call_disconnected(job_id, order.call)
            except (StoreUnavailable, StoreFull):
                job = as_accepted(job_id, caller.id, order, at_us=clock.now_us())
            if not (has_left or job.state.is_terminal):
                self._heartbeat.keep_after_call(job_id, order.call)
            return job

    def _wait(self, caller: Caller, job_id: str) -> tuple[Job, bool]:
        """The job when the wait is over, and whether its caller has hung up."""
        peer = Peer(flask.request.environ.get("gunicorn.socket"))
        job = self._service.wait(caller, job_id, seconds=self._seconds, give_up=peer.has_left)
        return job, peer.has_left()
