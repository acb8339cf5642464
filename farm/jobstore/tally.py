"""Reports of one process about itself, which no script can make: counts, such as refused calls, and storage errors."""

from __future__ import annotations

import threading
import uuid

import redis

from farm import clock
from farm.domain.measures import Counts
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.scripts import Scripts
from farm.jobstore.storage_errors import StorageErrors

#: How often a process adds its counts, in seconds. If it is killed, what it has counted since is lost.
FLUSH_SECONDS = 5.0


class Tally:
    """Counts, and adds them to the totals once, although a call whose answer was lost is repeated. Thread-safe."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard) -> None:
        self._scripts = Scripts(client, guard)
        self.storage_errors = StorageErrors(client, guard)
        self._process = uuid.uuid4().hex
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._counts = Counts()
        #: What is being added, and the number of this addition.
        self._pending = Counts()
        self._number = 0
        self._flushed_at = clock.monotonic()

    def add(self, name: str, *labels: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts.add(name, *labels)

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Count a value of a histogram."""
        with self._lock:
            self._counts.observe(name, *labels, value=value)

    def flush_when_due(self) -> None:
        """Add the counts to the job store's totals every few seconds: a periodic task."""
        if clock.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self._flushed_at = clock.monotonic()
            self.flush()

    def flush(self) -> None:
        """Tell of errors, and add the counts to the totals. If Redis does not answer, they are added next time."""
        self.storage_errors.flush()
        with self._flushing:
            if not self._pending:
                self._begin_addition()
            if self._pending:
                counts = [item for count in self._pending.items() for item in count]
                with translated():
                    self._scripts.run("add_counts", self._process, self._number, *counts)
                self._pending = Counts()

    def _begin_addition(self) -> None:
        with self._lock:
            self._pending, self._counts = self._counts, Counts()
        self._number += 1
