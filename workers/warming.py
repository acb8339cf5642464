"""Warming up the rest of a pipeline while a worker serves: compilation of the usual sizes, beside jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import structlog

from farm import clock
from farm.concurrency.background_thread import BackgroundThread
from workers.pipelines.pipeline import WarmUp

#: Seconds between two looks whether the worker is idle.
_PAUSE_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class WarmUpThread(BackgroundThread):
    """Warms up one thing after the other, each begun while the worker is idle; a job that comes does not wait for it.

    One that fails is left to the job that needs it.
    """

    def __init__(self, warm_ups: Iterable[WarmUp], *, is_idle: Callable[[], bool]) -> None:
        super().__init__("warm-up", self._warm_up_next, pause=lambda: _PAUSE_SECONDS)
        self._left = deque(warm_ups)
        self._is_idle = is_idle

    def _warm_up_next(self) -> None:
        if not self._left:
            self.stop()
        elif self._is_idle():
            began, warm_up = clock.monotonic(), self._left.popleft()
            warm_up()
            _log.info("one more size is warm", seconds=round(clock.monotonic() - began, 2), left=len(self._left))
