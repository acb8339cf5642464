"""The clock of this machine, read nowhere else. Job times come from Redis instead, so that all machines agree."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


def now_us() -> int:
    """Return the wall-clock time in microseconds since the epoch."""
    return time.time_ns() // 1000


def monotonic() -> float:
    """Return seconds from an arbitrary point that never go back: for durations."""
    return time.monotonic()


def cpu_seconds() -> float:
    """Return the CPU time of this process: other processes on a busy machine do not lengthen it."""
    return time.process_time()


@lru_cache(4096)
def iso(us: int, *, timespec: str = "microseconds") -> str:
    """Format `us` since the epoch as ISO 8601 in UTC with a trailing Z."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def now_iso() -> str:
    """Return the wall-clock time as `iso` does, without a place in its cache."""
    seconds, us = divmod(now_us(), 1_000_000)
    return f"{_iso_second(seconds)}.{us:06}Z"


@lru_cache(1)
def _iso_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def pause(seconds: float) -> None:
    """Sleep. For the rare case without an event to wait for."""
    time.sleep(seconds)
