"""The reaper: a thread in every process. Any number of them may run; whoever comes first does the work."""

from __future__ import annotations

import random
import threading

import structlog

from farm.errors import FarmError
from farm.service import Service

#: Seconds between two rounds, with jitter, so that many processes spread out by themselves.
_ROUND_SECONDS = (0.7, 1.3)

_log = structlog.get_logger(__name__)


class Reaper(threading.Thread):
    """Calls `service.reap` about once a second until told to stop."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="reaper", daemon=True)
        self._service = service
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(random.uniform(*_ROUND_SECONDS)):
            try:
                self._service.reap()
            except FarmError as error:
                _log.warning("this round of reaping was cut short", error=str(error))
