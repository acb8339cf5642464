"""Threads that take one thing after another and see to it, for as long as there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import structlog

from farm.concurrency.slots import Slots
from farm.domain.errors import FarmError, with_detail

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class LeasedPool(Generic[T]):
    """So many threads. `take` gives the next thing, None where there is none now; `handle` deals with it.

    What either fails to do is not lost: things are taken under leases, which bring them back.
    """

    def __init__(self, name: str, threads: int, *, take: Callable[[], T | None], handle: Callable[[T], None]) -> None:
        self._name = name
        self._take = take
        self._handle = handle
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slots = Slots(threads)
        #: Set when nothing more is to be taken.
        self.draining = threading.Event()

    def work(self) -> None:
        """Hand things out until nothing more is there, or everybody is at work."""
        try:
            while self._slots.acquire():
                if not self._start_next():
                    return
        except FarmError as error:
            _log.warning("nothing could be taken", pool=self._name, error=with_detail(error))

    def drain(self) -> None:
        """Take nothing more. Safe in a signal handler."""
        self.draining.set()

    def close(self) -> None:
        """Drain, and wait for what is under way."""
        self.drain()
        self._pool.shutdown(wait=True)

    def _start_next(self) -> bool:
        """Start on the next thing in the place that was taken for it, or give the place back."""
        item = None
        try:
            item = self._next()
        finally:
            if item is None:
                self._slots.release()
        if item is not None:
            self._pool.submit(self._work_on, item)
        return item is not None

    def _next(self) -> T | None:
        return None if self.draining.is_set() else self._take()

    def _work_on(self, item: T | None) -> None:
        """See to this one, and go on with others as long as there are any."""
        try:
            while item is not None:
                self._handle(item)
                item = self._next()
        except FarmError as error:
            _log.warning("interrupted", pool=self._name, error=with_detail(error))
        except Exception as error:  # noqa: BLE001  # the pool would swallow it
            _log.error("failed", pool=self._name, exc_info=error)
        finally:
            self._slots.release()
