"""Bounded concurrency: a fixed number of slots, shared out among callers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from farm.domain.errors import FarmError


class Slots:
    """A semaphore with keys: `total` slots, of which one key (a caller, say) holds at most `per_key`. Thread-safe.

    At most `max_waiting` threads wait for a slot at a time; without it, any number may.
    """

    def __init__(self, total: int, *, per_key: int | None = None, max_waiting: int | None = None) -> None:
        self._per_key = total if per_key is None else per_key
        self._max_waiting = max_waiting
        self._released = threading.Condition()
        self._held: Counter[str] = Counter()
        self.free = total
        #: Threads that wait for a slot.
        self.waiting = 0

    def acquire(self, key: str = "", count: int = 1, *, timeout: float = 0.0) -> bool:
        """Take `count` slots at once, waiting up to `timeout` seconds for them. Return False if there are too few."""
        with self._released:
            if not (self._fits(key, count) or self._wait(key, count, timeout)):
                return False
            self.free -= count
            self._held[key] += count
            return True

    def release(self, key: str = "", count: int = 1) -> None:
        """Give back `count` slots that `key` holds."""
        with self._released:
            self.free += count
            self._held[key] -= count
            self._held += Counter()  # forgets keys that hold none
            self._released.notify_all()

    @contextmanager
    def held(self, key: str = "", *, timeout: float = 0.0, refusal: FarmError) -> Iterator[None]:
        """Hold one slot meanwhile. Raises `refusal` if there is none within `timeout` seconds."""
        if not self.acquire(key, timeout=timeout):
            raise refusal
        try:
            yield
        finally:
            self.release(key)

    def _fits(self, key: str, count: int) -> bool:
        return count <= self.free and self._held[key] + count <= self._per_key

    def _wait(self, key: str, count: int, timeout: float) -> bool:
        if timeout <= 0 or (self._max_waiting is not None and self.waiting >= self._max_waiting):
            return False
        self.waiting += 1
        try:
            return self._released.wait_for(lambda: self._fits(key, count), timeout)
        finally:
            self.waiting -= 1
