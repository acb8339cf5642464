"""A daemon thread that makes calls one after another, and keeps the outcome of each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class CallThread(Generic[T]):
    """Makes calls beside the thread that submits them.

    An executor would keep the process from exiting while a call hangs.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], T], Future[T]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have the call made after those before it, and return a future of its outcome."""
        outcome: Future[T] = Future()
        self._calls.put((call, outcome))
        return outcome

    def close(self) -> None:
        """Have the thread end after the calls that were submitted."""
        self._calls.put(None)

    def _work(self) -> None:
        while submitted := self._calls.get():
            call, outcome = submitted
            try:
                outcome.set_result(call())
            except BaseException as error:  # noqa: BLE001  # raised again where the outcome is asked for
                outcome.set_exception(error)
