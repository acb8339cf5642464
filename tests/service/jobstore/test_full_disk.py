"""A full disk below the embedded Redis: what was accepted stays, and nothing is accepted that would be lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from farm.auth.api_keys import ApiKeyStore
from farm.domain.errors import StoreDiskFull, StoreUnavailable
from farm.domain.job import State
from farm.domain.limits import Limits
from farm.jobstore.connection import connect
from farm.jobstore.disk_guard import CHANGE_RESERVE, SUBMIT_RESERVE, DiskGuard
from farm.jobstore.scripts import NAMES
from farm.jobstore.store import JobStore
from farm.process.embedded_redis import EmbeddedRedis
from farm.uploads.tickets import Part, Ticket, Tickets
from farm.webhooks.secrets import Secrets
from tests.service.jobstore.jobs import FACTS, TERMS, submit
from tests.small_disk import SmallDisk, small_disk


@pytest.mark.parametrize(
    ("free", "refused"),
    [
        (SUBMIT_RESERVE, set()),
        (SUBMIT_RESERVE - 1, {"submit", "create_bulk"}),
        (CHANGE_RESERVE, {"submit", "create_bulk"}),
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
    assert found == refused or free < CHANGE_RESERVE
    assert not found & {"delete", "claim_expired"}


def full(_: str) -> None:
    raise StoreDiskFull


#: What changes a record without a script.
CHANGES: dict[str, Callable[[redis.Redis], object]] = {
    "a key is made": lambda client: ApiKeyStore(client, full).create("ada"),
    "a key is revoked": lambda client: ApiKeyStore(client, full).revoke("ada"),
    "a key is limited": lambda client: ApiKeyStore(client, full).limit("ada", Limits(rate=1)),
    "an upload begins": lambda client: Tickets(client, full).issue(Ticket("t", "ada", key="k", content_type="")),
    "an upload ends": lambda client: Tickets(client, full).settle("t", "digest"),
    "a part arrives": lambda client: Tickets(client, full).add_part("t", 1, Part("digest", 1)),
    "a secret is made": lambda client: Secrets(client, full, signing_key=None).of("ada"),
    "a signing key is made": lambda client: Secrets(client, full, signing_key=None).signing_key(),
    "the queue is paused": lambda client: JobStore(client, TERMS, full).pause(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_other_record_is_changed_either(client: redis.Redis, change: Callable[[redis.Redis], object]) -> None:
    with pytest.raises(StoreDiskFull):
        change(client)

    assert client.keys() == []


def test_without_its_folder_the_store_is_away(client: redis.Redis, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        submit(JobStore(client, TERMS, DiskGuard(tmp_path / "gone")))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", mebibytes=48) as disk:
        if disk is None:
            pytest.skip("this machine mounts no small disk; only root may")
        yield disk


def test_nothing_that_was_accepted_is_lost_on_a_full_disk(disk: SmallDisk) -> None:
    server = EmbeddedRedis(disk.folder)
    server.start()
    try:
        client = connect(server.url)
        store = JobStore(client, TERMS, DiskGuard(disk.folder / "redis"))
        store.renew("w", FACTS, [])
        accepted = [submit(store) for _ in range(3)]
        disk.fill()

        with pytest.raises(StoreDiskFull):
            submit(store)
        with pytest.raises(StoreDiskFull):
            store.cancel(accepted[0])
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        disk.free()
        server.start()

        assert [job.state for job_id in accepted if (job := store.get(job_id))] == [State.CREATED] * 3
        assert store.cancel(accepted[0]) == "cancelled"
        submit(store)
    finally:
        server.stop()
