"""A farm of which one process may die at any call, while the others go on: the invariants afterwards."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from farm import bootstrap, service
from farm.auth.api_keys import LOCAL
from farm.bootstrap import Farm, build
from farm.domain.errors import Unreachable
from farm.domain.job import Claimed, Image, State
from farm.jobstore import memory_guard, redis_keys
from farm.jobstore.connection import connect
from farm.jobstore.scripts import NAMES, script_text
from farm.settings import Settings
from farm.storage.storage import new_key
from farm.webhooks.courier import Courier
from tests.failing_calls import FailingCalls, Mortal, MortalClient
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.service.workers.worker import folder_of
from tests.threads import ended_background_threads
from tests.webhook_receiver import Receiver, answer
from workers import background
from workers.enhancer import Template
from workers.preparing import Preparer

MODELS = ("srpo", "kontext")
#: What a worker of these says of itself.
WORKER = FACTS | {"models": ",".join(MODELS)}
#: So often leases, pauses and delays run out; by then everything has ended.
_ROUNDS = 30
#: Kept for each lane, and not for each job.
_VIRTUAL_TIME = tuple(f"{redis_keys.PREFIX}{kind}:" for kind in ("vclock", "accepted_vfinish", "claimed_vfinish"))


class _Silent:
    """Sends no wake-ups: they may always be lost."""

    def __init__(self, *_: object) -> None:
        pass

    def send(self, workers: int) -> None:
        pass


@dataclass
class CrashingFarm:
    """A farm with one process that may die, `mortal`; `well` is what survives."""

    well: Farm
    mortal: Farm
    failing_calls: FailingCalls
    api: FlaskClient
    receiver: Receiver
    #: Jobs whose submit was answered well.
    promised: set[str] = field(default_factory=set)
    #: How many of the mortal processes were befallen by something.
    struck: int = 0

    def reset(self) -> None:
        """Reset to an empty farm with a worker that has announced its models."""
        self.failing_calls.begin()
        self.failing_calls.then.clear()
        self.well.redis.flushall()
        shutil.rmtree(folder_of(self.well.storage), ignore_errors=True)
        self.well.store.renew("w", WORKER, [])
        self.well.redis.set(redis_keys.PUBLIC_URL, BASE)
        self.well.sweeper.sweep()  # leaves the farm's mark
        self.receiver.received.clear()
        self.receiver.behave = answer(200)
        self.promised.clear()

    def submit(self, **fields: Any) -> str:
        """Submit a job of the only caller while keys are off, and return it."""
        job_id = jobs.submit(self.well.store, LOCAL.id, **fields)
        self.promised.add(job_id)
        return job_id

    def complete(self) -> None:
        """Let a healthy worker complete every waiting job."""
        while batch := self.well.store.claim("w", MODELS).batch.jobs:
            for job in batch:
                self._complete_one(job)

    def _complete_one(self, job: Claimed) -> None:
        numbers = range(job.request.images)
        names = [new_key(job.id, job.fence, number, "jpeg") for number in numbers]
        for name in names:
            self.well.storage.put(name, b"content")
        images = tuple(Image(name, 256, 256, "image/jpeg", 7) for name in names)
        self.well.store.complete(job, replace(jobs.result(job), images=images))

    def go_on(self) -> None:
        """Let other processes take over, and time pass, until every job has ended and every webhook is delivered."""
        for _ in range(_ROUNDS):
            if self._is_over():
                return
            self._let_time_pass()
            self.well.store.reap()
            at_work(background._preparer(self.well, Template(), "b1"))
            self.complete()
            at_work(background._courier(self.well, "b1"))

    def _is_over(self) -> bool:
        records = [jobs.record(self.well.store, job_id) for job_id in self.everything()]
        untold = cast(str | None, self.well.redis.hget(redis_keys.TOTALS, "webhooks_waiting"))
        return all(job.state.is_terminal for job in records) and int(untold or 0) == 0

    def _let_time_pass(self) -> None:
        client = self.well.redis
        jobs.end_lease(client)
        jobs.end_delays(client)
        jobs.end_waiting_for_callers(client)
        jobs.end_preparation(client, *self.everything())
        for name in [str(name) for name in client.scan_iter(f"{redis_keys.PREFIX}*")]:
            if re.match(
                f"{redis_keys.PREFIX}(delivery_queues$|delivery_queue:|delivery_leases:|delivery_leases_of:)", name
            ):
                client.zadd(name, dict.fromkeys(cast(list[str], client.zrange(name, 0, -1)), 0))

    def everything(self) -> list[str]:
        """Return all recorded jobs."""
        return cast(list[str], self.well.redis.zrange(redis_keys.JOBS, 0, -1))

    # What must hold

    def judge(self) -> None:
        """Check that nothing promised is lost, every job has one end, and nothing is left behind."""
        found = self.everything()
        assert self.promised <= set(found), "a job was lost that was accepted"
        for job_id in found:
            self._judge_one(job_id)
        self._judge_what_was_told(found)
        self.well.sweeper.sweep(older_than=-60)
        assert self._files() == self._named_files(found), "an image is gone, or an orphan"

    def _judge_one(self, job_id: str) -> None:
        job = jobs.record(self.well.store, job_id)
        result = jobs.events(self.well.redis, job_id)
        assert job.state.is_terminal, f"{job_id} never ends"
        assert [number for number, _ in result] == list(range(1, len(result) + 1))
        assert [State(state).is_terminal for _, state in result] == [False] * (len(result) - 1) + [True], result
        assert (job.state is State.COMPLETED) == (job.result is not None)

    def _judge_what_was_told(self, found: list[str]) -> None:
        wanted = {job_id for job_id in found if jobs.record(self.well.store, job_id).webhook}
        assert {came.json["data"]["id"] for came in self.receiver.received} == wanted, "an end was not told"
        assert len({came.headers["webhook-id"] for came in self.receiver.received}) == len(wanted), "told as two ends"

    def _named_files(self, found: list[str]) -> set[str]:
        """Return the names of these jobs' images and inputs."""
        records = [jobs.record(self.well.store, job_id) for job_id in found]
        images = {image.key for job in records if job.result for image in job.result.images}
        return images | {name for job in records for name in (*job.request.inputs, *job.request.sources)}

    def _files(self) -> set[str]:
        files = (path.name for path in folder_of(self.well.storage).rglob("*") if path.is_file())
        return {name for name in files if not name.startswith("farm-id-")}

    def kinds_left(self) -> set[str]:
        """Return the kinds of keys that stay when every job is deleted and every worker has long been silent."""
        for job_id in self.everything():
            self.well.service.delete(LOCAL, job_id)
        assert self._files() == set()
        client = self.well.redis
        for worker in cast(list[str], client.zrange(redis_keys.WORKERS, 0, -1)):
            client.zadd(redis_keys.WORKERS, {worker: 0})
        self.well.store.reap()
        kinds = {re.sub(r"[0-9a-f-]{32,}", "*", name) for name in jobs.names(client) if client.ttl(name) == -1}
        return {kind for kind in kinds if not kind.startswith(_VIRTUAL_TIME)}


def at_work(owner: Preparer | Courier) -> None:
    """Run a pool until it finds no more items."""
    try:
        owner.work()
    finally:
        owner._pool._pool.shutdown(wait=True)


@contextmanager
def a_crashing_farm(
    redis_url: str, folder: Path, receiver: Receiver, *, listens: bool = False
) -> Iterator[CrashingFarm]:
    """Yield such a farm. Its processes cache nothing that would save them a call.

    `listens`: callers may wait for changes, for which there are threads that live on.
    """
    settings = Settings(redis_url=redis_url, redis_unsafe=True, lease_seconds=1, webhook_allow=frozenset({"127.0.0.1"}))
    failing_calls = FailingCalls()
    with pytest.MonkeyPatch.context() as patch, ended_background_threads():
        patch.setattr(bootstrap, "WakeUps", _Silent)
        patch.setattr(service, "_SERVED_SECONDS", 0.0)
        patch.setattr(memory_guard, "MEMORY_READING_SECONDS", 0.0)
        well = build(settings, folder, listens=listens)
        for name in NAMES:  # no life is longer than the others because it is the first
            well.redis.script_load(script_text(name))
        patch.setattr(bootstrap, "JobChanges", lambda _: well.service._changes)
        patch.setattr(bootstrap, "EventFeed", lambda _: None)
        patch.setattr(bootstrap, "connect", lambda url: MortalClient(failing_calls, connect(url)))
        patch.setattr(bootstrap, "storage_for", lambda *_: Mortal(failing_calls, well.storage))
        mortal = build(settings, folder, listens=listens)
        mortal = replace(
            mortal, outbound=cast(Any, Mortal(failing_calls, well.outbound, partial(Unreachable, "Lost.")))
        )
        app = create_app(mortal, base=BASE, with_keys=False, max_streams=4, max_held_calls=4)
        yield CrashingFarm(well, mortal, failing_calls, app.test_client(), receiver)
