"""The difference between this machine's clock and Redis's, which decides all times of jobs."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from farm import clock
from farm.jobstore.redis_time import now_us

#: More than this is an error, in seconds: uploads expire by the API's own clock, S3 refuses calls that are 900 off.
MAX_SKEW_SECONDS = 30.0
REMEDY = "sudo timedatectl set-ntp true, on both machines: signatures of webhooks and S3 calls contain the time"


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """The seconds by which another clock is ahead of this machine's, measured to within `blur` seconds."""

    seconds: float
    blur: float

    @property
    def certain_seconds(self) -> float:
        return max(0.0, abs(self.seconds) - self.blur)

    def __str__(self) -> str:
        return f"{abs(self.seconds):.1f} s {'ahead of' if self.seconds > 0 else 'behind'} this machine's"


def clock_skew(client: redis.Redis) -> ClockSkew:
    """Compare the clock of Redis with this machine's. Raises StoreUnavailable."""
    began = clock.now_us()
    redis_us = now_us(client)
    ended = clock.now_us()
    return ClockSkew((redis_us - (began + ended) / 2) / 1e6, blur=(ended - began) / 2e6)
