"""A worker's right to its jobs: renewed while steps are made, given up when they stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

import structlog

from farm import clock
from farm.errors import StoreFull, StoreUnavailable
from farm.job import Claimed
from farm.jobstore.store import Held, JobStore

#: Exit status of a worker whose pipeline hangs; the supervisor starts another.
HUNG = 70
#: A step may take this long, or ten times the usual, whichever is more, before the pipeline counts as hung.
STEP_SECONDS = 30.0
STEP_FACTOR = 10
#: Until a step has been seen, nobody knows what is usual, and kernels may still be compiled.
FIRST_STEP_SECONDS = 600.0
#: How often progress goes to the job store while jobs are held, in seconds.
PROGRESS_SECONDS = 0.5
#: Encoding and storing one job may take this long before its lease is let go, in seconds.
PUBLISH_SECONDS = 600.0

_log = structlog.get_logger(__name__)


class Pulse:
    """When the pipeline last made progress, and how long a step usually takes."""

    def __init__(self) -> None:
        self._beat_at: float | None = None
        self._usual = 0.0

    def start(self) -> None:
        """Work that makes steps begins."""
        self._beat_at = clock.monotonic()

    def beat(self) -> None:
        """A step was made."""
        now = clock.monotonic()
        if self._beat_at is not None:
            self._usual += 0.1 * (now - self._beat_at - self._usual)
        self._beat_at = now

    def stop(self) -> None:
        self._beat_at = None

    @property
    def is_hung(self) -> bool:
        beat_at = self._beat_at
        limit = max(STEP_SECONDS, STEP_FACTOR * self._usual) if self._usual else FIRST_STEP_SECONDS
        return beat_at is not None and clock.monotonic() - beat_at > limit


class Lease(threading.Thread):
    """Shows the job store that this worker lives and works, for all the jobs it holds at once."""

    def __init__(self, store: JobStore, *, worker: str, facts: Callable[[], Mapping[str, str]], seconds: float) -> None:
        super().__init__(name="lease", daemon=True)
        self._store = store
        self._worker = worker
        self._facts = facts
        self._idle_seconds = seconds / 4
        self._busy_seconds = min(PROGRESS_SECONDS, seconds / 4)
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._published_since: dict[str, float] = {}
        self._stopped: set[str] = set()
        self._closing = threading.Event()
        self._hurry = threading.Event()
        self.pulse = Pulse()

    def hold(self, job: Claimed) -> None:
        """The job is this worker's from now on."""
        with self._lock:
            self._held[job.id] = Held(job.id, job.fence, 0)
            self._published_since.pop(job.id, None)
            self._stopped.discard(job.id)
        self._hurry.set()

    def progress(self, job: Claimed, step: int) -> None:
        """`step` denoising steps of all the job's images together are done."""
        with self._lock:
            if self._holds(job):
                self._held[job.id] = Held(job.id, job.fence, step)

    def publishing(self, job: Claimed) -> None:
        """The job makes no more steps: it is being encoded and stored."""
        with self._lock:
            if self._holds(job):
                self._published_since[job.id] = clock.monotonic()

    def drop(self, job: Claimed) -> None:
        """The job is this worker's no longer, under the fence with which it was claimed."""
        with self._lock:
            if not self._holds(job):
                return
            self._held.pop(job.id)
            self._published_since.pop(job.id, None)
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

    def announce(self) -> None:
        """Tell the job store at once what this worker is and does."""
        self._hurry.set()

    def close(self) -> None:
        self._closing.set()
        self._hurry.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while not self._closing.is_set():
            self._beat()
            self._hurry.wait(self._busy_seconds if self._held else self._idle_seconds)
            self._hurry.clear()

    def _beat(self) -> None:
        if self.pulse.is_hung:
            _log.critical("the pipeline hangs; this worker leaves, its jobs will be taken back", worker=self._worker)
            os._exit(HUNG)
        with self._lock:
            held = [job for job in self._held.values() if not self._is_overdue(job.id)]
        try:
            for job_id in self._store.renew(self._worker, self._facts(), held):
                self.stop_rendering(job_id)
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("lease not renewed", error=str(error))

    def _is_overdue(self, job_id: str) -> bool:
        since = self._published_since.get(job_id)
        return since is not None and clock.monotonic() - since > PUBLISH_SECONDS
