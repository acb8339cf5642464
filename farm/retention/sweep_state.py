"""The lock and the cursor of the sweep through the storage, which one process does at a time."""

from __future__ import annotations

import secrets
from typing import cast

import redis

from farm.jobstore import redis_keys, redis_time
from farm.jobstore.connection import translated


class SweepState:
    """The shared state of all sweepers. A lock that is given twice does no harm: a page may be swept twice."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def acquire(self, seconds: float) -> str | None:
        """Lock the sweep for `seconds`, and return the cursor to go on from; None if it is locked already."""
        with translated():
            if not self._redis.set(redis_keys.SWEEP_LOCK, "", nx=True, px=round(seconds * 1000)):
                return None
            return cast(str | None, self._redis.get(redis_keys.SWEEP_CURSOR)) or ""

    def now_us(self) -> int:
        """Return the time by Redis's clock, in microseconds since the epoch."""
        return redis_time.now_us(self._redis)

    def farm_id(self) -> str:
        """Return the id of this farm, created once. It is lost with all else in this Redis, so it is read each time."""
        with translated():
            self._redis.set(redis_keys.FARM_ID, secrets.token_hex(16), nx=True)
            return cast(str, self._redis.get(redis_keys.FARM_ID))

    def reserve_storage(self, place: str, seconds: float) -> str:
        """Record `place` for `seconds` as the farm's storage unless one is recorded; return the recorded one."""
        with translated():
            self._redis.set(redis_keys.STORAGE, place, nx=True, px=round(seconds * 1000))
            return cast(str | None, self._redis.get(redis_keys.STORAGE)) or place

    def record_storage(self, place: str) -> None:
        """Record `place` as the farm's storage, for good."""
        with translated():
            self._redis.set(redis_keys.STORAGE, place)

    def save_cursor(self, cursor: str) -> None:
        """Have the next sweep go on after `cursor`."""
        with translated():
            self._redis.set(redis_keys.SWEEP_CURSOR, cursor)
