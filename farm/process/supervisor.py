"""Starts the processes of a farm on one machine, keeps them alive, and stops them in the right order.

It sees the exit of a worker at once, and tells the job store.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from farm import clock
from farm.domain.errors import ConfigurationError
from farm.process.child import EXIT_CONFIG, EXIT_FAULTY, EXIT_NO_DEVICE, command
from farm.process.embedded_redis import EmbeddedRedis
from farm.process.signals import StopSignals, stop_signals
from farm.process.worker_deaths import WorkerDeaths, worker_id
from farm.settings import environment

#: Restart backoff in seconds: doubled with each restart, and reset after a minute of running.
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_STABLE_SECONDS = 60.0
_POLL_SECONDS = 0.1
#: Statuses of a worker that runs, that drained, or that refused to start.
_HOLD_NOTHING = (None, 0, EXIT_CONFIG)
#: Grace period of the API for the requests under way, in seconds.
API_GRACE_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class ChildRefused(ConfigurationError):
    """A child that exited with EXIT_CONFIG, and has printed why."""


class Child:
    """One process of the farm, restarted when it dies."""

    def __init__(
        self,
        name: str,
        program: list[str],
        *,
        grace_seconds: float,
        variables: Mapping[str, str] = MappingProxyType({}),
        was_drained: Callable[[int], bool] = lambda _pid: False,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """Supervise `program`, run with these environment variables beside those of this process.

        `was_drained` says of a pid that exited with 0 whether an operator drained it. A program with `on_death` is a
        worker, and takes `--token`, the end of its id; `on_death` is called with the id of one that may have
        held jobs at its exit.
        """
        self.name = name
        self._program = program
        self._variables = variables
        self._grace = grace_seconds
        self._was_drained = was_drained
        self._on_death = on_death
        self._token = ""
        self._stopped_for_good = False
        self._had_died = False
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._restart_delay = _FIRST_DELAY
        self._start_at = 0.0
        self._kill_at = 0.0

    def start(self) -> None:
        """Start the process."""
        # A session of its own: Ctrl-C in the terminal is for `farm up` alone, which stops its children in order.
        self._process = subprocess.Popen(
            command(*self._program, *self._new_token()),
            env=environment(**self._variables),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started = clock.monotonic()

    def check(self) -> None:
        """Restart a dead process once its backoff is over. Raises ChildRefused if a restart would not help."""
        if self._process is None:
            if clock.monotonic() >= self._start_at and not self._stopped_for_good:
                self.start()
            return
        status = self.exit_status()
        if status is None:
            return
        if status == 0 and self._was_drained(self._process.pid):
            _log.info("child was drained and is not restarted", child=self.name)
            self._stopped_for_good, self._process = True, None
            return
        if self._cannot_start(status):
            raise ChildRefused(f"The {self.name} refused to start")
        self._schedule_restart(status)

    def exit_status(self) -> int | None:
        """Return the exit status of the process once it has exited; the death of a worker is then reported."""
        status = self._process.poll() if self._process is not None else None
        if status not in _HOLD_NOTHING and self._process is not None and self._on_death is not None:
            self._on_death(worker_id(self._process.pid, self._token))
        return status

    def terminate(self) -> None:
        """Send SIGTERM: the grace period begins."""
        self._kill_at = clock.monotonic() + self._grace
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait for the process to exit, and kill it when the grace period that `terminate` began is over."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, self._kill_at - clock.monotonic()))
        except subprocess.TimeoutExpired:
            _log.warning("child did not stop in time", child=self.name)
            self._process.kill()
            self._process.wait()
        self.exit_status()

    def _new_token(self) -> list[str]:
        if self._on_death is None:
            return []
        self._token = uuid.uuid4().hex[:6]
        return ["--token", self._token]

    def _cannot_start(self, status: int) -> bool:
        """Return True if a restart would not help. A card that is lost while the farm runs stops no other worker."""
        return status == EXIT_CONFIG or (status == EXIT_NO_DEVICE and not self._had_died)

    def _schedule_restart(self, status: int) -> None:
        # A faulty worker keeps its backoff however long it ran: it would cost jobs their attempts again at once.
        if status != EXIT_FAULTY and clock.monotonic() - self._started > _STABLE_SECONDS:
            self._restart_delay = _FIRST_DELAY
        event = "the device of a child is lost" if status == EXIT_NO_DEVICE else "child died"
        pid = self._process.pid if self._process else None
        delay = self._restart_delay
        _log.warning(event, child=self.name, child_pid=pid, status=status, restart_in_seconds=delay)
        self._start_at = clock.monotonic() + self._restart_delay
        self._restart_delay = min(2 * self._restart_delay, _LONGEST_DELAY)
        self._had_died, self._process = True, None


class Supervisor:
    """Runs the embedded Redis, if any, the API and the workers until SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, redis: EmbeddedRedis | None, *, api: Child, workers: list[Child], deaths: WorkerDeaths) -> None:
        self._redis = redis
        self._api = api
        self._workers = workers
        self._deaths = deaths

    def run(self, is_ready: Callable[[], bool], on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready` once `is_ready` returns True, and return when everything has stopped."""
        stopping = StopSignals(*stop_signals())
        try:
            self._start()
            ready = False
            while not stopping.wait(_POLL_SECONDS):
                self._check_children()
                if not ready and is_ready():
                    ready = True
                    on_ready()
        finally:
            self._stop()

    def _start(self) -> None:
        if self._redis is not None:
            self._redis.start()
        for child in (self._api, *self._workers):
            child.start()

    def _check_children(self) -> None:
        if self._redis is not None and not self._redis.is_reachable:
            _log.warning("the embedded Redis died or lost its socket; starting it again")
            self._redis.start()
        for child in (self._api, *self._workers):
            child.check()

    def _stop(self) -> None:
        """Stop workers and API together, and Redis last: draining workers still write to it."""
        for child in (self._api, *self._workers):
            child.terminate()
        for child in (self._api, *self._workers):
            child.wait()
        self._deaths.close()
        if self._redis is not None:
            self._redis.stop()


def run_worker(worker: Child, deaths: WorkerDeaths) -> int:
    """Run one worker until it exits, by itself or because this process is told to stop, and return its exit status.

    One that hangs is killed when its grace period is over; further signals do not begin another.
    """
    stopping = StopSignals(*stop_signals())
    worker.start()
    while (status := worker.exit_status()) is None:
        if stopping.wait(_POLL_SECONDS):
            worker.terminate()
            worker.wait()
    deaths.close()
    return status if status >= 0 else 128 - status
