"""The wake-up watchdog finds a worker that no wake-up reaches while jobs wait for it."""

from __future__ import annotations

import os

import pytest

from farm.domain.errors import StoreUnavailable
from farm.process.child import EXIT_NO_WAKEUPS
from workers.wakeup_watchdog import _MAX_MISSED as TIMEOUT_SECONDS
from workers.wakeup_watchdog import WakeupWatchdog

Left = list[int]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    """Return the exit statuses."""
    statuses: Left = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def look(wakeup_watchdog: WakeupWatchdog, times: int) -> None:
    for _ in range(times):
        wakeup_watchdog.check()


def test_a_worker_without_wake_ups_exits_while_jobs_wait(left: Left) -> None:
    wakeup_watchdog = WakeupWatchdog(lambda: True)

    look(wakeup_watchdog, TIMEOUT_SECONDS)
    assert left == []
    look(wakeup_watchdog, 1)

    assert left == [EXIT_NO_WAKEUPS]


def test_a_long_idle_worker_does_not_exit_when_a_job_arrives(left: Left) -> None:
    """The wake-up for it is on its way when the worker looks."""
    waits = False
    wakeup_watchdog = WakeupWatchdog(lambda: waits)

    look(wakeup_watchdog, 2 * TIMEOUT_SECONDS)
    waits = True
    look(wakeup_watchdog, TIMEOUT_SECONDS)

    assert left == []


def test_only_what_waits_all_the_while_counts(left: Left) -> None:
    waits = True
    wakeup_watchdog = WakeupWatchdog(lambda: waits)

    look(wakeup_watchdog, TIMEOUT_SECONDS)
    waits = False
    look(wakeup_watchdog, 1)
    waits = True
    look(wakeup_watchdog, TIMEOUT_SECONDS)

    assert left == []


def test_a_worker_that_gets_a_wake_up_does_not_exit(left: Left) -> None:
    wakeup_watchdog = WakeupWatchdog(lambda: True)

    look(wakeup_watchdog, TIMEOUT_SECONDS)
    wakeup_watchdog.watch(lambda: None)()
    look(wakeup_watchdog, TIMEOUT_SECONDS)

    assert left == []


def test_a_worker_that_is_rendering_does_not_exit(left: Left) -> None:
    wakeup_watchdog = WakeupWatchdog(lambda: True)

    wakeup_watchdog.watch(lambda: look(wakeup_watchdog, 10 * TIMEOUT_SECONDS))()

    assert left == []


def test_work_that_fails_has_ended(left: Left) -> None:
    wakeup_watchdog = WakeupWatchdog(lambda: True)

    def work() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        wakeup_watchdog.watch(work)()
    look(wakeup_watchdog, TIMEOUT_SECONDS + 1)

    assert left == [EXIT_NO_WAKEUPS]


def test_a_wake_up_while_the_job_store_is_asked_is_heard(left: Left) -> None:
    rings = False

    def waits() -> bool:
        if rings:
            wakeup_watchdog.watch(lambda: None)()
        return True

    wakeup_watchdog = WakeupWatchdog(waits)
    look(wakeup_watchdog, TIMEOUT_SECONDS)
    rings = True
    look(wakeup_watchdog, 1)

    assert left == []


def test_while_the_job_store_is_away_nothing_is_missed(left: Left) -> None:
    is_away = False

    def waits() -> bool:
        if is_away:
            raise StoreUnavailable
        return True

    wakeup_watchdog = WakeupWatchdog(waits)
    look(wakeup_watchdog, TIMEOUT_SECONDS)
    is_away = True
    for _ in range(TIMEOUT_SECONDS):
        with pytest.raises(StoreUnavailable):
            wakeup_watchdog.check()

    assert left == []
