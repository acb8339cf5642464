"""Backup of an embedded Redis that is written to, and restore into an empty data folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.domain.errors import ConfigurationError
from farm.domain.job import State
from farm.jobstore.connection import connect
from farm.jobstore.store import JobStore
from farm.process.backup import back_up, restore
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis
from tests.farms import folder_in_memory, wait_for
from tests.service.jobstore.jobs import TERMS, result, state, submit, take_one


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


class Load(threading.Thread):
    """Submits and completes jobs, one after another."""

    def __init__(self, store: JobStore) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._over = threading.Event()
        self.completed: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            job_id = submit(self._store)
            job = take_one(self._store)
            self._store.complete(job, result(job))
            self.completed.append(job_id)

    def stop(self) -> None:
        self._over.set()
        self.join()


def test_a_backup_under_load_is_restored_whole(folder: Path) -> None:
    """All that was answered before the backup is in it, and the farm goes on from there."""
    data_dir, copy, other = folder / "data", folder / "copy", folder / "other"
    lock, server = DataDir(data_dir), EmbeddedRedis(data_dir)
    lock.acquire()
    server.start()
    client = connect(server.url)
    store = JobStore(client, TERMS)
    waiting = [submit(store, "bob", model="kontext") for _ in range(3)]
    load = Load(store)
    load.start()
    wait_for(lambda: len(load.completed) > 20, what="the first jobs")
    client.bgrewriteaof()  # the backup waits for it
    before = list(load.completed)
    back_up(data_dir, copy)
    assert client.config_get("auto-aof-rewrite-percentage") == {"auto-aof-rewrite-percentage": "100"}
    load.stop()
    server.stop()
    lock.release()

    restore(copy, other)
    again = EmbeddedRedis(other)
    again.start()
    restored = JobStore(connect(again.url), TERMS)

    assert {state(restored, job_id) for job_id in before} == {State.COMPLETED}
    assert {state(restored, job_id) for job_id in waiting} == {State.CREATED}
    taken = [job for _ in range(3) for job in restored.claim("w1", ["kontext"]).batch.jobs]
    assert sorted(job.id for job in taken) == sorted(waiting)
    assert all(restored.complete(job, result(job)) for job in taken)
    again.stop()


def test_a_farm_at_rest_is_copied_too(folder: Path) -> None:
    server = EmbeddedRedis(folder / "data")
    server.start()
    job_id = submit(JobStore(connect(server.url), TERMS))
    server.stop()

    back_up(folder / "data", folder / "copy")
    restore(folder / "copy", folder / "other")

    again = EmbeddedRedis(folder / "other")
    again.start()
    assert state(JobStore(connect(again.url), TERMS), job_id) is State.CREATED
    again.stop()


def test_nothing_is_overwritten(folder: Path) -> None:
    for name in ("data", "other"):
        (folder / name / "redis" / "appendonlydir").mkdir(parents=True)
    (folder / "copy" / "appendonlydir").mkdir(parents=True)

    with pytest.raises(ConfigurationError, match="exists already"):
        back_up(folder / "data", folder / "copy")
    with pytest.raises(ConfigurationError, match="has a Redis already"):
        restore(folder / "copy", folder / "other")
    with pytest.raises(ConfigurationError, match="is not a backup"):
        restore(folder / "data", folder / "new")
    with pytest.raises(ConfigurationError, match="nothing to back up"):
        back_up(folder / "copy", folder / "new")


def test_a_farm_that_runs_is_not_restored_over(folder: Path) -> None:
    (folder / "copy" / "appendonlydir").mkdir(parents=True)
    lock = DataDir(folder / "data")
    lock.acquire()

    with pytest.raises(ConfigurationError, match="already runs"):
        restore(folder / "copy", folder / "data")
    lock.release()
