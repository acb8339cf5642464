"""A farm whose processes reach Redis over a proxy each, so that each may be cut off alone; and a caller for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import urllib3

from farm.cli.up import api_program, webhook_program, worker_program
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect
from farm.jobstore.stats import StoreStats
from farm.process import child
from farm.process.embedded_redis import EmbeddedRedis
from farm.process.listen import ListenAddress
from tests.farms import RunningFarm, folder_in_memory, wait_for
from tests.fault_proxies import Wire
from tests.webhook_receiver import Receiver, running_receiver

LEASE = 2.0
#: How long it may take until everybody works again, in seconds: 20, and the rest for a machine with much to do, where a
#: process that ended when memory was full takes long to start again.
WORKS_AGAIN = 90.0
#: How long a caller may have to wait for any answer, in seconds: 2 for most, and more for a machine with much to do.
ANSWERED = 15.0
WORKERS = ("worker 1", "worker 2")


class SpreadFarm(RunningFarm):
    """Single processes on a Redis that they reach over their proxies. `python` runs them."""

    def __init__(self, data_dir: Path, *, python: str = sys.executable, **environment: str) -> None:
        super().__init__(data_dir, environment=environment)
        self.server = EmbeddedRedis(data_dir)
        programs = {
            "api": api_program(ListenAddress("127.0.0.1", self.port), data_dir),
            **{name: worker_program(data_dir) for name in WORKERS},
            "webhooks": webhook_program(data_dir),
        }
        self._programs = {name: [python, *words] for name, (_, *words) in programs.items()}
        self.wires: dict[str, Wire] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self.log = data_dir.with_suffix(".log")

    def start(self, *, seconds: float = 110) -> None:
        self.server.start()
        self.admin = connect(self.server.url)
        for name in self._programs:
            self.wires[name] = Wire(Path(self.server.url.removeprefix("unix://")))
            self.wires[name].open()
        self._keeper = threading.Thread(target=self._keep_running, daemon=True)
        self._keeper.start()
        wait_for(self.is_warm, seconds=seconds, what=f"a warm farm (its log is {self.log})")

    def stop(self) -> int:
        self.heal()
        self._http.clear()  # the API would wait for what may still come over them
        self._stopping.set()
        self._keeper.join()
        for wire in self.wires.values():
            wire.close()
        self.server.stop()
        # The signal itself ends a process that has just been started again, and holds nothing yet.
        return max(map(abs, self._statuses - {0, -signal.SIGTERM}), default=0)

    def heal(self) -> None:
        for wire in self.wires.values():
            wire.heal()

    def kill_process(self, name: str) -> None:
        self._processes[name].kill()

    def _run(self, name: str) -> None:
        environment = self._environment | {"FARM_REDIS_URL": f"redis://127.0.0.1:{self.wires[name].port}/0"}
        with self.log.open("ab") as log:
            program = child.command(*self._programs[name])
            self._processes[name] = subprocess.Popen(program, env=environment, stdout=log, stderr=log)

    def _keep_running(self) -> None:
        """Restart what exits badly, as systemd does. The processes die with the thread that started them."""
        for name in self._programs:
            self._run(name)
        while not self._stopping.wait(0.2):
            for name, process in self._processes.items():
                if process.poll():
                    self._run(name)
        for process in self._processes.values():
            process.terminate()
        self._statuses = {process.wait(60) for process in self._processes.values()}

    @property
    def warm_workers(self) -> set[str]:
        """The ids of the workers that take jobs: a process that is started again has another."""
        return {one.id for one in StoreStats(self.admin).workers() if one.facts.get("state") == "warm"}

    def is_warm(self) -> bool:
        """Return True if each worker has been heard of and takes jobs, and the API is ready."""
        try:
            return len(self.warm_workers) == len(WORKERS) and self.call("GET", "/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False


class Caller(threading.Thread):
    """Submits job after job, each until it is accepted, and records how long it waited for answers."""

    def __init__(self, farm: RunningFarm, receiver: Receiver) -> None:
        super().__init__(daemon=True)
        self._farm = farm
        self._receiver = receiver
        self._over = threading.Event()
        self.accepted: list[str] = []
        self.refusals: Counter[int] = Counter()
        self.longest = 0.0

    def run(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            while not self._submit(number):
                self._over.wait(0.1)
            number += 1

    def stop(self) -> None:
        """Accept the last job, and no job after it."""
        self._over.set()
        self.join()

    def _submit(self, number: int) -> bool:
        body = {
            "model": "srpo",
            "prompt": f"fox {number}",
            "num_inference_steps": 4,
            "image_size": {"width": 256, "height": 256},
            "webhook_url": self._receiver.url,
            "webhook_events": ["job.completed", "job.failed"],
        }
        began = time.monotonic()
        answer = self._farm.call("POST", "/farm/v1/jobs", body, Idempotency_Key=f"{id(self)}-{number}")
        self.longest = max(self.longest, time.monotonic() - began)
        if answer.status == 202:
            self.accepted.append(answer.json["id"])
            return True
        assert answer.status in (429, 503), answer.body
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        self.refusals[answer.status] += 1
        return False


@contextmanager
def spread_farm(python: str = sys.executable) -> Iterator[tuple[SpreadFarm, Receiver]]:
    """Yield such a farm, and the receiver of its webhooks."""
    settings = {
        "FARM_SIMULATED_STEP_MS": "10",
        "FARM_LEASE_SECONDS": str(LEASE),
        "FARM_MAX_ATTEMPTS": "10",  # such short leases run out by themselves on a machine with much to do
        "FARM_WEBHOOK_ALLOW": "127.0.0.1",
        "FARM_WEBHOOK_SCHEDULE": "1s,1s,1s,1s,1s",
    }
    with folder_in_memory() as folder, running_receiver() as receiver:
        farm = SpreadFarm(folder / "data", python=python, **settings)
        try:
            farm.start()
            yield farm, receiver
        finally:
            status = farm.stop()
        assert status == 0, farm.log.read_text()[-3000:]


@contextmanager
def calling(farm: SpreadFarm, receiver: Receiver) -> Iterator[Caller]:
    """Submit jobs inside the block. Afterwards each has ended well, once, with its webhook; all were answered."""
    caller = Caller(farm, receiver)
    caller.start()
    wait_for(lambda: len(caller.accepted) > 10, what="the first jobs")
    try:
        yield caller
        wait_for(partial(goes_on, caller, len(caller.accepted)), seconds=WORKS_AGAIN, what="a submit that is accepted")
    finally:
        farm.heal()
        caller.stop()
    judge(farm, receiver, caller.accepted)
    assert caller.longest < ANSWERED


def goes_on(caller: Caller, before: int) -> bool:
    return len(caller.accepted) > before + 3


def judge(farm: SpreadFarm, receiver: Receiver, accepted: list[str]) -> None:
    assert len(set(accepted)) == len(accepted)
    wait_for(lambda: open_jobs(farm, accepted) == 0, seconds=90, what="the end of every job")
    entries = cast(list[tuple[str, dict[str, str]]], farm.admin.xrange(redis_keys.OUTBOX))
    ends = Counter(
        fields["job"]
        for _, fields in entries
        if fields["state"] in ("completed", "failed") and fields["job"] in accepted
    )
    assert ends == Counter(accepted)
    failed = why_failed(farm, accepted)
    assert not failed, failed
    wait_for(lambda: set(accepted) <= result(receiver), seconds=90, what="a call to the webhook for every end")


def result(receiver: Receiver) -> set[str]:
    return {came.json["data"]["id"] for came in list(receiver.received)}


def open_jobs(farm: SpreadFarm, accepted: list[str]) -> int:
    return sum(state not in ("completed", "failed") for state in states(farm, accepted))


def why_failed(farm: SpreadFarm, accepted: list[str]) -> list[dict[str, str]]:
    """Return the records of the jobs that did not end well."""
    failed = [job_id for job_id, state in zip(accepted, states(farm, accepted), strict=True) if state != "completed"]
    return [cast(dict[str, str], farm.admin.hgetall(redis_keys.job(job_id))) for job_id in failed]


def states(farm: SpreadFarm, accepted: list[str]) -> list[str]:
    with farm.admin.pipeline(transaction=False) as pipeline:
        for job_id in accepted:
            pipeline.hget(redis_keys.job(job_id), "state")
        found: list[str] = pipeline.execute()
    return found


def stay(seconds: float) -> None:
    """Wait while a fault lasts."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, seconds=seconds + 5)


def completed(farm: SpreadFarm) -> int:
    totals = cast(dict[str, str], farm.admin.hgetall(redis_keys.TOTALS))
    return sum(int(count) for name, count in totals.items() if name.startswith("jobs_completed:"))


def works_again(farm: SpreadFarm, receiver: Receiver) -> None:
    """Check that the farm works again within 20 seconds."""
    before, called = completed(farm), len(receiver.received)
    wait_for(lambda: completed(farm) > before + 5, seconds=WORKS_AGAIN, what="jobs that are rendered again")
    wait_for(lambda: len(receiver.received) > called + 5, seconds=WORKS_AGAIN, what="calls to the webhook again")


# Faults of Redis


def kill_all_connections(farm: SpreadFarm) -> None:
    farm.admin.client_kill_filter(_type="normal", skipme=True)
    farm.admin.client_kill_filter(_type="pubsub", skipme=True)


def kill_a_worker(farm: SpreadFarm) -> None:
    farm.kill_process(WORKERS[0])


def let_wires_die(farm: SpreadFarm) -> None:
    """Stall the connections of all processes, without either end noticing."""
    for wire in farm.wires.values():
        wire.die()


def lose_all_wake_ups(farm: SpreadFarm) -> None:
    for name in farm.admin.scan_iter(f"{redis_keys.CELERY}*"):
        farm.admin.delete(name)


def pause(farm: SpreadFarm) -> None:
    farm.admin.client_pause(3000)
    stay(3)


def freeze(farm: SpreadFarm) -> None:
    assert farm.server.process is not None
    os.kill(farm.server.process.pid, signal.SIGSTOP)
    stay(4)
    os.kill(farm.server.process.pid, signal.SIGCONT)


def kill(farm: SpreadFarm) -> None:
    assert farm.server.process is not None
    farm.server.process.kill()
    farm.server.process.wait()
    stay(1)
    farm.server.start()


def refuse_writes(farm: SpreadFarm) -> None:
    """Have Redis refuse every write with an error, as it does when its disk is full: its replicas are away."""
    farm.admin.config_set("min-replicas-to-write", 1)
    stay(3)
    farm.admin.config_set("min-replicas-to-write", 0)


def demote(farm: SpreadFarm) -> None:
    """Make Redis a replica of nothing for a moment: read-only, as one that a failover has demoted."""
    farm.admin.replicaof("127.0.0.1", "1")
    stay(4)
    farm.admin.replicaof("no", "one")


def revoke_rights(farm: SpreadFarm) -> None:
    """Take the rights to write and to subscribe from everybody for a moment, and end their connections."""
    farm.admin.acl_setuser("default", enabled=True, nopass=True, categories=["-@write"], reset_channels=True)
    kill_all_connections(farm)
    stay(4)
    farm.admin.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], channels=["*"])


def fill(farm: SpreadFarm) -> None:
    """Fill Redis beyond its limit: nothing may be written any more, not even that a job is completed."""
    limit = int(str(farm.admin.config_get("maxmemory")["maxmemory"]))
    farm.admin.config_set("maxmemory", 1_000_000)
    stay(4)
    farm.admin.config_set("maxmemory", limit)
