"""Reports of dead workers: each is made once the job store answers, and none is forgotten meanwhile."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from farm.domain.errors import StoreUnavailable
from farm.process import worker_deaths
from farm.process.supervisor import Child, run_worker
from farm.process.worker_deaths import WorkerDeaths
from tests.farms import wait_for


class Store:
    """A job store that is away for so many calls."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.reported: list[str] = []

    def worker_died(self, worker: str) -> int:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable
        self.reported.append(worker)
        return 1


def test_a_death_is_reported_once_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_deaths, "_RETRY_SECONDS", 0.01)
    store = Store(failures=3)
    deaths = WorkerDeaths(store.worker_died)

    for worker in ("w1", "w2"):
        deaths.add(worker)

    wait_for(lambda: store.reported == ["w1", "w2"], what="both reports")
    deaths.close()
    assert store.reported == ["w1", "w2"]


def test_unreported_deaths_are_reported_at_the_end() -> None:
    store = Store(failures=1)
    deaths = WorkerDeaths(store.worker_died)
    deaths.add("w1")
    wait_for(lambda: store.failures == 0, what="the first try")
    deaths.close()

    assert store.reported == ["w1"]


@pytest.mark.parametrize(
    ("end", "status", "dead"),
    [
        ("sys.exit(0)", 0, False),
        ("sys.exit(78)", 78, False),
        ("sys.exit(70)", 70, True),
        ("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL, True),
    ],
)
def test_a_worker_alone_is_reported_if_it_may_have_held_jobs(tmp_path: Path, end: str, status: int, dead: bool) -> None:
    """Its id is the one that it was told, with its own pid."""
    store, note = Store(), tmp_path / "note"
    deaths = WorkerDeaths(store.worker_died)
    program = (
        f"import os, pathlib, sys; pathlib.Path({str(note)!r}).write_text(f'{{os.getpid()}}-{{sys.argv[2]}}'); {end}"
    )
    child = Child("worker", [sys.executable, "-c", program], grace_seconds=5, on_death=deaths.add)

    assert run_worker(child, deaths) == status

    assert store.reported == ([f"{socket.gethostname()}-{note.read_text()}"] if dead else [])
