"""Retries with exponential backoff and jitter, on tenacity."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_random_exponential,
)

#: Upper bound of the first pause, in seconds; it doubles with each attempt.
_FIRST_PAUSE_SECONDS = 0.2


def retrying(
    errors: type[Exception] | tuple[type[Exception], ...],
    *,
    max_seconds: float = math.inf,
    max_attempts: float = math.inf,
    max_pause: float = 2.0,
    stop_event: threading.Event | None = None,
    give_up: Callable[[], bool] = lambda: False,
    before_pause: Callable[[BaseException], None] = lambda _error: None,
) -> Retrying:
    """Return a tenacity `Retrying` that repeats a call after any of `errors`, with pauses of full jitter.

    It raises the last error once `max_seconds` have passed, `max_attempts` are made, `stop_event` is set or `give_up`
    returns True. Setting `stop_event` also cuts a pause short, for one last attempt. `before_pause` is called with
    each error that is retried.
    """
    stop_event = stop_event or threading.Event()

    def is_over(state: RetryCallState) -> bool:
        elapsed = state.seconds_since_start or 0.0
        used_up = elapsed >= max_seconds or state.attempt_number >= max_attempts
        return used_up or stop_event.is_set() or give_up()

    return Retrying(
        retry=retry_if_exception_type(errors),
        wait=wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=max_pause),
        stop=is_over,
        sleep=sleep_using_event(stop_event),
        before_sleep=lambda state: before_pause(_error_of(state)),
        reraise=True,
    )


def jittered(seconds: float, low: float, high: float) -> float:
    """Return `seconds` times a random factor from `low` to `high`, so that many do not act at the same moment."""
    return seconds * random.uniform(low, high)


def _error_of(state: RetryCallState) -> BaseException:
    assert state.outcome is not None, "tenacity pauses after an attempt"
    error = state.outcome.exception()
    assert error is not None, "only errors are retried"
    return error
