"""Why a submit is refused that is over one of its caller's limits, and when the caller should come back."""

from __future__ import annotations

from farm.domain.errors import LimitReached
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
        message = f"{limits.rate} submits a minute are allowed; come back when the next one is."
        return LimitReached(message, code="rate_limited", seconds=pause, stands_seconds=pause, quotas=quotas)
    if verdict == "day_used_up":
        assert limits.images_per_day
        left, pause = limits.images_per_day - spent.images, spent.day_us / 1e6
        message = f"{limits.images_per_day} images a day (UTC) are allowed, and {max(0, left)} are left of today's."
        stands = 0.0 if left > 0 else pause  # a smaller request may find room
        return LimitReached(message, code="images_used_up", seconds=pause, stands_seconds=stands, quotas=quotas)
    message = f"{limits.waiting} of your jobs are waiting, and no more may; come back later."
    return LimitReached(
        message, code="queue_full", seconds=_QUEUE_SECONDS, stands_seconds=_QUEUE_STANDS_SECONDS, quotas=quotas
    )
