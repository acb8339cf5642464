"""Errors of submits that exceed a limit of their caller, with the time after which a retry makes sense."""

from __future__ import annotations

from farm.domain.errors import ImagesUsedUp, LimitReached, MemoryShareUsedUp, QueueFull, RateLimited
from farm.domain.limits import Limits, Usage

#: After how long a caller with a full queue should retry, and for how long the answer would be the same, in seconds.
_FULL_QUEUE_RETRY_SECONDS = 5.0
_FULL_QUEUE_STANDS_SECONDS = 1.0
#: Finished jobs expire after days, but may be deleted at once.
_KEPT_RETRY_SECONDS = 60.0
_KEPT_TOO_MUCH = (
    "Your jobs, finished ones included, take as much memory as one caller may have; delete finished jobs, or try again "
    "when some have expired."
)


def limit_error(verdict: str, limits: Limits, usage: Usage) -> LimitReached:
    """Return the error of a verdict of `submit.lua` that names a limit."""
    quotas = limits.quotas(usage)
    if verdict == "too_fast":
        assert limits.rate
        pause = usage.pause_seconds(limits.rate)
        message = f"You may submit {limits.rate} requests a minute; try again when the next one is allowed."
        return RateLimited(message, seconds=pause, stands_seconds=pause, quotas=quotas)
    if verdict == "day_used_up":
        assert limits.images_per_day
        left, pause = limits.images_per_day - usage.images, usage.day_us / 1e6
        message = f"You may request {limits.images_per_day} images a day (UTC), and {max(0, left)} are left for today."
        stands = 0.0 if left > 0 else pause  # a smaller request may be accepted
        return ImagesUsedUp(message, seconds=pause, stands_seconds=stands, quotas=quotas)
    if verdict == "share_used_up":
        return MemoryShareUsedUp(seconds=_FULL_QUEUE_RETRY_SECONDS, quotas=quotas)
    if verdict == "kept_too_much":
        return MemoryShareUsedUp(_KEPT_TOO_MUCH, seconds=_KEPT_RETRY_SECONDS, quotas=quotas)
    message = f"You may have {limits.waiting} waiting jobs, and have as many; try again when some have ended."
    return QueueFull(
        message, seconds=_FULL_QUEUE_RETRY_SECONDS, stands_seconds=_FULL_QUEUE_STANDS_SECONDS, quotas=quotas
    )
