"""A farm whose parts can be taken away one by one, and callers who use it all the time."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import urllib3

from farm.process.embedded_redis import EmbeddedRedis
from tests.chaos.processes import Member
from tests.farms import clean_environment, free_port, wait_for
from tests.fault_proxies import FaultyWay, faulty_way
from tests.s3 import running_s3
from tests.webhook_receiver import running_receiver

#: Pause between two jobs.
_PAUSE_SECONDS = 0.5


class BreakableFarm:
    """An API, a render worker, a webhook worker and a Redis as processes, and a proxy in front of their storage."""

    def __init__(self, folder: Path, storage: FaultyWay, settings: Mapping[str, str]) -> None:
        self.storage = storage
        self.port = free_port()
        self.log = folder / "farm.log"
        self.redis = EmbeddedRedis(folder / "data")
        environment = {**clean_environment(), **settings}
        self.api = self._member("api", environment, "--port", str(self.port))
        self.worker = self._member("workers", environment)
        self.webhook_worker = self._member("workers.background", environment)

    def start(self) -> None:
        self.redis.start()
        for member in (self.api, self.worker, self.webhook_worker):
            member.look()
        wait_for(self._is_ready, seconds=240, what=f"the farm (its log is {self.log})")

    def stop(self) -> None:
        for member in (self.api, self.worker, self.webhook_worker):
            member.end()
        self.redis.stop()

    def submit(self, webhook: str) -> None:
        """Submit a job; nothing happens while the farm does not answer."""
        body = {"model": "srpo", "prompt": "a fox", "image_size": {"width": 256, "height": 256}}
        with suppress(urllib3.exceptions.HTTPError):
            urllib3.request(
                "POST",
                f"http://127.0.0.1:{self.port}/farm/v1/jobs",
                body=json.dumps(body | {"webhook_url": webhook, "webhook_events": ["job.completed"]}),
                retries=False,
                timeout=5,
            )

    def _member(self, module: str, environment: dict[str, str], *options: str) -> Member:
        program = [sys.executable, "-m", module, "--data-dir", str(self.log.parent / "data"), *options]
        return Member(module, program, environment, self.log)

    def _is_ready(self) -> bool:
        with suppress(urllib3.exceptions.HTTPError):
            reply = urllib3.request("GET", f"http://127.0.0.1:{self.port}/farm/v1/queue", retries=False, timeout=5)
            return reply.status == 200 and reply.json()["workers"]["warm"] == 1
        return False


def kill(member: Member) -> None:
    """Kill a process, for as long as nobody revives it."""
    member.signal(signal.SIGKILL)


def revive(member: Member) -> None:
    """Start a killed process again."""
    died = len(member.statuses)

    def is_back() -> bool:
        member.look()
        return len(member.statuses) > died and member.pid > 0

    wait_for(is_back, what=f"a new {member.kind}")


@contextmanager
def breakable_farm(folder: Path) -> Iterator[BreakableFarm]:
    """Yield a farm in constant use, with everything that it needs."""
    (folder / "s3").mkdir()
    with running_s3(folder / "s3") as s3, faulty_way(s3.port) as storage, running_receiver() as receiver:
        settings = {
            "FARM_PIPELINE": "simulated",
            "FARM_SIMULATED_STEP_MS": "2",
            "FARM_LEASE_SECONDS": "5",
            "FARM_STORAGE_URL": s3.place().url,
            "FARM_S3_ADDRESSING": "path",
            "FARM_WEBHOOK_ALLOW": "127.0.0.1/32",
            **s3.environment(storage.port),
        }
        farm = BreakableFarm(folder, storage, settings)
        try:
            farm.start()
            with _in_use(farm, receiver.url):
                yield farm
        finally:
            farm.stop()


@contextmanager
def _in_use(farm: BreakableFarm, webhook: str) -> Iterator[None]:
    is_over = threading.Event()

    def use() -> None:
        while not is_over.wait(_PAUSE_SECONDS):
            farm.submit(webhook)

    caller = threading.Thread(target=use, name="caller")
    caller.start()
    try:
        yield
    finally:
        is_over.set()
        caller.join()
