"""Limits of a caller: rate, queue and daily quota, and how much of each is left. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Windows of the rate limit and of the daily quota, in seconds. A day begins at midnight UTC.
MINUTE, DAY = 60, 86400
#: Largest rate: the interval between submits is counted in whole microseconds.
MAX_RATE = 1_000_000
#: Largest number of waiting jobs or of images a day: the greatest up to which a double counts by ones.
MAX_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a caller. None: the farm's default; 0: unlimited."""

    #: Submits a minute, as a token bucket of that size.
    rate: int | None = None
    #: Most queued jobs at a time.
    waiting: int | None = None
    #: Images requested in a day, rendered or not.
    images_per_day: int | None = None

    def or_else(self, usual: Limits) -> Limits:
        """Return these limits, with those of `usual` where one is None."""
        return Limits(
            usual.rate if self.rate is None else self.rate,
            usual.waiting if self.waiting is None else self.waiting,
            usual.images_per_day if self.images_per_day is None else self.images_per_day,
        )

    def quotas(self, usage: Usage) -> tuple[Quota, ...]:
        """Return what is left of the rate limit and of the daily quota."""
        found = []
        if self.rate:
            pause_us = MINUTE * 1_000_000 // self.rate
            left = min(self.rate, (MINUTE * 1_000_000 - usage.busy_us) // pause_us)
            found.append(Quota("submits", self.rate, MINUTE, max(0, left), usage.busy_us / 1e6))
        if self.images_per_day:
            left = self.images_per_day - usage.images
            found.append(Quota("images", self.images_per_day, DAY, max(0, left), usage.day_us / 1e6))
        return tuple(found)


#: The limits of a caller without limits of its own.
USUAL = Limits()


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of a caller.

    `busy_us`: time until the token bucket is full again. `images`: requested today; the day ends in `day_us`.
    """

    busy_us: int
    images: int
    day_us: int

    def pause_seconds(self, rate: int) -> float:
        """Return the seconds until one more submit is within the rate."""
        return max(0, self.busy_us + MINUTE * 1_000_000 // rate - MINUTE * 1_000_000) / 1e6


@dataclass(frozen=True, slots=True)
class Quota:
    """The rest of one limit in its window, and the seconds until it is reset."""

    name: str
    allowed: int
    window_seconds: int
    left: int
    reset_seconds: float

    def later(self, seconds: float) -> Quota:
        """Return the quota as it is after so many seconds without a submit."""
        return replace(self, reset_seconds=max(0.0, self.reset_seconds - seconds))


def policy_field(quotas: tuple[Quota, ...]) -> str:
    """Return the header `RateLimit-Policy`: the limits. Source: draft-ietf-httpapi-ratelimit-headers-10."""
    return ", ".join(f'"{quota.name}";q={quota.allowed};w={quota.window_seconds}' for quota in quotas)


def left_field(quotas: tuple[Quota, ...]) -> str:
    """Return the header `RateLimit`: what is left of the limits, and when each is reset."""
    return ", ".join(f'"{quota.name}";r={quota.left};t={math.ceil(quota.reset_seconds)}' for quota in quotas)
