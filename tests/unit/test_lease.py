"""The pulse of a worker: when a pipeline counts as hung. Time is the test's own."""

from __future__ import annotations

import pytest

from farm import clock
from workers.lease import Pulse


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def passes(self, seconds: float) -> None:
        self.seconds += seconds

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "monotonic", time)
    return time


def test_a_pipeline_that_does_nothing_does_not_hang(time: Time) -> None:
    pulse = Pulse()
    time.passes(10_000)

    assert not pulse.is_hung


@pytest.mark.parametrize(("silence", "hung"), [(29.9, False), (30.1, True)])
def test_half_a_minute_without_a_step_is_a_hang(time: Time, silence: float, hung: bool) -> None:
    pulse = Pulse()
    pulse.start()
    time.passes(0.02)
    pulse.beat()
    time.passes(silence)

    assert pulse.is_hung is hung


@pytest.mark.parametrize(("silence", "hung"), [(599, False), (601, True)])
def test_the_first_step_may_take_ten_minutes(time: Time, silence: float, hung: bool) -> None:
    """Nobody knows yet what is usual, and kernels may be compiled."""
    pulse = Pulse()
    pulse.start()
    time.passes(silence)

    assert pulse.is_hung is hung


def test_every_step_proves_life(time: Time) -> None:
    pulse = Pulse()
    pulse.start()

    for _ in range(10):
        time.passes(20)
        pulse.beat()
        assert not pulse.is_hung


@pytest.mark.parametrize(("silence", "hung"), [(99, False), (101, True)])
def test_slow_steps_are_given_ten_times_their_usual_time(time: Time, silence: float, hung: bool) -> None:
    pulse = Pulse()
    pulse.start()
    for _ in range(200):
        time.passes(10)
        pulse.beat()
    time.passes(silence)

    assert pulse.is_hung is hung


def test_a_batch_that_has_ended_does_not_hang(time: Time) -> None:
    pulse = Pulse()
    pulse.start()
    time.passes(5)
    pulse.beat()
    pulse.stop()
    time.passes(10_000)

    assert not pulse.is_hung


def test_the_next_batch_begins_with_a_fresh_pulse(time: Time) -> None:
    pulse = Pulse()
    pulse.start()
    time.passes(0.02)
    pulse.beat()
    pulse.stop()
    time.passes(10_000)
    pulse.start()

    assert not pulse.is_hung
    time.passes(31)
    assert pulse.is_hung
