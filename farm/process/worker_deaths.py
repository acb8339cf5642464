"""Tells the job store at once that a worker's process has exited: its jobs need not wait for their leases to end.

Only the process that started a worker may do so: it sees the exit itself. A worker that is merely slow or stopped has
not exited, and one of another machine is left to its leases.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import structlog

from farm.concurrency.background_thread import BackgroundThread

#: Pause between two tries to tell, while the job store is away, in seconds.
_RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


def worker_id(pid: int, token: str) -> str:
    """Return the id of a worker: no other process has it, although pids and the names of containers recur."""
    return f"{socket.gethostname()}-{pid}-{token}"


class WorkerDeaths:
    """Reports dead workers from a thread of its own: who sees them exit never waits for the job store."""

    def __init__(self, report: Callable[[str], int]) -> None:
        """`report` takes back the jobs of the worker with this id, and returns how many they were."""
        self._report = report
        self._unreported: list[str] = []
        self._thread = BackgroundThread("worker deaths", self._report_all, pause=self._pause)
        self._thread.start()

    def add(self, worker: str) -> None:
        """Report that the process of this worker has exited."""
        self._unreported.append(worker)
        self._thread.wake()

    def close(self) -> None:
        """Report what is left, once more, if anything, and end."""
        self._thread.close()
        self._thread.attempt(self._report_all)

    def _report_all(self) -> None:
        for worker in tuple(self._unreported):
            jobs = self._report(worker)
            self._unreported.remove(worker)
            _log.info("dead worker reported", worker=worker, jobs_taken_back=jobs)

    def _pause(self) -> float | None:
        return _RETRY_SECONDS if self._unreported else None
