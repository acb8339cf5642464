"""Children that die: how soon they are restarted. The clock is the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from farm import clock
from farm.process.child import EXIT_CONFIG, EXIT_FAULTY, EXIT_NO_DEVICE
from farm.process.supervisor import Child, ChildRefused
from tests.farms import wait_for


class Nursery:
    """A child that ends with `status` after so many seconds of a life, by the test's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        self._now = 1000.0
        monkeypatch.setattr(clock, "monotonic", lambda: self._now)
        self.child = Child("worker", [sys.executable, "-c", f"raise SystemExit({status})"], grace_seconds=5)

    def pause_after_life_of(self, seconds: float) -> float:
        """Return the seconds for which the child is dead before it is restarted."""
        self.child.start()
        process = self.child._process
        assert process is not None
        process.wait()
        self._now += seconds
        with capture_logs() as log:
            self.child.check()
        (death,) = log
        pause: float = death["restart_in_seconds"]
        self._now += pause - 0.01
        self.child.check()
        assert self.child._process is None
        self._now += 0.02
        return pause


@pytest.mark.parametrize("status", [1, EXIT_FAULTY])
def test_a_child_that_dies_at_once_is_restarted_with_a_growing_backoff(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    nursery = Nursery(monkeypatch, status)

    assert [nursery.pause_after_life_of(1) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("status", "pause"), [(1, 0.5), (0, 0.5), (EXIT_FAULTY, 2)])
def test_a_good_life_is_rewarded_but_not_one_of_failures(
    monkeypatch: pytest.MonkeyPatch, status: int, pause: float
) -> None:
    nursery = Nursery(monkeypatch, status)
    for _ in range(2):
        nursery.pause_after_life_of(1)

    assert nursery.pause_after_life_of(61) == pause


def test_a_child_that_cannot_start_is_not_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    nursery = Nursery(monkeypatch, EXIT_CONFIG)

    with pytest.raises(ChildRefused):
        nursery.pause_after_life_of(1)


def test_a_device_that_was_never_there_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    nursery = Nursery(monkeypatch, EXIT_NO_DEVICE)

    with pytest.raises(ChildRefused, match="The worker refused to start"):
        nursery.pause_after_life_of(1)


def test_a_card_that_is_lost_later_is_waited_for_and_stops_no_other_child(tmp_path: Path) -> None:
    """Its worker leaves as faulty, then finds no device when it is started again."""
    found = tmp_path / "found"
    program = f"import pathlib; p = pathlib.Path({str(found)!r}); lost = p.exists(); p.touch(); "
    child = Child(
        "worker 2 on cuda:1",
        [sys.executable, "-c", f"{program} raise SystemExit({EXIT_NO_DEVICE} if lost else {EXIT_FAULTY})"],
        grace_seconds=5,
    )
    child.start()

    with capture_logs() as log:
        while len(log) < 2:
            child.check()

    assert [(line["event"], line["child"], line["status"]) for line in log] == [
        ("child died", "worker 2 on cuda:1", EXIT_FAULTY),
        ("the device of a child is lost", "worker 2 on cuda:1", EXIT_NO_DEVICE),
    ]


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    program = f"import pathlib, signal; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(deaf)!r}).touch(); "
    child = Child("worker", [sys.executable, "-c", f"{program} signal.pause()"], grace_seconds=0.2)
    child.start()
    process = child._process
    assert process is not None
    wait_for(deaf.exists, what="the child")

    child.terminate()
    child.wait()

    assert process.returncode == -signal.SIGKILL


#: A worker that hangs when it is asked to stop, and has its parent asked again each time.
HANGS = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGTERM))
os.kill(os.getppid(), signal.SIGTERM)
while True:
    signal.pause()
"""
RUNS_ONE = """
import sys
from farm.process.supervisor import Child, run_worker
from farm.process.worker_deaths import WorkerDeaths

worker = Child("worker", [sys.executable, "-c", sys.argv[1]], grace_seconds=0.5)
sys.exit(run_worker(worker, WorkerDeaths(lambda _: 0)))
"""


def test_a_worker_alone_that_hangs_is_stopped_by_force_however_often_it_is_asked() -> None:
    program = [sys.executable, "-c", RUNS_ONE, HANGS]

    ended = subprocess.run(program, timeout=30, capture_output=True, check=False)

    assert ended.returncode == 128 + signal.SIGKILL, ended.stderr


def test_children_that_hang_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three grace periods one after the other would be longer than systemd waits for the whole farm."""
    now = 1000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    waited: list[float] = []

    class Hung:
        """A process that never exits by itself; waiting for it advances the test's clock."""

        pid, returncode = 1, None

        def poll(self) -> None: ...

        def terminate(self) -> None: ...

        def kill(self) -> None: ...

        def wait(self, seconds: float | None = None) -> None:
            nonlocal now
            if seconds is not None:
                waited.append(seconds)
                now += seconds
                raise subprocess.TimeoutExpired("hung", seconds)

    children = [Child(f"worker {number}", ["hung"], grace_seconds=90) for number in range(3)]
    for child in children:
        child._process = Hung()  # type: ignore[assignment]

    for child in children:
        child.terminate()
    for child in children:
        child.wait()

    assert (waited, now) == ([90, 0, 0], 1090)
