"""Calls that are answered when their job has ended, and the bound on how many of them hold a thread at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import flask

from api.peer import Peer
from farm.callers import Caller
from farm.errors import TooManyHeld
from farm.job import Job
from farm.service import Service


class Held:
    """At most `most` calls wait at a time, each for at most `seconds`; one more is told to come back."""

    def __init__(self, service: Service, *, most: int, seconds: float) -> None:
        self._service = service
        self._free = threading.BoundedSemaphore(most)
        self._seconds = seconds

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one call. Take it before the job is submitted: who is refused has no job. Raises TooManyHeld."""
        if not self._free.acquire(blocking=False):
            raise TooManyHeld
        try:
            yield
        finally:
            self._free.release()

    def wait(self, caller: Caller, job_id: str) -> Job:
        """The job when it has ended, or as it is when the time is up, or when nobody waits for the answer any more."""
        peer = Peer(flask.request.environ.get("gunicorn.socket"))
        return self._service.wait(caller, job_id, seconds=self._seconds, give_up=peer.has_left)
