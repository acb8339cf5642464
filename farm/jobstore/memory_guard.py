"""Guard of Redis's memory: accepted jobs need some to end, so nothing new is accepted when little is left."""

from __future__ import annotations

import redis

from farm import clock
from farm.domain.errors import StoreFull

#: Share of Redis's memory limit above which nothing new is accepted.
FULL_AT = 0.8
#: Shares of the memory below that, which one of several callers may have: for waiting jobs, and for all that are kept.
MAX_WAITING_SHARE, MAX_KEPT_SHARE = 0.5, 0.75
#: How long a reading of Redis's memory is trusted, in seconds.
MEMORY_READING_SECONDS = 1.0


class MemoryGuard:
    """A reading of Redis's memory, at most once a second."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._read = (-MEMORY_READING_SECONDS, 0.0)
        self._limit = 0

    def refuse_when_full(self) -> None:
        """Raise StoreFull if new jobs would use the memory that accepted ones need."""
        read_at, share = self._read
        if clock.monotonic() - read_at >= MEMORY_READING_SECONDS:
            memory = self._redis.info("memory")
            self._limit = int(memory["maxmemory"])
            share = int(memory["used_memory"]) / self._limit if self._limit else 0.0
            self._read = (clock.monotonic(), share)
        if share >= FULL_AT:
            raise StoreFull

    def bytes_for_jobs(self) -> int:
        """Return how much memory may be used before nothing new is accepted, as last read; 0 if there is no limit."""
        return int(self._limit * FULL_AT)
