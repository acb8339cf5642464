"""Claims of a worker: made, with inputs read and prompts encoded, beside the denoising steps of what came before."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import structlog

from farm import clock
from farm.celery import WakeUps
from farm.concurrency.call_thread import CallThread
from farm.concurrency.retry import retrying
from farm.domain.errors import (
    RenderError,
    SafetyError,
    StorageError,
    StorageUnavailable,
    StoreFull,
    StoreUnavailable,
    with_detail,
)
from farm.domain.job import Claimed
from farm.domain.scheduling import Capacity
from farm.jobstore.store import Claim, JobStore
from farm.storage.storage import Storage
from workers.inputs import Inputs
from workers.lease import Lease
from workers.pipelines.pipeline import Pipeline
from workers.publish import STORAGE_RETRY_PAUSE, STORAGE_RETRY_SECONDS
from workers.run import RenderRun
from workers.unrendered import Unrendered

#: Pauses between two looks for jobs while images are in flight, in seconds; and after one that found a job which is not
#: for this worker now.
_PAUSE = 0.02
_PAUSE_DEFERRED = 0.25

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a claim: runs that are ready to be rendered."""

    runs: Sequence[RenderRun] = ()
    #: True if any job was claimed, ready or not.
    is_any: bool = False
    #: True if the first job waits until this worker holds nothing.
    is_deferred: bool = False


class Claims:
    """Claims jobs in a thread of its own, one claim at a time, and makes them ready to be rendered."""

    def __init__(
        self,
        store: JobStore,
        *,
        worker: str,
        pipeline: Pipeline,
        storage: Storage,
        lease: Lease,
        unrendered: Unrendered,
        wake_ups: WakeUps,
        has_work: Callable[[], bool],
        refuse: Callable[[Claimed], object],
        draining: threading.Event,
    ) -> None:
        """`has_work` returns True if jobs wait: a look that changes nothing, before a claim is made ahead.

        `refuse` raises SafetyError for a job whose images this worker could not publish.
        """
        self._store = store
        self._worker = worker
        self._pipeline = pipeline
        self._storage = storage
        self._lease = lease
        self._unrendered = unrendered
        self._wake_ups = wake_ups
        self._has_work = has_work
        self._refuse = refuse
        self._draining = draining
        self._thread = CallThread[Found]("claims")
        self._watchdog = lease.new_watchdog()
        self._ahead: Future[Found] | None = None
        self._next_look = 0.0
        #: How long the last claim took that was given a job, in seconds.
        self.seconds = 0.0

    def claim(self) -> Found:
        """Claim jobs, and wait until they are ready."""
        return self._thread.submit(partial(self._claim, Capacity(self._pipeline.capacity))).result()

    def look_ahead(self, images: int, batch_key: str) -> None:
        """Begin to claim up to so many images of the batch key (empty: any), unless it is too early for a look."""
        now = clock.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _PAUSE
        capacity = Capacity(images, batch_key, claims_ahead=True)
        self._ahead = self._thread.submit(partial(self._claim_ahead, capacity))

    @property
    def is_looking(self) -> bool:
        """True while the outcome of a claim ahead has not been taken."""
        return self._ahead is not None

    def take(self, *, wait: bool) -> Found:
        """Return the outcome of the claim ahead, once; nothing if there is none, or, unless told to wait, none yet."""
        if self._ahead is None or not (wait or self._ahead.done()):
            return Found()
        ahead, self._ahead = self._ahead, None
        found = ahead.result()
        if found.is_deferred:
            self._next_look = clock.monotonic() + _PAUSE_DEFERRED
        return found

    def close(self) -> None:
        self._thread.close()

    def _claim_ahead(self, capacity: Capacity) -> Found:
        try:
            return self._claim(capacity) if self._has_work() else Found()
        except (StoreUnavailable, StoreFull):
            return Found()

    def _claim(self, capacity: Capacity) -> Found:
        began = clock.monotonic()
        claim = self._claimed(replace(capacity, held=self._lease.held()))
        # Others are idle while jobs wait: their wake-up was lost, or came too early.
        self._wake_ups.send(min(claim.waiting, claim.idle_workers))
        runs = self._ready_runs(claim)
        if claim.batch:
            self.seconds = clock.monotonic() - began
        if not claim.waiting:
            self._next_look = clock.monotonic() + _PAUSE
        return Found(runs, bool(claim.batch), claim.is_deferred)

    def _claimed(self, capacity: Capacity) -> Claim:
        """Claim a batch, retrying while the job store does not answer. Return an empty one once the worker drains."""
        nonce = uuid.uuid4().hex

        def claim() -> Claim:
            if self._draining.is_set():
                return Claim()
            return self._store.claim(self._worker, self._pipeline.models, capacity, nonce=nonce)

        def warn(error: BaseException) -> None:
            _log.warning("batch not claimed yet", error=with_detail(error))

        store_errors = (StoreUnavailable, StoreFull)
        try:
            return retrying(store_errors, max_pause=0.5, stop_event=self._draining, before_pause=warn)(claim)
        except store_errors:
            return Claim()

    def _ready_runs(self, claim: Claim) -> Sequence[RenderRun]:
        """Return the runs of the claimed jobs that are ready; those whose inputs cannot be had have ended."""
        inputs = Inputs(self._storage)
        runs = [RenderRun(job, inputs.images) for job in claim.batch.jobs]
        for run in runs:
            self._lease.add(run.job)
        try:
            return [run for run in runs if self._is_ready(run, inputs)]
        except BaseException:
            for run in runs:
                self._lease.remove(run.job)
            raise

    def _is_ready(self, run: RenderRun, inputs: Inputs) -> bool:
        """Make the run ready, and return True; if it cannot be rendered, end or retry the job, and return False."""
        try:
            self._refuse(run.job)
            self._load_inputs(run, inputs)
        except SafetyError as error:
            self._unrendered.fail(run, error, retry="again")
        except RenderError as error:
            self._unrendered.fail(run, error, retry="never")
        except Exception as error:  # noqa: BLE001  # whatever a storage raises: the job must not stay held
            detail = with_detail(error)
            self._unrendered.fail_inputs(run, StorageError("The job's inputs could not be read.", detail=detail))
        else:
            self._encode_prompt(run)
            return True
        return False

    def _load_inputs(self, run: RenderRun, inputs: Inputs) -> None:
        """Read the job's inputs, retrying while the storage is down; the lease is renewed meanwhile."""
        for attempt in retrying(
            StorageUnavailable,
            max_seconds=STORAGE_RETRY_SECONDS,
            max_pause=STORAGE_RETRY_PAUSE,
            stop_event=self._draining,
            give_up=lambda: self._lease.must_stop(run.job),
        ):
            with attempt, self._watchdog.guard(self._lease.timeouts.read, "reading inputs"):
                inputs.load(run.job.request.inputs)

    def _encode_prompt(self, run: RenderRun) -> None:
        try:
            with self._watchdog.guard(self._lease.timeouts.load, "encoding a prompt"):
                self._pipeline.encode_prompt(run.job.request.image(0))
        except Exception as error:  # noqa: BLE001  # it comes again when the job is rendered, and fails it then
            _log.warning("prompt not encoded ahead", job=run.job.id, error=type(error).__name__)
