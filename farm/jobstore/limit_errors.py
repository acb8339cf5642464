"""Why a submit is refused that is over one of its caller's limits, and when the caller should come back."""

from __future__ import annotations

from farm.domain.errors import ImagesUsedUp, LimitReached, QueueFull, RateLimited
from farm.domain.limits import Limits, Spent

#: After how long somebody whose jobs wait should come back, and how long it would hear the same, in seconds: places
#: become free without notice.
_QUEUE_SECONDS = 5.0
_QUEUE_STANDS_SECONDS = 1.0


def refusal(verdict: str, limits: Limits, spent: Spent) -> LimitReached:
    """The error behind a verdict of `submit.lua`: `full`, `too_fast` or `day_used_up`. The limit is one."""
    quotas = limits.quotas(spent)
    if verdict == "too_fast":
        assert limits.rate
        pause = spent.pause_seconds(limits.rate)
        message = f"You may submit {limits.rate} requests a minute; try again when the next one is allowed."
        return RateLimited(message, seconds=pause, stands_seconds=pause, quotas=quotas)
    if verdict == "day_used_up":
        assert limits.images_per_day
        left, pause = limits.images_per_day - spent.images, spent.day_us / 1e6
        message = f"You may request {limits.images_per_day} images a day (UTC), and {max(0, left)} are left for today."
        stands = 0.0 if left > 0 else pause  # a smaller request may find room
        return ImagesUsedUp(message, seconds=pause, stands_seconds=stands, quotas=quotas)
    message = f"You may have {limits.waiting} waiting jobs, and have as many; try again when some have ended."
    return QueueFull(message, seconds=_QUEUE_SECONDS, stands_seconds=_QUEUE_STANDS_SECONDS, quotas=quotas)
