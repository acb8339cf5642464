"""Retries: of which errors, how often, and what ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from farm import clock
from farm.concurrency import retry
from farm.concurrency.retry import jittered, retrying
from farm.domain.errors import StorageUnavailable, StoreUnavailable


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE_SECONDS", 0.001)


class Flaky:
    """A call that fails `failures` times before it succeeds."""

    def __init__(self, failures: float, error: type[Exception] = StoreUnavailable) -> None:
        self.attempts = 0
        self._failures = failures
        self._error = error

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self._failures:
            raise self._error
        return "done"


NEVER = float("inf")


def test_a_call_is_repeated_until_it_succeeds() -> None:
    call = Flaky(3)
    seen: list[type[BaseException]] = []

    assert retrying(StoreUnavailable, before_pause=lambda error: seen.append(type(error)))(call) == "done"

    assert call.attempts == 4
    assert seen == [StoreUnavailable] * 3


def test_other_errors_are_not_retried() -> None:
    call = Flaky(1, StorageUnavailable)

    with pytest.raises(StorageUnavailable):
        retrying(StoreUnavailable)(call)

    assert call.attempts == 1


@pytest.mark.parametrize(
    ("attempts", "stops"),
    [
        (3, lambda event: {"max_attempts": 3}),
        (1, lambda event: {"max_seconds": 0}),
        (1, lambda event: {"stop_event": event}),
        (1, lambda event: {"give_up": lambda: True}),
    ],
)
def test_whatever_stops_it_the_last_error_is_raised(
    attempts: int, stops: Callable[[threading.Event], dict[str, object]]
) -> None:
    call, event = Flaky(NEVER), threading.Event()
    event.set()

    with pytest.raises(StoreUnavailable):
        retrying(StoreUnavailable, **stops(event))(call)  # type: ignore[arg-type]

    assert call.attempts == attempts


def test_the_stop_event_cuts_a_pause_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE_SECONDS", 1e9)
    call, event = Flaky(NEVER), threading.Event()
    threading.Timer(0.05, event.set).start()
    began = clock.monotonic()

    with pytest.raises(StoreUnavailable):
        retrying(StoreUnavailable, max_pause=1e9, stop_event=event)(call)

    assert call.attempts == 2
    assert clock.monotonic() - began < 20


def test_jitter_stays_within_its_bounds() -> None:
    pauses = {jittered(10, 0.5, 1.5) for _ in range(1000)}

    assert 5 <= min(pauses) < 6
    assert 14 < max(pauses) <= 15
