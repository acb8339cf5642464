"""A bounded thread pool that pulls leased work items."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from farm.concurrency.slots import Slots
from farm.domain.errors import FarmError, with_detail

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """An item that was taken. `is_last`: there was no other one then, so that a second call would be in vain."""

    item: T
    is_last: bool = False


class LeasedPool(Generic[T]):
    """A pool of threads: `take` returns the next item, or None if there is none now, and `handle` deals with it.

    `handle` returns False if it knows that there is no next item now. An item that is not dealt with is not lost: it
    was taken under a lease, which brings it back.
    """

    def __init__(
        self, name: str, threads: int, *, take: Callable[[], Taken[T] | None], handle: Callable[[T], bool]
    ) -> None:
        self._name = name
        self._take = take
        self._handle = handle
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slots = Slots(threads)
        #: Set once no more items are taken.
        self.draining = threading.Event()

    def work(self) -> None:
        """Start threads on items until there are no more items or no more threads."""
        try:
            while self._slots.acquire():
                if not self._start_next():
                    return
        except FarmError as error:
            _log.warning("no item taken", pool=self._name, error=with_detail(error))

    def drain(self) -> None:
        """Take no more items. Safe in a signal handler."""
        self.draining.set()

    def close(self) -> None:
        """Drain, and wait for the items in progress."""
        self.drain()
        self._pool.shutdown(wait=True)

    def _start_next(self) -> bool:
        """Start a thread on the next item, or release the slot that is held for it; return True if others may wait."""
        taken = None
        try:
            taken = self._next()
        finally:
            if taken is None:
                self._slots.release()
        if taken is None:
            return False
        self._pool.submit(self._work_on, taken)
        return not taken.is_last

    def _next(self) -> Taken[T] | None:
        return None if self.draining.is_set() else self._take()

    def _work_on(self, taken: Taken[T] | None) -> None:
        """Handle this item, and others as long as there are any."""
        try:
            while taken is not None:
                taken = self._next() if self._handle(taken.item) else None
        except FarmError as error:
            _log.warning("item not handled", pool=self._name, error=with_detail(error))
        except Exception as error:  # noqa: BLE001  # the pool would swallow it
            _log.error("item not handled", pool=self._name, exc_info=error)
        finally:
            self._slots.release()
