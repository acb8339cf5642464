"""The thread in which a process runs its periodic tasks: reaping, sweeping, heartbeats, watchdogs."""

from __future__ import annotations

from collections.abc import Callable

from farm.concurrency.background_thread import BackgroundThread
from farm.concurrency.retry import jittered

#: Seconds between two rounds, before jitter.
_INTERVAL_SECONDS = 1.0


class PeriodicThread(BackgroundThread):
    """Runs its tasks in turn about once a second. One that fails does not keep the others from running.

    Many processes may run the same task: the jitter spreads them out, and the first to come does the work.
    """

    def __init__(self, *tasks: Callable[[], None]) -> None:
        super().__init__("periodic", self._run_tasks, pause=lambda: jittered(_INTERVAL_SECONDS, 0.7, 1.3))
        self._tasks = tasks

    def _run_tasks(self) -> None:
        for task in self._tasks:
            self.attempt(task)
