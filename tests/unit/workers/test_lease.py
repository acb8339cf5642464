"""The progress watchdog of a worker: when it counts as hung. The clock is the test's own."""

from __future__ import annotations

import pytest

from farm import clock
from workers.lease import ProgressWatchdog, StageTimeouts

PIXELS = 1_000_000


class Time:
    """A clock that the test sets."""

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


@pytest.fixture
def watchdog(time: Time) -> ProgressWatchdog:
    return ProgressWatchdog(StageTimeouts())


def make_steps(watchdog: ProgressWatchdog, time: Time, seconds: float, count: int = 1, pixels: int = PIXELS) -> None:
    watchdog.start_steps(pixels)
    for _ in range(count):
        time.passes(seconds)
        watchdog.heartbeat()


def hangs_after(watchdog: ProgressWatchdog, time: Time, seconds: float) -> bool:
    """Return True if it hangs a tenth of a second later, and not a tenth of a second before."""
    time.passes(seconds - 0.1)
    before = watchdog.is_hung
    time.passes(0.2)
    return watchdog.is_hung and not before


def test_a_pipeline_that_does_nothing_does_not_hang(time: Time, watchdog: ProgressWatchdog) -> None:
    time.passes(10_000)

    assert not watchdog.is_hung


def test_half_a_minute_without_a_step_is_a_hang(time: Time, watchdog: ProgressWatchdog) -> None:
    make_steps(watchdog, time, 0.02)

    assert hangs_after(watchdog, time, 30)


def test_the_first_step_may_take_ten_minutes(time: Time, watchdog: ProgressWatchdog) -> None:
    """Nobody knows yet what is usual, and kernels may be compiled."""
    watchdog.start_steps(PIXELS)

    assert hangs_after(watchdog, time, 600)


def test_a_step_may_wait_ten_minutes_for_kernels_and_then_takes_its_usual_time(
    time: Time, watchdog: ProgressWatchdog
) -> None:
    """Torch compiles for a size that comes first, or the step waits for what another thread compiles."""
    make_steps(watchdog, time, 0.02)
    watchdog.start_steps(PIXELS)
    watchdog.is_compiling = lambda: True
    time.passes(599)
    assert not watchdog.is_hung

    watchdog.is_compiling = lambda: False
    assert hangs_after(watchdog, time, 30)

    watchdog.start_steps(PIXELS)
    watchdog.is_compiling = lambda: True
    assert hangs_after(watchdog, time, 600)


def test_every_step_proves_life(time: Time, watchdog: ProgressWatchdog) -> None:
    watchdog.start_steps(PIXELS)

    for _ in range(10):
        time.passes(20)
        watchdog.heartbeat()
        assert not watchdog.is_hung


@pytest.mark.parametrize("count", [1, 200])
def test_slow_steps_are_given_ten_times_their_usual_time(time: Time, watchdog: ProgressWatchdog, count: int) -> None:
    """They are so from the first step on."""
    make_steps(watchdog, time, 10, count)

    assert hangs_after(watchdog, time, 100)


def test_larger_images_are_given_more(time: Time, watchdog: ProgressWatchdog) -> None:
    """A device on which a step of a small one takes long is no hung one when it is given a large one."""
    make_steps(watchdog, time, 10, pixels=PIXELS // 4)
    watchdog.start_steps(PIXELS)

    assert hangs_after(watchdog, time, 400)


def test_smaller_images_are_given_less(time: Time, watchdog: ProgressWatchdog) -> None:
    make_steps(watchdog, time, 10)
    watchdog.start_steps(PIXELS // 2)

    assert hangs_after(watchdog, time, 50)


def test_encoding_and_decoding_have_the_same_time_limit_as_steps(time: Time, watchdog: ProgressWatchdog) -> None:
    """The prompt is encoded, an image is decoded, and the next one begins."""
    make_steps(watchdog, time, 10)
    watchdog.start_steps(PIXELS)

    assert hangs_after(watchdog, time, 100)


def test_a_batch_that_has_ended_does_not_hang(time: Time, watchdog: ProgressWatchdog) -> None:
    make_steps(watchdog, time, 5)
    watchdog.stop()
    time.passes(10_000)

    assert not watchdog.is_hung


def test_the_next_batch_begins_with_a_fresh_watchdog(time: Time, watchdog: ProgressWatchdog) -> None:
    make_steps(watchdog, time, 0.02)
    watchdog.stop()
    time.passes(10_000)
    watchdog.start_steps(PIXELS)

    assert hangs_after(watchdog, time, 30)


def test_a_guarded_stage_hangs_after_its_own_limit(time: Time, watchdog: ProgressWatchdog) -> None:
    with watchdog.guard(7, "loading"):
        assert hangs_after(watchdog, time, 7)
        assert watchdog.activity == "loading"

    assert not watchdog.is_hung


def test_a_guarded_stage_that_fails_does_not_hang(time: Time, watchdog: ProgressWatchdog) -> None:
    with pytest.raises(OSError, match="no disk"), watchdog.guard(7, "loading"):
        raise OSError("no disk")
    time.passes(8)

    assert not watchdog.is_hung


def test_a_limit_can_be_set_for_each_stage(time: Time) -> None:
    watchdog = ProgressWatchdog(StageTimeouts(load=40, step=3))
    watchdog.start_steps(PIXELS)
    assert hangs_after(watchdog, time, 40)

    make_steps(watchdog, time, 0.02)
    assert hangs_after(watchdog, time, 3)
