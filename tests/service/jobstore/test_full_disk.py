"""A full disk below the embedded Redis: what was accepted stays, and nothing is accepted that would be lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.domain.errors import StoreDiskFull
from farm.domain.job import State
from farm.jobstore.connection import connect
from farm.jobstore.disk_guard import CHANGE_RESERVE, SUBMIT_RESERVE, DiskGuard
from farm.jobstore.scripts import NAMES
from farm.jobstore.store import JobStore
from farm.process.embedded_redis import EmbeddedRedis
from tests.service.jobstore.jobs import FACTS, TERMS, submit

MIB = 2**20


@pytest.mark.parametrize(
    ("free", "refused"),
    [
        (SUBMIT_RESERVE, set()),
        (SUBMIT_RESERVE - 1, {"submit"}),
        (CHANGE_RESERVE, {"submit"}),
        (CHANGE_RESERVE - 1, {"submit", "complete", "fail", "cancel", "claim", "reap", "redeliver"}),
        (0, {"submit", "complete", "fail", "cancel", "claim", "reap", "redeliver"}),
    ],
)
def test_the_less_space_is_left_the_less_is_changed(tmp_path: Path, free: int, refused: set[str]) -> None:
    """Scripts that free space run to the last byte."""
    guard = DiskGuard(tmp_path, lambda _: free)

    def is_refused(script: str) -> bool:
        try:
            guard(script)
        except StoreDiskFull:
            return True
        return False

    found = {name for name in NAMES if is_refused(name)}
    assert refused <= found
    assert len(found) <= 1 or free < CHANGE_RESERVE
    assert not found & {"delete", "claim_expired"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a data folder on a disk of 48 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path, *, leave: int) -> None:
    """Fill the disk of a file up to `leave` bytes."""
    with file.open("ab", buffering=0) as content:
        disk = os.statvfs(file.parent)
        left = disk.f_bavail * disk.f_frsize - leave
        while left > 0:
            left -= content.write(bytes(min(left, MIB)))


def test_nothing_that_was_accepted_is_lost_on_a_full_disk(small_disk: Path) -> None:
    server = EmbeddedRedis(small_disk)
    server.start()
    try:
        client = connect(server.url)
        store = JobStore(client, TERMS, DiskGuard(small_disk / "redis"))
        store.renew("w", FACTS, [])
        accepted = [submit(store) for _ in range(3)]
        fill(small_disk / "filler", leave=0)

        with pytest.raises(StoreDiskFull):
            submit(store)
        with pytest.raises(StoreDiskFull):
            store.cancel(accepted[0])
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        (small_disk / "filler").unlink()
        server.start()

        assert [job.state for job_id in accepted if (job := store.get(job_id))] == [State.CREATED] * 3
        assert store.cancel(accepted[0]) == "cancelled"
        submit(store)
    finally:
        server.stop()
