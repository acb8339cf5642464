"""How much a caller may ask for, and how much of that is left. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: The windows of the two limits by time, in seconds. A day is one of UTC.
MINUTE, DAY = 60, 86400
#: Largest rate: above, what is counted with would be no whole microseconds.
MAX_RATE = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """A caller's limits. None: the farm's own; 0: none at all."""

    #: Submits a minute. As many may come at once; then one more for each part of the minute that has gone by.
    rate: int | None = None
    #: Jobs that wait at a time.
    waiting: int | None = None
    #: Images that are asked for in a day, whatever becomes of them.
    images_per_day: int | None = None

    def or_else(self, usual: Limits) -> Limits:
        """These limits, with `usual` where nothing is said."""
        return Limits(
            usual.rate if self.rate is None else self.rate,
            usual.waiting if self.waiting is None else self.waiting,
            usual.images_per_day if self.images_per_day is None else self.images_per_day,
        )

    def quotas(self, usage: Usage) -> tuple[Quota, ...]:
        """What is left of the limits by time."""
        found = []
        if self.rate:
            pause_us = MINUTE * 1_000_000 // self.rate
            left = min(self.rate, (MINUTE * 1_000_000 - usage.busy_us) // pause_us)
            found.append(Quota("submits", self.rate, MINUTE, max(0, left), usage.busy_us / 1e6))
        if self.images_per_day:
            left = self.images_per_day - usage.images
            found.append(Quota("images", self.images_per_day, DAY, max(0, left), usage.day_us / 1e6))
        return tuple(found)


#: The limits of whoever has none of its own.
USUAL = Limits()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a caller has used up, in microseconds and images.

    `busy_us`: until all that it has submitted would be over, were it submitted at its rate. `images` were asked for
    today, which ends in `day_us`.
    """

    busy_us: int
    images: int
    day_us: int

    def pause_seconds(self, rate: int) -> float:
        """After how long one more submit is within the rate."""
        return max(0, self.busy_us + MINUTE * 1_000_000 // rate - MINUTE * 1_000_000) / 1e6


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of one limit in its window, and after how many seconds all of it is there again."""

    name: str
    allowed: int
    window_seconds: int
    left: int
    reset_seconds: float

    def later(self, seconds: float) -> Quota:
        """The same so many seconds on, if nothing was asked for meanwhile."""
        return replace(self, reset_seconds=max(0.0, self.reset_seconds - seconds))


def policy_field(quotas: tuple[Quota, ...]) -> str:
    """The header `RateLimit-Policy`: the limits. Source: draft-ietf-httpapi-ratelimit-headers-10."""
    return ", ".join(f'"{quota.name}";q={quota.allowed};w={quota.window_seconds}' for quota in quotas)


def left_field(quotas: tuple[Quota, ...]) -> str:
    """The header `RateLimit`: what is left of them, and when all of it is there again."""
    return ", ".join(f'"{quota.name}";r={quota.left};t={math.ceil(quota.reset_seconds)}' for quota in quotas)
