"""A worker's right to its jobs: renewed while its work goes on, given up with the whole process when it hangs."""

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
from farm.jobstore.store import HeldJob, JobStore
from farm.process.child import EXIT_HUNG

#: Beside its limit, a step may take so many times what it usually does.
STEP_FACTOR = 10
#: How often progress goes to the job store while jobs are held, in seconds.
PROGRESS_SECONDS = 0.5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StageTimeouts:
    """How long a worker may show no progress, by what it does, before it counts as hung: seconds."""

    #: Loading and warming up; also the first step of all, for which kernels may still be compiled.
    load: float = 600.0
    #: Reading a job's inputs from storage.
    read: float = 600.0
    #: A denoising step, or what comes before the first and after the last: encoding the prompt, decoding the image.
    step: float = 30.0
    #: Checking, encoding and storing one image; longer than a storage that is down is waited for.
    publish: float = 600.0


class ProgressWatchdog:
    """Whether what one thread does goes on. Made by that thread's owner, and looked at by the lease's."""

    def __init__(self, timeouts: StageTimeouts) -> None:
        self._timeouts = timeouts
        self._heartbeat_at: float | None = None
        self._timeout = 0.0
        self._pixels = 1
        #: Seconds of a step per pixel; 0: none was seen yet.
        self._seconds_per_pixel = 0.0
        #: What is done, for the log.
        self.activity = ""

    @contextmanager
    def guard(self, seconds: float, activity: str) -> Iterator[None]:
        """What is done inside takes no longer, or it hangs."""
        self._begin(seconds, activity)
        try:
            yield
        finally:
            self.stop()

    def start_steps(self, pixels: int) -> None:
        """Work begins that makes steps of images of so many pixels, or goes on after something else."""
        self._pixels = pixels
        self._begin(self._step_timeout, "rendering")

    def heartbeat(self) -> None:
        """A step was made."""
        now = clock.monotonic()
        if self._heartbeat_at is not None:
            seconds = (now - self._heartbeat_at) / self._pixels
            self._seconds_per_pixel = (
                0.9 * self._seconds_per_pixel + 0.1 * seconds if self._seconds_per_pixel else seconds
            )
        self._timeout = self._step_timeout
        self._heartbeat_at = now

    def stop(self) -> None:
        """Nothing is done that could hang."""
        self._heartbeat_at = None

    @property
    def is_hung(self) -> bool:
        heartbeat_at = self._heartbeat_at
        return heartbeat_at is not None and clock.monotonic() - heartbeat_at > self._timeout

    @property
    def _step_timeout(self) -> float:
        if not self._seconds_per_pixel:
            return max(self._timeouts.load, self._timeouts.step)
        return max(self._timeouts.step, STEP_FACTOR * self._seconds_per_pixel * self._pixels)

    def _begin(self, seconds: float, activity: str) -> None:
        # Without a beat in between, whoever looks meanwhile would hold the old moment against the new limit.
        self._heartbeat_at = None
        self._timeout = seconds
        self.activity = activity
        self._heartbeat_at = clock.monotonic()


class Lease(BackgroundThread):
    """Shows the job store that this worker lives and works, for all the jobs it holds at once."""

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
        self.wake()  # the first heartbeat comes at once
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
        #: Of the thread that renders.
        self.watchdog = self.new_watchdog()

    def new_watchdog(self) -> ProgressWatchdog:
        """A pulse to be watched: when it stops, the process ends."""
        watchdog = ProgressWatchdog(self.timeouts)
        self._watchdogs.append(watchdog)
        return watchdog

    def add(self, job: Claimed) -> None:
        """The job is this worker's from now on."""
        with self._lock:
            self._held[job.id] = HeldJob(job.id, job.fence, 0)
            self._stopped.discard(job.id)
        self.wake()

    def progress(self, job: Claimed, step: int) -> None:
        """`step` denoising steps of all the job's images together are done."""
        with self._lock:
            if self._holds(job):
                self._held[job.id] = HeldJob(job.id, job.fence, step)

    def remove(self, job: Claimed) -> None:
        """The job is this worker's no longer, under the fence with which it was claimed."""
        with self._lock:
            if not self._holds(job):
                return
            self._held.pop(job.id)
            self._stopped.discard(job.id)

    def stop_rendering(self, job_id: str) -> None:
        """Somebody cancelled the job, or it is another worker's by now. Ids of other workers' jobs are ignored."""
        with self._lock:
            if job_id in self._held:
                self._stopped.add(job_id)

    def must_stop(self, job: Claimed) -> bool:
        return job.id in self._stopped

    def _holds(self, job: Claimed) -> bool:
        """Whether it is held under this very claim: a job may come back to the worker that lost it."""
        held = self._held.get(job.id)
        return held is not None and held.fence == job.fence

    def renew_now(self) -> None:
        """Tell the job store at once what this worker is and does."""
        self.wake()

    def _interval(self) -> float:
        return self._busy_seconds if self._held else self._idle_seconds

    def _renew(self) -> None:
        for watchdog in self._watchdogs:
            if watchdog.is_hung:
                self._exit(watchdog.activity)
        with self._lock:
            held = list(self._held.values())
        try:
            self._stop_lost_jobs(held, self._store.renew(self._worker, self._facts(), held))
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("lease not renewed", error=with_detail(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, the next renewal is needed
            _log.error("lease not renewed", exc_info=error)

    def _stop_lost_jobs(self, renewed: list[HeldJob], lost: Collection[str]) -> None:
        """Not a job that this worker has claimed once more while it was being told of the time before."""
        with self._lock:
            for job in renewed:
                held = self._held.get(job.id)
                if job.id in lost and held is not None and held.fence == job.fence:
                    self._stopped.add(job.id)

    def _exit(self, activity: str) -> None:
        """End the process: no thread that hangs can be ended alone. Its jobs are taken back when their leases end."""
        _log.critical("this worker hangs and leaves; where, is told next", worker=self._worker, activity=activity)
        faulthandler.dump_traceback()
        os._exit(EXIT_HUNG)
