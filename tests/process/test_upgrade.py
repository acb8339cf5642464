"""A rolling upgrade: processes of the last version and of this one on one Redis, forwards and back."""

from __future__ import annotations

import subprocess
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import cast

import pytest
import redis

from farm.jobstore import redis_keys, schema
from tests.docs_snippets import DOCS
from tests.farms import folder_in_memory, free_port, own_redis, wait_for
from tests.plain_processes import SOURCES, Api, PlainProcesses, plain_processes, wait_for_workers
from tests.webhook_receiver import Receiver, running_receiver

_ROOT = DOCS.parent
#: The last commit of schema 0, which had no number yet.
_PREVIOUS = "17df5d3"
JOBS = 6


def previous_tree(folder: Path) -> Path:
    """Return the sources of the last version."""
    archive = ["git", "-C", str(_ROOT), "archive", _PREVIOUS, *SOURCES]
    done = subprocess.run(archive, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this copy of the repository has no commit {_PREVIOUS}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


class Version:
    """The processes of one version: an API, a render worker and a webhook worker."""

    def __init__(self, name: str, tree: Path, processes: PlainProcesses, settings: dict[str, str]) -> None:
        self._names = [f"{name} {part}" for part in ("worker", "webhooks", "api")]
        self._tree = tree
        self._processes = processes
        self._settings = settings
        self._port = free_port()
        self.api = Api(self._port)

    def start(self) -> None:
        worker, webhooks, api = self._names
        for name, words in (
            (worker, ["worker"]),
            (webhooks, ["worker", "--webhooks"]),
            (api, ["api", "--port", str(self._port)]),
        ):
            words += ["--data-dir", self._settings["DATA"]]
            self._processes.start(name, words, self._settings, self._tree)
        wait_for(self.api.is_ready, seconds=120, what="the API")

    def stop(self) -> None:
        self._processes.stop(*self._names)


@pytest.mark.full
def test_versions_replace_each_other_forwards_and_back_and_lose_nothing(tmp_path: Path) -> None:
    with (
        folder_in_memory() as folder,
        own_redis(folder / "redis", "--appendonly", "yes") as url,
        running_receiver() as receiver,
        plain_processes(tmp_path) as processes,
    ):
        settings = {
            "FARM_REDIS_URL": url,
            "FARM_PIPELINE": "simulated",
            "FARM_WEBHOOK_ALLOW": "127.0.0.1",
            "DATA": str(folder / "data"),
        }
        client = redis.Redis.from_url(url, decode_responses=True)
        old = Version("old", previous_tree(folder / "previous"), processes, settings)
        new = Version("new", _ROOT, processes, settings)
        old.start()
        wait_for_workers(client, 1)
        submitted = submit(old, receiver)

        for before, after in ((old, new), (new, old)):
            after.start()
            wait_for_workers(client, 2)
            assert schema.read(client) == schema.CURRENT
            submitted += submit(before, receiver) + submit(after, receiver)
            before.stop()
            submitted += submit(after, receiver)
            for job_id in submitted:
                after.api.wait_for_end(job_id)

        wait_for(lambda: notified(receiver) == {*submitted}, seconds=120, what="the webhook of every job")
        assert ends(client) == Counter(submitted)


def submit(version: Version, receiver: Receiver) -> list[str]:
    hook = {"webhook_url": receiver.url, "webhook_events": ["job.completed", "job.failed"]}
    return [version.api.submit(num_inference_steps=4, **hook) for _ in range(JOBS)]


def notified(receiver: Receiver) -> set[str]:
    return {each.json["data"]["id"] for each in list(receiver.received)}


def ends(client: redis.Redis) -> Counter[str]:
    """Return how often each job has ended."""
    entries = cast(list[tuple[str, dict[str, str]]], client.xrange(redis_keys.OUTBOX))
    return Counter(fields["job"] for _, fields in entries if fields["state"] in ("completed", "failed"))
