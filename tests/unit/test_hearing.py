"""A worker that no wake-up reaches while something waits for it is found out."""

from __future__ import annotations

import os

import pytest

from farm.domain.errors import StoreUnavailable
from farm.process.child import DEAF
from workers.wakeup_watchdog import _MOST_MISSED as PATIENCE
from workers.wakeup_watchdog import Hearing

Left = list[int]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    """The statuses with which it left."""
    statuses: Left = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def look(hearing: Hearing, times: int) -> None:
    for _ in range(times):
        hearing.check()


def test_whoever_hears_nothing_while_something_waits_leaves(left: Left) -> None:
    hearing = Hearing(lambda: True)

    look(hearing, PATIENCE)
    assert left == []
    look(hearing, 1)

    assert left == [DEAF]


def test_whoever_was_idle_for_long_is_not_lost_when_something_comes(left: Left) -> None:
    """The wake-up for it is on its way when the worker looks."""
    waits = False
    hearing = Hearing(lambda: waits)

    look(hearing, 2 * PATIENCE)
    waits = True
    look(hearing, PATIENCE)

    assert left == []


def test_only_what_waits_all_the_while_counts(left: Left) -> None:
    waits = True
    hearing = Hearing(lambda: waits)

    look(hearing, PATIENCE)
    waits = False
    look(hearing, 1)
    waits = True
    look(hearing, PATIENCE)

    assert left == []


def test_whoever_hears_something_is_not_lost(left: Left) -> None:
    hearing = Hearing(lambda: True)

    look(hearing, PATIENCE)
    hearing.hear(lambda: None)()
    look(hearing, PATIENCE)

    assert left == []


def test_whoever_works_is_not_lost(left: Left) -> None:
    hearing = Hearing(lambda: True)

    hearing.hear(lambda: look(hearing, 10 * PATIENCE))()

    assert left == []


def test_work_that_fails_has_ended(left: Left) -> None:
    hearing = Hearing(lambda: True)

    def work() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        hearing.hear(work)()
    look(hearing, PATIENCE + 1)

    assert left == [DEAF]


def test_a_wake_up_while_the_job_store_is_asked_is_heard(left: Left) -> None:
    rings = False

    def waits() -> bool:
        if rings:
            hearing.hear(lambda: None)()
        return True

    hearing = Hearing(waits)
    look(hearing, PATIENCE)
    rings = True
    look(hearing, 1)

    assert left == []


def test_while_the_job_store_is_away_nothing_is_missed(left: Left) -> None:
    is_away = False

    def waits() -> bool:
        if is_away:
            raise StoreUnavailable
        return True

    hearing = Hearing(waits)
    look(hearing, PATIENCE)
    is_away = True
    for _ in range(PATIENCE):
        with pytest.raises(StoreUnavailable):
            hearing.check()

    assert left == []
