"""A power cut: the append-only file loses its end. All jobs before the cut are there, and end."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from farm import clock
from farm.domain.errors import ConfigurationError, StoreUnavailable
from farm.domain.job import Claimed
from farm.jobstore.connection import connect
from farm.jobstore.store import JobStore
from farm.process import embedded_redis
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import Fsync
from tests.farms import folder_in_memory, wait_for
from tests.service.crashing_farm import CrashingFarm, a_crashing_farm
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import TERMS
from tests.webhook_receiver import Receiver, running_receiver

JOBS = 30
#: Stands before a process's own `fdatasync`: it takes its time, and notes how much of the file is on the disk then.
SLOW_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int fdatasync(int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  struct stat there;
  fstat(file, &there);
  usleep(atoi(getenv("SLOW_DISK_US")));
  int outcome = real(file);
  int notes = open(getenv("SLOW_DISK_NOTES"), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dprintf(notes, "%lld\n", (long long)there.st_size);
  close(notes);
  return outcome;
}
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@contextmanager
def running(data_dir: Path, *, fsync: Fsync = "everysec") -> Iterator[EmbeddedRedis]:
    """Yield the server of a data folder, until it is killed."""
    server = EmbeddedRedis(data_dir, fsync=fsync)
    server.start()
    try:
        yield server
    finally:
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        server.stop()


def tail_of(data_dir: Path) -> Path:
    """Return the append-only file that is being written."""
    return max((data_dir / "redis" / "appendonlydir").glob("*.incr.aof"))


def length(data_dir: Path) -> int:
    return tail_of(data_dir).stat().st_size


def cut(data_dir: Path, at: int) -> None:
    with tail_of(data_dir).open("r+b") as tail:
        tail.truncate(at)


# What is left


def write_history(crashing_farm: CrashingFarm, data_dir: Path) -> list[tuple[int, str]]:
    """Run jobs to every outcome, and return how long the file was when each had been accepted."""
    dice, store, accepted = random.Random(7), crashing_farm.well.store, []

    def each(end: Callable[[Claimed], Any]) -> Callable[[], None]:
        return lambda: [end(job) for job in jobs.take(store)].clear()

    crash_points = (
        crashing_farm.complete,
        each(lambda job: store.fail(job, "render_failed", "x", retry="again")),
        each(store.release),
        each(lambda job: store.cancel(job.id)),
        each(lambda job: jobs.lose(crashing_farm.well.redis, store, job.id)),
        lambda: None,
    )
    for _ in range(JOBS):
        job_id = crashing_farm.submit(images=dice.randint(1, 3), width=dice.choice((256, 512)))
        accepted.append((length(data_dir), job_id))
        dice.choice(crash_points)()
    return accepted


@pytest.mark.parametrize("cuts", [3, pytest.param(100, marks=pytest.mark.full)])
def test_wherever_the_file_is_cut_what_stood_before_is_all_there_and_ends(
    folder: Path, receiver: Receiver, cuts: int
) -> None:
    """In the middle of a command, too, and of the changes of one script: of those all are there, or none."""
    origin = folder / "origin"
    with running(origin, fsync="always") as server, a_crashing_farm(server.url, origin, receiver) as crashing_farm:
        crashing_farm.reset()
        accepted = write_history(crashing_farm, origin)
    dice = random.Random(11)
    places = sorted({dice.randrange(accepted[2][0], length(origin)) for _ in range(cuts)})

    with ExitStack() as stack:
        for at in places:
            shutil.copytree(origin, folder / str(at), ignore=shutil.ignore_patterns("*.sock"))
            cut(folder / str(at), at)
            stack.enter_context(running(folder / str(at)))
        for at in places:
            go_on(folder / str(at), receiver, {job_id for end, job_id in accepted if end <= at})


def go_on(data_dir: Path, receiver: Receiver, there: set[str]) -> None:
    """Check that exactly the jobs accepted before the cut are there, and that all of them end."""
    url = embedded_redis.address(data_dir)
    assert url is not None
    with a_crashing_farm(url, data_dir, receiver) as crashing_farm:
        # Before, nothing is taken back from the workers of before.
        wait_for(lambda: crashing_farm.well.redis.info("server")["uptime_in_seconds"] >= TERMS.lease_seconds)
        assert set(crashing_farm.everything()) == there
        crashing_farm.go_on()
        crashing_farm.judge()
        left = crashing_farm.kinds_left()
        assert not [kind for kind in left if "*" in kind], left


def test_a_tail_of_zeros_is_taken_off(folder: Path) -> None:
    """Some file systems leave one. Redis alone would not start."""
    with running(folder) as server:
        store = JobStore(connect(server.url), TERMS)
        kept, half = jobs.submit(store), jobs.submit(store)
    whole = length(folder)
    with tail_of(folder).open("r+b") as tail:
        tail.truncate(whole - 100)
        tail.truncate(whole + 200_000)

    with running(folder) as server:
        store = JobStore(connect(server.url), TERMS)
        assert (jobs.record(store, kept).id, store.get(half)) == (kept, None)
        assert jobs.submit(store)


def test_a_file_of_zeros_is_an_empty_one(folder: Path) -> None:
    with running(folder):
        pass
    with tail_of(folder).open("r+b") as tail:
        tail.truncate(70_000)

    with running(folder) as server:
        assert connect(server.url).dbsize() == 0


def test_a_file_that_is_broken_elsewhere_stops_the_start_with_redis_own_words(folder: Path) -> None:
    """The operator must look: all that stands behind the damage may be good."""
    with running(folder) as server:
        store = JobStore(connect(server.url), TERMS)
        for _ in range(3):
            jobs.submit(store)
    content = bytearray(tail_of(folder).read_bytes())
    command = content.index(b"\r\n*", 100) + 2  # in a value, zeros would be no damage
    content[command : command + 10] = bytes(10)
    tail_of(folder).write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"redis/log, which ends: .*append only file"):
        EmbeddedRedis(folder).start()

    assert tail_of(folder).read_bytes() == content


@pytest.mark.full
def test_a_long_file_is_given_the_time_that_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(folder) as server, connect(server.url).pipeline() as pipeline:
        for number in range(6000):
            pipeline.set(f"key:{number}", number)
        pipeline.execute()
    options = EmbeddedRedis._options
    monkeypatch.setattr(EmbeddedRedis, "_options", lambda self: [*options(self), "--key-load-delay", "500"])
    monkeypatch.setattr(embedded_redis, "START_SECONDS", 1.5)

    began = clock.monotonic()
    with running(folder) as server:
        assert clock.monotonic() - began > 2
        assert connect(server.url).dbsize() == 6000


# What is lost


@dataclass
class Death:
    """A killed server: how long before its death each job was accepted, in seconds; the synced size of its file."""

    accepted: dict[str, float]
    synced: int


@pytest.fixture(scope="module")
def slow_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here, which makes the slow disk; run: sudo apt install gcc libc6-dev")
    library = tmp_path_factory.mktemp("disk") / "slow.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(library), "-", "-ldl"]
    subprocess.run(command, input=SLOW_DISK, text=True, check=True, capture_output=True)
    return library


@pytest.fixture
def kill(folder: Path, slow_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Death]:
    """Return a function that kills a server while jobs are submitted, with slow syncs of Redis and of the farm."""

    def kill_it(fsync: Fsync, *, sync_seconds: float, seconds: float) -> Death:
        notes = folder / "notes"

        def slowly(descriptor: int) -> None:
            reached = os.fstat(descriptor).st_size
            clock.pause(sync_seconds)
            with notes.open("a") as file:
                print(reached, file=file)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", slowly)
            patched.setenv("LD_PRELOAD", str(slow_disk))
            patched.setenv("SLOW_DISK_US", str(round(sync_seconds * 1e6)))
            patched.setenv("SLOW_DISK_NOTES", str(notes))
            with running(folder, fsync=fsync) as server:
                # A quick machine writes so much that Redis begins a new file, of which the notes know nothing.
                with connect(server.url) as client:
                    client.config_set("auto-aof-rewrite-percentage", 0)
                accepted, stop = submitting(server, clients=4)
                began = clock.monotonic()
                wait_for(lambda: clock.monotonic() - began > seconds, seconds=seconds + 30)
                assert server.process is not None
                server.process.kill()
                died = clock.monotonic()
                stop()
                synced = int(notes.read_text().split()[-1]) if notes.exists() else 0
        return Death({job_id: died - at for at, job_id in accepted}, synced)

    return kill_it


def lost(folder: Path, accepted: dict[str, float]) -> list[float]:
    """Return how long before the death each of the lost jobs had been accepted."""
    with running(folder) as server:
        store = JobStore(connect(server.url), TERMS)
        return [age for job_id, age in accepted.items() if store.get(job_id) is None]


def submitting(server: EmbeddedRedis, *, clients: int) -> tuple[list[tuple[float, str]], Callable[[], None]]:
    """Submit jobs, so many at a time, until the server dies; return when each was accepted, and a way to wait."""
    store = JobStore(connect(server.url), replace(TERMS, queue_limit=1_000_000))
    accepted: list[tuple[float, str]] = []

    def submit(caller: str) -> None:
        with suppress(StoreUnavailable):
            while True:
                job_id = store.submit(jobs.new_job(caller)).id
                accepted.append((clock.monotonic(), job_id))

    threads = [threading.Thread(target=submit, args=(f"caller {number}",)) for number in range(clients)]
    for thread in threads:
        thread.start()

    def stop() -> None:
        for thread in threads:
            thread.join()

    return accepted, stop


def test_killed_while_its_disk_is_busy_redis_has_lost_nothing(folder: Path, kill: Callable[..., Death]) -> None:
    """Left to Redis, `everysec` would lose what it has accepted since the sync began that is under way."""
    death = kill("everysec", sync_seconds=1.5, seconds=2.2)

    assert len(death.accepted) > 10
    assert lost(folder, death.accepted) == []


def test_with_every_change_synced_a_power_cut_costs_no_accepted_job(folder: Path, kill: Callable[..., Death]) -> None:
    death = kill("always", sync_seconds=0.02, seconds=1)
    cut(folder, death.synced)

    assert len(death.accepted) > 10
    assert lost(folder, death.accepted) == []


@pytest.mark.full
def test_synced_once_a_second_a_power_cut_costs_two_seconds_at_most(folder: Path, kill: Callable[..., Death]) -> None:
    death = kill("everysec", sync_seconds=0.02, seconds=3.6)
    cut(folder, death.synced)

    ages = lost(folder, death.accepted)
    print(len(ages), "of", len(death.accepted))
    assert 0 < len(ages) < len(death.accepted)
    # Two, and one for a machine that has much else to do.
    assert max(ages) < 3
