"""Whether wake-ups still reach this worker. A consumer that is stuck, for whatever reason, is worth a new process."""

from __future__ import annotations

import os
import threading

import structlog

from farm.errors import FarmError
from farm.jobstore.census import Census
from workers.render import Renderer

#: Exit status of a worker that hears nothing; the supervisor starts another.
DEAF = 75
#: The reaper rings about once a second while jobs wait and workers stand idle; after so long, nothing will come.
_SILENCE_SECONDS = 60.0
_LOOK_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class Hearing(threading.Thread):
    """Ends the process when jobs have waited for long, this worker stands idle, and no wake-up made it look."""

    def __init__(self, renderer: Renderer, census: Census, models: tuple[str, ...]) -> None:
        super().__init__(name="hearing", daemon=True)
        self._renderer = renderer
        self._census = census
        self._models = models

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_SECONDS):
            try:
                if self.is_lost():
                    _log.critical("jobs wait, but no wake-up arrives; this worker leaves")
                    os._exit(DEAF)
            except FarmError as error:
                _log.warning("nothing to hear from the job store", error=str(error))

    def is_lost(self) -> bool:
        """Jobs wait, and this worker, idle, has not looked for longer than a wake-up can take."""
        silent = self._renderer.idle_seconds > _SILENCE_SECONDS
        return silent and self._census.waiting(self._models) > 0
