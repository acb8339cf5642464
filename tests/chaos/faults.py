"""The faults that are injected into the farm, by a schedule drawn from a seed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import redis

from farm.jobstore import redis_keys
from tests.chaos.input_host import InputHost
from tests.chaos.processes import FarmProcesses, Member
from tests.chaos.receivers import Receivers
from tests.chaos.records import Injection, Observations
from tests.fault_proxies import Fault, FaultyWay, refusal
from tests.small_disk import SmallDisk

#: Everything that is done, and how often, out of the sum of all.
ALL: Mapping[str, int] = {
    "kill worker": 24,
    "term worker": 8,
    "stop worker": 12,
    "kill api": 7,
    "term api": 2,
    "stop api": 3,
    "kill webhook worker": 5,
    "term webhook worker": 2,
    "stop webhook worker": 3,
    "kill redis": 5,
    "stop redis": 3,
    "pause redis": 4,
    "cut redis": 4,
    "flush celery": 5,
    "refuse storage": 4,
    "slow storage": 3,
    "silent storage": 2,
    "storage down": 3,
    "receivers down": 3,
    "slow inputs": 3,
    "full disk": 3,
}
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
#: How long what is stopped stays so, in seconds: for workers longer than the lease, too.
_STOPS = {"worker": (1.0, 8.0), "api": (0.5, 3.0), "webhook worker": (0.5, 4.0), "redis": (0.3, 2.0)}
_PAUSE_MS = (200, 1500)
_OUTAGE = (0.5, 4.0)
#: Bytes that a full disk has left: none, too few to change a record, or too few for new jobs only.
_LEFT_BYTES = (0, 0, 8 * 2**20, 24 * 2**20)
_TICK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Schedule:
    """The faults to inject, how often each, and the pauses between them, in seconds.

    At most so many; 0: any number. With `only_busy` a worker is struck only while it holds a job.
    """

    kinds: Mapping[str, int]
    pauses: tuple[float, float]
    maximum: int = 0
    only_busy: bool = False


#: What a whole run does.
WHOLE = Schedule(ALL, (1.0, 3.0))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Services that a farm uses, and does not own. None: there is none in this run."""

    receivers: Receivers
    inputs: InputHost
    storage: FaultyWay | None
    disk: SmallDisk | None


class FaultInjector(threading.Thread):
    """Injects faults until it is stopped, and then repairs what does not recover by itself."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        seed: int,
        farm_processes: FarmProcesses,
        outside: Surroundings,
        observations: Observations,
    ) -> None:
        super().__init__(name="striker", daemon=True)
        self._schedule = schedule
        self._dice = random.Random(f"faults {seed}")
        self._farm_processes = farm_processes
        self._outside = outside
        self._observations = observations
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop injecting faults, and repair the current ones."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        done, next_at = 0, time.monotonic() + self._pause()
        while not self._stopping.wait(_TICK_SECONDS):
            self._mend(time.monotonic())
            if time.monotonic() >= next_at and (not self._schedule.maximum or done < self._schedule.maximum):
                done += self._inject()
                next_at = time.monotonic() + self._pause()
        self._mend(float("inf"))

    def _pause(self) -> float:
        return self._dice.uniform(*self._schedule.pauses)

    def _mend(self, until: float) -> None:
        due = [item for item in self._later if item[0] <= until]
        self._later = [item for item in self._later if item[0] > until]
        for _, mend in due:
            mend()

    def _in(self, bounds: tuple[float, float], mend: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + self._dice.uniform(*bounds), mend))

    def _inject(self) -> bool:
        """Inject the fault, and return True if there was something to break."""
        kinds = self._schedule.kinds
        (kind,) = self._dice.choices(list(kinds), list(kinds.values()))
        what, _, whom = kind.partition(" ")
        held: tuple[str, ...] = ()
        match whom:
            case "worker":
                member = self._dice.choice(self._farm_processes.workers)
                held = self._farm_processes.held_by(member)
                if self._schedule.only_busy and not held:
                    return False
                self._signal(what, whom, member)
            case "api" | "webhook worker":
                self._signal(
                    what,
                    whom,
                    self._dice.choice(self._farm_processes.apis if whom == "api" else self._farm_processes.webhooks),
                )
            case "redis":
                self._inject_into_redis(what)
            case "celery":
                self._flush_celery()
            case "disk":
                held = self._farm_processes.held()
                self._fill_disk()
            case _:
                self._inject_outside(kind)
        self._observations.injections.append(Injection(kind, time.time(), held))
        return True

    def _signal(self, what: str, whom: str, member: Member) -> None:
        member.signal(_SIGNALS[what])
        if what == "stop":
            self._in(_STOPS[whom], lambda: member.signal(signal.SIGCONT))

    def _inject_into_redis(self, what: str) -> None:
        if what in _SIGNALS:
            self._signal_redis(what)
            return
        with suppress(redis.exceptions.RedisError):
            if what == "pause":
                self._farm_processes.hasty_client.client_pause(self._dice.randint(*_PAUSE_MS))
            else:
                self._farm_processes.hasty_client.client_kill_filter(
                    _type=self._dice.choice(("normal", "pubsub")), skipme=True
                )

    def _signal_redis(self, what: str) -> None:
        pid = self._farm_processes.redis_pid
        _send(pid, _SIGNALS[what])
        if what == "stop":
            self._in(_STOPS["redis"], lambda: _send(pid, signal.SIGCONT))

    def _flush_celery(self) -> None:
        """Delete all that Celery keeps: its messages are wake-ups, and may be lost."""
        with suppress(redis.exceptions.RedisError):
            for name in list(self._farm_processes.hasty_client.scan_iter(f"{redis_keys.CELERY}*", count=1000)):
                self._farm_processes.hasty_client.delete(name)

    def _fill_disk(self) -> None:
        if disk := self._outside.disk:
            disk.fill(leave=self._dice.choice(_LEFT_BYTES))
            self._in(_OUTAGE, disk.free)

    def _inject_outside(self, kind: str) -> None:
        if kind == "receivers down":
            self._outside.receivers.go_down()
            self._in(_OUTAGE, self._outside.receivers.come_up)
        elif kind == "slow inputs":
            self._outside.inputs.slow_down()
            self._in(_OUTAGE, self._outside.inputs.speed_up)
        elif storage := self._outside.storage:
            self._inject_into_storage(storage, kind)

    def _inject_into_storage(self, storage: FaultyWay, kind: str) -> None:
        if kind == "storage down":
            if not storage.is_down:
                storage.go_down()
                self._in(_OUTAGE, storage.come_up)
            return
        faults = {
            "refuse storage": self._dice.choice((refusal(503, "SlowDown"), refusal(500, "InternalError"))),
            "slow storage": Fault(bytes_taken_per_second=20_000, bytes_per_second=20_000),
            "silent storage": Fault(silent=True),
        }
        storage.inject(faults[kind])
        self._in(_OUTAGE, storage.heal)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)
