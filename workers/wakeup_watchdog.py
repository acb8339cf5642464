"""Whether wake-ups still reach this worker. A consumer that is stuck, for whatever reason, is worth a new process."""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog

from farm.process.child import EXIT_NO_WAKEUPS

#: The reaper rings about once a second while something waits and workers stand idle. After so many seconds, as many
#: looks, nothing will come. Time would tell less: a worker that was idle or frozen for hours has missed nothing.
_MAX_MISSED = 60

_log = structlog.get_logger(__name__)


class WakeupWatchdog:
    """Knows how long something has waited for this worker, idle, without a wake-up; ends the process in the end."""

    def __init__(self, waits: Callable[[], bool]) -> None:
        """`waits`: whether there is anything for which this worker is rung."""
        self._waits = waits
        #: Looks in a row at which a wake-up should have come since the one before.
        self._missed = 0
        self._is_working = False

    def watch(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, as an answer to a wake-up."""

        def answer() -> None:
            self._is_working = True
            try:
                work()
            finally:
                self._missed = 0
                self._is_working = False

        return answer

    def check(self) -> None:
        """Look, about once a second. While the job store does not answer, nobody rings, and nothing is counted."""
        waits = self._waits()
        # In this order: a wake-up may have come while the job store was asked.
        self._missed = self._missed + 1 if waits and not self._is_working else 0
        if self._missed > _MAX_MISSED:
            _log.critical("something waits, but no wake-up arrives; this worker leaves")
            os._exit(EXIT_NO_WAKEUPS)
