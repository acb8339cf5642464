"""The time by Redis's clock, the same for all processes of a farm. In microseconds since the epoch."""

from __future__ import annotations

import redis

from farm.jobstore.connection import translated


def now_us(client: redis.Redis) -> int:
    """Return the time of Redis. Raises StoreUnavailable."""
    with translated():
        return microseconds(client.time())


def microseconds(time: tuple[int, int]) -> int:
    """Return Redis's answer to TIME in microseconds."""
    return int(time[0]) * 1_000_000 + int(time[1])
