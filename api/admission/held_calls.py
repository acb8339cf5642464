"""Calls that are answered when their job has ended, and the bound on how many of them hold a thread at once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import flask
import structlog

from api.admission.slots import CallerSlots
from api.connections.client_connection import Peer
from farm import clock
from farm.auth.api_keys import Caller
from farm.domain.errors import FarmError, StoreFull, StoreUnavailable, TooManyHeld
from farm.domain.job import Job, Order, as_accepted
from farm.service import Service

#: How often the job store is told which calls still wait, in seconds: several times before it believes them gone.
_SIGN_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class CallHeartbeat:
    """Tells the job store once a second which calls wait, all of this process's at once, from a thread of its own.

    So the jobs of a process that was killed are given up as those of callers who hung up.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: set[tuple[str, str]] = set()
        self._answered: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)

    @contextmanager
    def of(self, job_id: str, call: str) -> Iterator[None]:
        """The call waits for the job meanwhile."""
        with self._changed:
            if not self._thread.ident:
                self._thread.start()
            self._calls.add((job_id, call))
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._calls.discard((job_id, call))

    def let_be(self, job_id: str, call: str) -> None:
        """The call was told where its picture will be; the job store hears of it now, or as soon as it listens."""
        try:
            self._service.let_be(job_id, call)
        except (StoreUnavailable, StoreFull):
            with self._changed:
                self._answered.add((job_id, call))
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._answered)
                waiting, answered = set(self._calls), set(self._answered)
            try:
                self._tell(waiting, answered)
            except FarmError as error:
                _log.warning("the job store was not told who waits", error=str(error))
            clock.pause(_SIGN_SECONDS)

    def _tell(self, waiting: set[tuple[str, str]], answered: set[tuple[str, str]]) -> None:
        for call in answered:
            self._service.let_be(*call)
            with self._changed:
                self._answered.discard(call)
        if waiting:
            self._service.hold_calls(waiting)


class HeldCalls:
    """At most `most` calls wait at a time, of them `most_of_one` of one caller; one more is told to come back.

    Each waits for at most `seconds`.
    """

    def __init__(self, service: Service, *, most: int, seconds: float, most_of_one: int | None = None) -> None:
        self._service = service
        self._signs = CallHeartbeat(service)
        self._places = CallerSlots(most, most_of_one)
        self._seconds = seconds

    def job(self, caller: Caller, order: Order) -> Job:
        """Submit `order`, and wait: its job when that has ended, or as it is when the time is up.

        Raises TooManyHeld, and what a submit raises; then there is no job. Once it is accepted, no error may tell the
        caller to come back later, which would make a second one: a job store that is away gives the job as it was
        accepted. Where an equal call hung up shortly before, this one goes on with that one's job. If this one hangs
        up, or this process dies, its job ends as `client_disconnected` unless the call comes again within 30 seconds.
        """
        with self._place(caller):
            order = replace(order, call=str(uuid.uuid4()))
            job_id = self._service.submit(caller, order).id
            has_left = False
            try:
                with self._signs.of(job_id, order.call):
                    job, has_left = self._wait(caller, job_id)
                if has_left:
                    self._service.abandon(job_id, order.call)
            except (StoreUnavailable, StoreFull):
                job = as_accepted(job_id, caller.id, order, at_us=clock.now_us())
            if not (has_left or job.state.is_terminal):
                self._signs.let_be(job_id, order.call)
            return job

    def _wait(self, caller: Caller, job_id: str) -> tuple[Job, bool]:
        """The job when the wait is over, and whether its caller has hung up."""
        peer = Peer(flask.request.environ.get("gunicorn.socket"))
        job = self._service.wait(caller, job_id, seconds=self._seconds, give_up=peer.has_left)
        return job, peer.has_left()

    @contextmanager
    def _place(self, caller: Caller) -> Iterator[None]:
        """A place for one call, taken before the job is submitted: who is refused has no job."""
        if not self._places.take(caller.id):
            raise TooManyHeld
        try:
            yield
        finally:
            self._places.give_back(caller.id)
