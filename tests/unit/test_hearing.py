"""A worker that no wake-up reaches while something waits for it is found out. Time is the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from farm import clock
from farm.lifeline import DEAF
from workers.hearing import Hearing

Passes = Callable[[float], None]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Lets time go by."""
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


@pytest.mark.parametrize(("waits", "seconds", "lost"), [(True, 61, True), (True, 59, False), (False, 61, False)])
def test_only_long_silence_counts_and_only_while_something_waits(
    passes: Passes, waits: bool, seconds: float, lost: bool
) -> None:
    hearing = Hearing(lambda: waits)
    passes(seconds)

    assert hearing.is_lost() is lost


def test_whoever_hears_something_is_not_lost(passes: Passes) -> None:
    hearing = Hearing(lambda: True)
    passes(59)
    hearing.hear(lambda: None)()
    passes(59)

    assert not hearing.is_lost()


def test_whoever_works_is_not_lost(passes: Passes) -> None:
    seen: list[bool] = []
    hearing = Hearing(lambda: True)

    def work() -> None:
        passes(1000)
        seen.append(hearing.is_lost())

    hearing.hear(work)()

    assert seen == [False]
    assert not hearing.is_lost()


def test_work_that_fails_has_ended(passes: Passes) -> None:
    hearing = Hearing(lambda: True)

    def work() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        hearing.hear(work)()
    assert not hearing.is_lost()
    passes(61)

    assert hearing.is_lost()


def test_a_wake_up_while_the_job_store_is_asked_is_heard(passes: Passes) -> None:
    def waits() -> bool:
        hearing.hear(lambda: None)()
        return True

    hearing = Hearing(waits)
    passes(61)

    assert not hearing.is_lost()


def test_whoever_is_lost_leaves(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    hearing = Hearing(lambda: True)

    hearing.check()
    assert left == []
    passes(61)
    hearing.check()

    assert left == [DEAF]
