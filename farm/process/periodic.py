"""The reaper: a thread in every process. Any number of them may run; whoever comes first does the work."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

from farm.domain.errors import FarmError

#: Seconds between two rounds, with jitter, so that many processes spread out by themselves.
_ROUND_SECONDS = (0.7, 1.3)

_log = structlog.get_logger(__name__)


class PeriodicThread(threading.Thread):
    """Does its rounds about once a second until told to stop."""

    def __init__(self, *rounds: Callable[[], None]) -> None:
        super().__init__(name="periodic", daemon=True)
        self._rounds = rounds
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(random.uniform(*_ROUND_SECONDS)):
            for make_round in self._rounds:
                self._make(make_round)

    def _make(self, make_round: Callable[[], None]) -> None:
        try:
            make_round()
        except FarmError as error:
            _log.warning("this round of reaping was cut short", error=str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, the next round is needed
            _log.error("this round of reaping failed", exc_info=error)
