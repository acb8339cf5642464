"""Calls that are answered when their job has ended, and the bound on how many of them hold a thread at once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import flask

from api.peer import Peer
from farm import clock
from farm.callers import Caller
from farm.errors import StoreFull, StoreUnavailable, TooManyHeld
from farm.job import Job, Order, as_accepted
from farm.service import Service


class Held:
    """At most `most` calls wait at a time, each for at most `seconds`; one more is told to come back."""

    def __init__(self, service: Service, *, most: int, seconds: float) -> None:
        self._service = service
        self._free = threading.BoundedSemaphore(most)
        self._seconds = seconds

    def job(self, caller: Caller, order: Order) -> Job:
        """Submit `order`, and wait: its job when that has ended, or as it is when the time is up.

        Raises TooManyHeld, and what a submit raises; then there is no job. Once it is accepted, no error may tell the
        caller to come back later, which would make a second one: a job store that is away gives the job as it was
        accepted. Where an equal call hung up shortly before, this one goes on with that one's job. If this one hangs
        up, its job ends as `client_disconnected` unless the call comes again within 30 seconds.
        """
        with self._place():
            order = replace(order, call=str(uuid.uuid4()))
            job_id = self._service.submit(caller, order).id
            try:
                return self._end(caller, job_id, order.call)
            except (StoreUnavailable, StoreFull):
                return as_accepted(job_id, caller.id, order, at_us=clock.now_us())

    def _end(self, caller: Caller, job_id: str, call: str) -> Job:
        peer = Peer(flask.request.environ.get("gunicorn.socket"))
        job = self._service.wait(caller, job_id, seconds=self._seconds, give_up=peer.has_left)
        if peer.has_left():
            self._service.abandon(job_id, call)
        return job

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place for one call, taken before the job is submitted: who is refused has no job."""
        if not self._free.acquire(blocking=False):
            raise TooManyHeld
        try:
            yield
        finally:
            self._free.release()
