"""The processes of a farm under test: started, kept running, and broken, each by itself.

`farm up`'s own supervisor waits longer and longer before it starts again what keeps dying, which here is everything.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import cast

import redis

from farm.jobstore import redis_keys
from farm.process import child
from farm.process.embedded_redis import EmbeddedRedis
from tests.farms import wait_for

#: Seconds for which what died stays dead.
_DEAD_SECONDS = 0.3
_LOOK_SECONDS = 0.05
#: How long a process may take to leave when it is asked to, in seconds.
_LEAVE_SECONDS = 30.0


class Member:
    """One process of the farm, started again when it dies."""

    def __init__(self, kind: str, program: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.kind = kind
        self._program = program
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        #: With which exit statuses it has died so far; below 0: by a signal.
        self.statuses: list[int] = []

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def look(self) -> None:
        """Start the process if it has been dead for a while."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.statuses.append(status)
            self._process = None
            self._start_at = time.monotonic() + _DEAD_SECONDS
        if self._process is None and time.monotonic() >= self._start_at:
            self._start()

    def signal(self, number: int) -> None:
        """Send a signal to the process and those that it has started."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def end(self) -> int:
        """Ask the process to exit, and return its exit status."""
        if self._process is None:
            return 0
        self.signal(signal.SIGCONT)
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            return self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return self._process.wait()

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                child.command(*self._program),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class FarmProcesses:
    """A whole farm: an embedded Redis, APIs on the given ports, render workers, and the webhook worker.

    `prefix` begins each program, after the interpreter: so a test may start the farm's programs its own way.
    """

    def __init__(
        self, data_dir: Path, environment: dict[str, str], *, ports: Sequence[int], workers: int, prefix: Sequence[str]
    ) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(mode=0o700, exist_ok=True)
        self._redis = EmbeddedRedis(data_dir)
        self.log = data_dir.with_suffix(".log")

        def member(kind: str, *program: str) -> Member:
            words = [sys.executable, "-m", *prefix, *program, "--data-dir", str(data_dir)]
            return Member(kind, words, environment, self.log)

        self.apis = [member("api", "api", "--port", str(port)) for port in ports]
        self.workers = [member("worker", "workers") for _ in range(workers)]
        self.webhooks = [member("webhook worker", "workers.background")]
        self._closing = threading.Event()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Processes die with the thread that started them: all are started by one that stays.
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start_redis(self) -> None:
        self._keeper.start()
        wait_for(lambda: self._redis.is_alive and self._answers(), what="Redis")

    def start(self) -> None:
        """Start everything else, and keep it alive from now on."""
        self._orders.put(lambda: self._kept.extend((*self.apis, *self.workers, *self.webhooks)))

    def stop(self) -> list[str]:
        """Stop everything, Redis last; return a line for each process that did not exit as it should."""
        self._closing.set()
        self._keeper.join()
        return self._bad_ends

    def exits(self) -> Counter[tuple[str, int]]:
        """Return how often each kind of process exited by itself or when asked to, by status."""
        members = (*self.apis, *self.workers, *self.webhooks)
        return Counter((one.kind, status) for one in members for status in one.statuses if status >= 0)

    @cached_property
    def client(self) -> redis.Redis:
        """The job store, to look at what is left."""
        return redis.Redis.from_url(self._redis.url, decode_responses=True, socket_timeout=5)

    @cached_property
    def hasty_client(self) -> redis.Redis:
        """The job store for the fault injector, which must not wait for one that hangs."""
        return redis.Redis.from_url(self._redis.url, decode_responses=True, socket_timeout=0.3)

    @property
    def redis_pid(self) -> int:
        process = self._redis.process
        return process.pid if process else 0

    def held(self) -> tuple[str, ...]:
        """Return the jobs that any worker holds."""
        with suppress(redis.exceptions.RedisError):
            return tuple(cast(list[str], self.hasty_client.zrange(redis_keys.LEASES, 0, -1)))
        return ()

    def held_by(self, worker: Member) -> tuple[str, ...]:
        """Return the jobs that this worker holds."""
        with suppress(redis.exceptions.RedisError):
            client, pid = self.hasty_client, f"-{worker.pid}-"
            return tuple(job for job in self.held() if pid in str(client.hget(redis_keys.job(job), "worker")))
        return ()

    def _answers(self) -> bool:
        with suppress(redis.exceptions.RedisError):
            return bool(self.client.ping())
        return False

    def _keep(self) -> None:
        self._kept: list[Member] = []
        self._bad_ends: list[str] = []
        self._redis.start()
        while not self._closing.wait(_LOOK_SECONDS):
            if not self._redis.is_alive:
                self._redis.start()
            with suppress(queue.Empty):
                self._orders.get_nowait()()
            for member in self._kept:
                member.look()
        self._end_all()

    def _end_all(self) -> None:
        enders = [threading.Thread(target=self._end, args=(member,)) for member in self._kept]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        self._redis.stop()

    def _end(self, member: Member) -> None:
        if status := member.end():
            self._bad_ends.append(f"a {member.kind} left with status {status} when it was asked to")
