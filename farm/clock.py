"""The one place that asks this machine for the time. Job times come from Redis instead, so that all machines agree."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


def now_us() -> int:
    """Microseconds since the epoch, by the wall clock."""
    return time.time_ns() // 1000


def monotonic() -> float:
    """Seconds from an arbitrary point, never going back: for durations."""
    return time.monotonic()


@lru_cache(4096)
def iso(us: int, *, timespec: str = "microseconds") -> str:
    """`us` since the epoch as ISO 8601 in UTC with a trailing Z."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def pause(seconds: float) -> None:
    """Wait, where nothing can be waited for."""
    time.sleep(seconds)
