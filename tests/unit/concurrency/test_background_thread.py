"""Daemon threads that repeat an action, and threads for one call."""

from __future__ import annotations

import threading

import pytest

from farm.concurrency import periodic
from farm.concurrency.background_thread import BackgroundThread, call_in_thread
from farm.concurrency.periodic import PeriodicThread
from farm.domain.errors import StoreUnavailable
from tests.farms import wait_for


def test_a_background_thread_acts_only_when_woken() -> None:
    acted = threading.Semaphore(0)
    thread = BackgroundThread("test", lambda: acted.release())
    thread.start()
    assert not acted.acquire(timeout=0.05)

    thread.wake()

    assert acted.acquire(timeout=20)
    assert not acted.acquire(timeout=0.05)
    thread.close()


def test_a_wake_up_before_the_start_is_kept() -> None:
    acted = threading.Event()
    thread = BackgroundThread("test", acted.set)

    thread.wake()
    thread.start()

    assert acted.wait(20)
    thread.close()


def test_wake_ups_during_an_action_become_one() -> None:
    acted, may_go_on = threading.Semaphore(0), threading.Semaphore(0)

    def act() -> None:
        acted.release()
        may_go_on.acquire(timeout=20)

    thread = BackgroundThread("test", act)
    thread.start()
    thread.wake()
    assert acted.acquire(timeout=20)

    for _ in range(3):
        thread.wake()
    may_go_on.release(10)

    assert acted.acquire(timeout=20)
    assert not acted.acquire(timeout=0.05)
    thread.close()


@pytest.mark.parametrize("error", [StoreUnavailable(), ValueError("no luck")])
def test_a_background_thread_survives_errors(error: Exception) -> None:
    attempts = threading.Semaphore(0)

    def fail() -> None:
        attempts.release()
        raise error

    thread = BackgroundThread("test", fail, pause=lambda: 0.001)
    thread.start()

    assert all(attempts.acquire(timeout=20) for _ in range(3))
    thread.close()


def test_a_closed_background_thread_does_not_act() -> None:
    acted: list[int] = []
    thread = BackgroundThread("test", lambda: acted.append(1))
    thread.start()

    thread.close()
    thread.wake()

    assert not thread.is_alive()
    assert acted == []


def test_one_that_was_never_started_can_be_closed() -> None:
    BackgroundThread("test", lambda: None).close()


def test_a_periodic_task_that_fails_keeps_no_other_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "_INTERVAL_SECONDS", 0.001)
    acted = threading.Semaphore(0)

    def fail() -> None:
        raise ValueError("no luck")

    thread = PeriodicThread(fail, lambda: acted.release())
    thread.start()

    assert all(acted.acquire(timeout=20) for _ in range(3))
    thread.close()


def test_a_call_in_a_thread_has_an_outcome() -> None:
    assert call_in_thread("test", lambda: threading.current_thread().name).result(20) == "test"

    def fail() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        call_in_thread("test", fail).result(20)


def test_a_call_that_hangs_keeps_no_process_from_exiting() -> None:
    may_end = threading.Event()
    outcome = call_in_thread("hanging", lambda: may_end.wait(20))

    (thread,) = [thread for thread in threading.enumerate() if thread.name == "hanging"]
    assert thread.daemon
    assert not outcome.done()
    may_end.set()
    wait_for(outcome.done)
