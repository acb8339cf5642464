"""Whether wake-ups still reach this worker. A consumer that is stuck, for whatever reason, is worth a new process."""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog

from farm import clock
from farm.lifeline import DEAF

#: The reaper rings about once a second while something waits and workers stand idle; after so long, nothing will come.
_SILENCE_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class Hearing:
    """Knows when this worker, idle, last heard a wake-up; ends the process where it should have heard one."""

    def __init__(self, waits: Callable[[], bool]) -> None:
        """`waits`: whether there is anything for which this worker is rung."""
        self._waits = waits
        self._heard_at = clock.monotonic()
        self._is_working = False

    def hear(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, as an answer to a wake-up."""

        def answer() -> None:
            self._is_working = True
            try:
                work()
            finally:
                self._heard_at = clock.monotonic()
                self._is_working = False

        return answer

    def check(self) -> None:
        """For a thread that does so now and then."""
        if self.is_lost():
            _log.critical("something waits, but no wake-up arrives; this worker leaves")
            os._exit(DEAF)

    def is_lost(self) -> bool:
        """Something waits, and this worker, idle, has heard nothing for longer than a wake-up can take."""
        # Once more at the end: a wake-up may have come while the job store was asked.
        return self._is_silent and self._waits() and self._is_silent

    @property
    def _is_silent(self) -> bool:
        return not self._is_working and clock.monotonic() - self._heard_at > _SILENCE_SECONDS
