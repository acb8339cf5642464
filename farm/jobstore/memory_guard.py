"""How full the job store is: what is accepted needs room to end, so nothing new is taken when little is left."""

from __future__ import annotations

import redis

from farm import clock
from farm.domain.errors import StoreFull

#: Share of Redis's memory limit above which nothing new is accepted: what is accepted needs the rest to end.
FULL_AT = 0.8
#: How long a reading of Redis's memory is trusted, in seconds.
MEMORY_READING_SECONDS = 1.0


class MemoryGuard:
    """Redis's memory, looked at now and then."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._read = (-MEMORY_READING_SECONDS, 0.0)

    def refuse_when_full(self) -> None:
        """Raise StoreFull above the share that may be used for what is new."""
        read_at, share = self._read
        if clock.monotonic() - read_at >= MEMORY_READING_SECONDS:
            memory = self._redis.info("memory")
            limit = int(memory["maxmemory"])
            share = int(memory["used_memory"]) / limit if limit else 0.0
            self._read = (clock.monotonic(), share)
        if share >= FULL_AT:
            raise StoreFull
