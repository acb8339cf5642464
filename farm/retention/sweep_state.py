"""Whose turn it is to look through the storage, and how far that got: slow work that one process does at a time."""

from __future__ import annotations

import secrets
from typing import cast

import redis

from farm.jobstore import redis_keys
from farm.jobstore.connection import translated


class SweepState:
    """Gives out turns. One that is given twice does no harm: the work may be done twice."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def acquire(self, seconds: float) -> str | None:
        """Where to go on; the next turn comes in so many seconds. None: somebody has had this one."""
        with translated():
            if not self._redis.set(redis_keys.SWEEP_LOCK, "", nx=True, px=round(seconds * 1000)):
                return None
            return cast(str | None, self._redis.get(redis_keys.SWEEP_CURSOR)) or ""

    def farm_id(self) -> str:
        """Who this farm is. Made once; it goes where all else goes that this Redis knows, so it is read every time."""
        with translated():
            self._redis.set(redis_keys.FARM_ID, secrets.token_hex(16), nx=True)
            return cast(str, self._redis.get(redis_keys.FARM_ID))

    def save_cursor(self, cursor: str) -> None:
        """The next turn goes on behind `cursor`."""
        with translated():
            self._redis.set(redis_keys.SWEEP_CURSOR, cursor)
