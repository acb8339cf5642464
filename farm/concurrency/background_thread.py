"""Daemon threads: one that repeats an action until it is stopped, and one that makes a single call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog

from farm.domain.errors import FarmError, with_detail

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class BackgroundThread(threading.Thread):
    """A daemon thread that repeats an action until it is stopped.

    It first pauses, for the seconds that `pause` returns or until `wake` is called, and then acts. Without a `pause`
    it acts only when woken; wake-ups that arrive while it acts become one. An error is logged and ends nothing.
    """

    def __init__(
        self, name: str, action: Callable[[], None], *, pause: Callable[[], float | None] | None = None
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._action = action
        self._pause = pause or _until_woken
        self._woken = threading.Event()
        #: Set once the thread is to end; an action that waits should wait for this.
        self.stopping = threading.Event()

    def wake(self) -> None:
        """Cut the pause short."""
        self._woken.set()

    def stop(self) -> None:
        """Have the thread end after the action that is under way."""
        self.stopping.set()
        self._woken.set()

    def close(self) -> None:
        """Stop the thread, if it was started, and wait for its end."""
        self.stop()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Pause and act in turn. Called by `start`."""
        while self._paused():
            self.attempt(self._action)

    def attempt(self, action: Callable[[], None]) -> None:
        """Run `action`, and log its error if it raises one."""
        try:
            action()
        except FarmError as error:
            _log.warning("background action failed", thread=self.name, error=with_detail(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, the next run is needed
            _log.error("background action failed", thread=self.name, exc_info=error)

    def _paused(self) -> bool:
        """Pause, and return True unless the thread is to end."""
        self._woken.wait(self._pause())
        self._woken.clear()
        return not self.stopping.is_set()


def call_in_thread(name: str, call: Callable[[], T]) -> Future[T]:
    """Make one call in a daemon thread of its own, and return a future of its outcome.

    An executor would bound the number of threads, and keep the process from exiting while one of them hangs.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  # raised again where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


def _until_woken() -> None:
    return None
