"""A worker's lease on its jobs: renewed by a heartbeat, and given up with the whole process when a stage hangs."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from farm import clock
from farm.concurrency.background_thread import BackgroundThread
from farm.domain.errors import StoreFull, StoreUnavailable, with_detail
from farm.domain.job import Claimed
from farm.domain.scheduling import HeldJob
from farm.jobstore.store import JobStore
from farm.process.child import EXIT_HUNG

#: A step may take this many times its usual time, or its timeout if that is longer.
STEP_FACTOR = 10
#: How often progress is sent to the job store while jobs are held, in seconds.
PROGRESS_SECONDS = 0.5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StageTimeouts:
    """The seconds that each stage may go on without progress before the worker counts as hung."""

    #: Loading and warming up; also the very first step, for which kernels may still be compiled.
    load: float = 600.0
    #: Reading a job's inputs from storage.
    read: float = 600.0
    #: A denoising step, or what comes before the first and after the last: encoding the prompt, decoding the image.
    step: float = 30.0
    #: Checking, encoding and storing one image; longer than storage retries go on.
    publish: float = 600.0


class ProgressWatchdog:
    """Watches one thread for progress. The thread reports to it, and the lease's thread checks it."""

    def __init__(self, timeouts: StageTimeouts) -> None:
        self._timeouts = timeouts
        self._heartbeat_at: float | None = None
        self._timeout = 0.0
        self._pixels = 1
        #: Moving average over steps; 0: there was none yet.
        self._seconds_per_pixel = 0.0
        #: What the thread does, for the log.
        self.activity = ""
        #: Whether kernels are compiled right now: a step may wait for that as long as loading may take.
        self.is_compiling: Callable[[], bool] = lambda: False
        self._compiled_at = 0.0

    @contextmanager
    def guard(self, seconds: float, activity: str) -> Iterator[None]:
        """Count the thread as hung if the block takes longer than `seconds`."""
        self._begin(seconds, activity)
        try:
            yield
        finally:
            self.stop()

    def start_steps(self, pixels: int) -> None:
        """Expect steps of images of so many pixels from now on."""
        self._pixels = pixels
        self._begin(self._step_timeout, "rendering")

    def heartbeat(self) -> None:
        """Report that a step is done."""
        now = clock.monotonic()
        if self._heartbeat_at is not None:
            seconds = (now - self._heartbeat_at) / self._pixels
            self._seconds_per_pixel = (
                0.9 * self._seconds_per_pixel + 0.1 * seconds if self._seconds_per_pixel else seconds
            )
        self._timeout = self._step_timeout
        self._heartbeat_at = now

    def stop(self) -> None:
        """Expect nothing from now on: the thread does nothing that could hang."""
        self._heartbeat_at = None

    @property
    def is_hung(self) -> bool:
        heartbeat_at, now = self._heartbeat_at, clock.monotonic()
        if heartbeat_at is None:
            return False
        if self.is_compiling():
            self._compiled_at = now
            return now - heartbeat_at > max(self._timeout, self._timeouts.load)
        return now - max(heartbeat_at, self._compiled_at) > self._timeout

    @property
    def _step_timeout(self) -> float:
        if not self._seconds_per_pixel:
            return max(self._timeouts.load, self._timeouts.step)
        return max(self._timeouts.step, STEP_FACTOR * self._seconds_per_pixel * self._pixels)

    def _begin(self, seconds: float, activity: str) -> None:
        # Without a heartbeat in between, a check meanwhile would compare the old moment with the new timeout.
        self._heartbeat_at = None
        self._timeout = seconds
        self.activity = activity
        self._heartbeat_at = clock.monotonic()


class Lease(BackgroundThread):
    """The heartbeat of a worker: a thread that renews the lease on all the jobs it holds."""

    def __init__(
        self,
        store: JobStore,
        *,
        worker: str,
        facts: Callable[[], Mapping[str, str]],
        seconds: float,
        timeouts: StageTimeouts = StageTimeouts(),
    ) -> None:
        super().__init__("lease", self._renew, pause=self._interval)
        self.wake()  # the first renewal comes at once
        self._store = store
        self._worker = worker
        self._facts = facts
        self._idle_seconds = seconds / 4
        self._busy_seconds = min(PROGRESS_SECONDS, seconds / 4)
        self._lock = threading.Lock()
        self._held: dict[str, HeldJob] = {}
        self._stopped: set[str] = set()
        self._watchdogs: list[ProgressWatchdog] = []
        self.timeouts = timeouts
        #: The watchdog of the render thread.
        self.watchdog = self.new_watchdog()

    def new_watchdog(self) -> ProgressWatchdog:
        """Return a watchdog for another thread, which ends the process when that thread hangs."""
        watchdog = ProgressWatchdog(self.timeouts)
        self._watchdogs.append(watchdog)
        return watchdog

    def add(self, job: Claimed) -> None:
        """Renew the lease on this job from now on."""
        with self._lock:
            self._held[job.id] = HeldJob(job.id, job.fence, 0)
            self._stopped.discard(job.id)
        self.wake()

    def progress(self, job: Claimed, step: int) -> None:
        """Report that `step` denoising steps are done, of all the job's images together."""
        with self._lock:
            if self._holds(job):
                self._held[job.id] = HeldJob(job.id, job.fence, step)

    def remove(self, job: Claimed) -> None:
        """Renew the lease on this claim of the job no longer."""
        with self._lock:
            if not self._holds(job):
                return
            self._held.pop(job.id)
            self._stopped.discard(job.id)

    @property
    def is_idle(self) -> bool:
        """True while no job is held."""
        return not self._held

    def held(self) -> list[HeldJob]:
        """Return the jobs whose leases are renewed."""
        with self._lock:
            return list(self._held.values())

    def stop_rendering(self, job_id: str) -> None:
        """Have the job's rendering stop: it was cancelled or lost. Jobs that this worker does not hold are ignored."""
        with self._lock:
            if job_id in self._held:
                self._stopped.add(job_id)

    def must_stop(self, job: Claimed) -> bool:
        return job.id in self._stopped

    def _holds(self, job: Claimed) -> bool:
        """Return True if this very claim is held: a job may come back to the worker that lost it."""
        held = self._held.get(job.id)
        return held is not None and held.fence == job.fence

    def renew_now(self) -> None:
        """Renew at once, which also tells the job store the worker's current state."""
        self.wake()

    def _interval(self) -> float:
        return self._busy_seconds if self._held else self._idle_seconds

    def _renew(self) -> None:
        for watchdog in self._watchdogs:
            if watchdog.is_hung:
                self._exit(watchdog.activity)
        held = self.held()
        try:
            self._stop_lost_jobs(held, self._store.renew(self._worker, self._facts(), held))
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("lease not renewed", error=with_detail(error))

    def _stop_lost_jobs(self, renewed: list[HeldJob], lost: Collection[str]) -> None:
        """Stop the jobs that were lost, but not one that this worker has claimed again meanwhile."""
        with self._lock:
            for job in renewed:
                held = self._held.get(job.id)
                if job.id in lost and held is not None and held.fence == job.fence:
                    self._stopped.add(job.id)

    def _exit(self, activity: str) -> None:
        """Exit: a thread that hangs cannot be ended alone. The jobs come back when their leases expire."""
        _log.critical("this worker hangs and exits; its stack follows", worker=self._worker, activity=activity)
        faulthandler.dump_traceback()
        os._exit(EXIT_HUNG)
