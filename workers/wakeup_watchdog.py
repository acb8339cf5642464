"""The watchdog of wake-ups: a worker whose Celery consumer is stuck, for whatever reason, exits and is restarted."""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog

from farm.process.child import EXIT_NO_WAKEUPS

#: Wake-ups are sent about once a second while jobs wait and workers are idle. After so many checks without one, none
#: will come. Time would tell less: a worker that was idle or frozen for hours has missed nothing.
_MAX_MISSED = 60

_log = structlog.get_logger(__name__)


class WakeupWatchdog:
    """Counts missed wake-ups, and ends the process after too many."""

    def __init__(self, waits: Callable[[], bool]) -> None:
        """Watch for wake-ups that are due whenever `waits` returns True."""
        self._waits = waits
        #: Checks in a row at which a wake-up was due since the one before.
        self._missed = 0
        self._is_working = False

    def watch(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return `work` as the answer to a wake-up, which is noted here."""

        def answer() -> None:
            self._is_working = True
            try:
                work()
            finally:
                self._missed = 0
                self._is_working = False

        return answer

    def check(self) -> None:
        """Count a missed wake-up: a periodic task. While the job store does not answer, nothing is counted."""
        waits = self._waits()
        # In this order: a wake-up may have come while the job store was asked.
        self._missed = self._missed + 1 if waits and not self._is_working else 0
        if self._missed > _MAX_MISSED:
            _log.critical("jobs wait, but no wake-up arrives; this worker exits")
            os._exit(EXIT_NO_WAKEUPS)
