"""The life of a batch: claim → read inputs → render step by step → publish.

One thread, one pipeline.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import structlog

from farm import clock
from farm.celery import WakeUps
from farm.concurrency.retry import retrying
from farm.domain.error_codes import Code
from farm.domain.errors import (
    FarmError,
    OutOfMemory,
    RenderError,
    StorageError,
    StorageUnavailable,
    StoreFull,
    StoreUnavailable,
    with_detail,
)
from farm.domain.job import Batch, Claimed
from farm.domain.measures import DEVICE
from farm.domain.request import ImageRequest, Request
from farm.jobstore.store import Claim, JobStore, Retry
from farm.storage.storage import Storage
from workers.health import FailureCounter, Fault, fault_of
from workers.inputs import Inputs
from workers.lease import Lease
from workers.pipelines.pipeline import Pipeline, RenderedImage, StepCallback
from workers.publish import STORAGE_RETRY_PAUSE, STORAGE_RETRY_SECONDS, JobOutput, Publisher, retry_store_call

#: After so many seconds of one wake-up the worker sends itself another and returns, so that Celery sees it alive.
_MAX_WAKE_UP_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class RenderRun:
    """One job of a batch on its way through the pipeline. Moments are by the monotonic clock."""

    def __init__(self, job: Claimed, claimed: float, *, is_alone: bool) -> None:
        self.job = job
        self.output = JobOutput(job)
        #: No other job was claimed with it.
        self.is_alone = is_alone
        self._claimed = claimed
        self._began: float | None = None
        self._steps = [0] * job.request.images
        self._rendered: set[int] = set()

    @property
    def step(self) -> int:
        """Denoising steps that are done, of all images together."""
        return sum(self._steps)

    @property
    def is_rendered(self) -> bool:
        return len(self._rendered) == self.job.request.images

    def record_step(self, number: int, step: int, device_seconds: float) -> None:
        """Record that `step` steps of the `number`-th image are done (0: its first begins), and what the last took."""
        now = clock.monotonic()
        self.output.timings[DEVICE] += device_seconds
        if self._began is None:
            self._began = now
            self.output.timings["start"] = now - self._claimed
        self._steps[number] = step
        self.output.timings["denoise"] = now - self._began

    def finish_image(self, number: int, device_seconds: float) -> None:
        """Record that the `number`-th image is rendered, and how long it took to decode it."""
        self._rendered.add(number)
        self.output.timings[DEVICE] += device_seconds
        self.output.timings["decode"] += device_seconds
        if self._began is not None:
            self.output.timings["inference"] = clock.monotonic() - self._began


class Renderer:
    """Renders batch after batch while jobs wait."""

    def __init__(
        self,
        store: JobStore,
        *,
        worker: str,
        pipeline: Pipeline,
        storage: Storage,
        lease: Lease,
        failure_counter: FailureCounter,
        publisher: Publisher,
        wake_ups: WakeUps,
        draining: threading.Event,
    ) -> None:
        self._store = store
        self._worker = worker
        self._pipeline = pipeline
        self._storage = storage
        self._lease = lease
        self._failure_counter = failure_counter
        self._publisher = publisher
        self._wake_ups = wake_ups
        self._draining = draining
        #: How long the pipeline has been at work, in seconds.
        self.busy_seconds = 0.0
        self._lap_began = 0.0

    def work(self) -> None:
        """Render until no job waits, the worker drains, or the wake-up has lasted long enough."""
        began = clock.monotonic()
        while not self._draining.wait(self._failure_counter.pause_seconds):
            claim = self._claim()
            if not claim.batch:
                return
            # Others are idle while jobs wait: their wake-up was lost, or came too early.
            self._wake_ups.send(min(claim.waiting, claim.idle_workers))
            self._render(claim.batch)
            if clock.monotonic() - began > _MAX_WAKE_UP_SECONDS:
                self._wake_ups.send(1)
                return

    def _claim(self) -> Claim:
        """Claim a batch, retrying while the job store does not answer. Return an empty one once the worker drains."""
        nonce = uuid.uuid4().hex
        nothing = Claim(Batch(), waiting=0, idle_workers=0)

        def claim() -> Claim:
            if self._draining.is_set():
                return nothing
            return self._store.claim(self._worker, self._pipeline.models, nonce=nonce)

        def warn(error: BaseException) -> None:
            _log.warning("batch not claimed yet", error=with_detail(error))

        store_errors = (StoreUnavailable, StoreFull)
        try:
            return retrying(store_errors, max_pause=0.5, stop_event=self._draining, before_pause=warn)(claim)
        except store_errors:
            return nothing

    def _render(self, batch: Batch) -> None:
        claimed = clock.monotonic()
        runs = [RenderRun(job, claimed, is_alone=len(batch.jobs) == 1) for job in batch.jobs]
        for run in runs:
            self._lease.add(run.job)
        # A job that may have killed a worker is rendered while no other is in flight, which would be charged for it.
        is_retry = any(run.job.attempt > 1 for run in runs)
        if is_retry:
            self._publisher.wait_until_idle()
        try:
            self._render_runs(runs)
        finally:
            # Whatever went wrong: what is not being published is not held for ever.
            for run in runs:
                if not run.is_rendered:
                    self._lease.remove(run.job)
        if is_retry:
            self._publisher.wait_until_idle()

    def _render_runs(self, runs: Sequence[RenderRun]) -> None:
        inputs = Inputs(self._storage)
        ready = [run for run in runs if self._has_inputs(run, inputs)]
        if ready:
            self._run_pipeline(ready, inputs)

    def _has_inputs(self, run: RenderRun, inputs: Inputs) -> bool:
        """Load the job's inputs, and return True; if they cannot be had, end or retry the job, and return False."""
        try:
            self._load_inputs(run, inputs)
        except RenderError as error:
            self._fail(run, error, retry="never")
        except Exception as error:  # noqa: BLE001  # whatever a storage raises: the job must not stay held
            self._fail_inputs(run, StorageError("The job's inputs could not be read.", detail=with_detail(error)))
        else:
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
            with attempt, self._lease.watchdog.guard(self._lease.timeouts.read, "reading inputs"):
                inputs.load(run.job.request.inputs)

    def _run_pipeline(self, runs: Sequence[RenderRun], inputs: Inputs) -> None:
        try:
            self._render_all(runs, inputs)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends in the records of its jobs
            self._fail_unrendered(runs, error)
        else:
            self._end_unrendered(runs)

    def _render_all(self, runs: Sequence[RenderRun], inputs: Inputs) -> None:
        targets = [(run, number) for run in runs for number in range(run.job.request.images)]
        images = [run.job.request.image(number) for run, number in targets]
        self._lease.watchdog.start_steps(_pixels(images[0]))
        self._lap()
        try:
            for rendered in self._timed(self._pipeline.render(images, self._step_callback(targets), inputs.images)):
                _check(rendered, images[rendered.index])
                self._publish(*targets[rendered.index], rendered)
        finally:
            self._lease.watchdog.stop()

    def _lap(self) -> float:
        """Return how long ago this was called last: since then the device worked on the image that is reported now."""
        began, self._lap_began = self._lap_began, clock.monotonic()
        return self._lap_began - began

    def _step_callback(self, targets: Sequence[tuple[RenderRun, int]]) -> StepCallback:
        def watch(index: int, step: int) -> bool:
            run, number = targets[index]
            run.record_step(number, step, self._lap())
            if step:
                self._lease.watchdog.heartbeat()
            else:
                self._lease.watchdog.start_steps(_pixels(run.job.request))
            self._lease.progress(run.job, run.step)
            if self._lease.must_stop(run.job):
                return False
            # An image that is denoised when a drain begins is finished; the rest is released.
            return not self._draining.is_set() or step == run.job.request.denoising_steps

        return watch

    def _timed(self, rendering: Iterator[RenderedImage]) -> Iterator[RenderedImage]:
        while True:
            began = clock.monotonic()
            rendered = next(rendering, None)
            self.busy_seconds += clock.monotonic() - began
            if rendered is None:
                return
            yield rendered

    def _publish(self, run: RenderRun, number: int, rendered: RenderedImage) -> None:
        run.finish_image(number, self._lap())
        # Waiting for the publisher is no hang of the pipeline.
        self._lease.watchdog.stop()
        self._publisher.publish(run.output, number, rendered)
        self._lap()
        self._lease.watchdog.start_steps(_pixels(run.job.request))

    def _end_unrendered(self, runs: Sequence[RenderRun]) -> None:
        """End the jobs that the pipeline left out: cancelled ones, or all while this worker drains."""
        failed = [run.job.id for run in runs if not run.is_rendered and not self._end_unrendered_run(run)]
        if failed:
            self._failure_counter.fail(failed)

    def _end_unrendered_run(self, run: RenderRun) -> bool:
        """End a job that lacks images. Return False if the pipeline was not told to leave any out."""
        if self._lease.must_stop(run.job):
            self._finish(run, partial(self._store.fail, run.job, Code.CANCELLED, "The job was cancelled."))
        elif self._draining.is_set():
            self._finish(run, partial(self._store.release, run.job))
        else:
            self._fail_alone(run, RenderError("The pipeline left the image out."))
            return False
        return True

    def _fail_unrendered(self, runs: Sequence[RenderRun], error: Exception) -> None:
        _log.error("rendering failed", jobs=[run.job.id for run in runs], exc_info=error)
        fault = fault_of(error)
        message = f"{type(error).__name__}: {error}"
        lost = [run for run in runs if not run.is_rendered]
        for run in lost:
            if fault is Fault.OUT_OF_MEMORY:
                self._fail_out_of_memory(run, error)
            else:
                self._fail_alone(
                    run,
                    RenderError(_caller_message("The pipeline could not render the image", error), detail=str(error)),
                )
        if fault is Fault.DEVICE_LOST:
            self._failure_counter.mark_faulty(message)
        else:
            self._failure_counter.fail([run.job.id for run in lost])

    def _fail_out_of_memory(self, run: RenderRun, cause: Exception) -> None:
        """Have the job tried alone, where it may fit. One that was alone is tried once more."""
        message = _caller_message("The image did not fit into the memory of the device", cause)
        error = OutOfMemory(message, detail=str(cause))
        if run.is_alone:
            self._fail(run, error, retry="again" if run.job.attempt == 1 else "never")
        else:
            self._fail(run, error, retry="alone")

    def _fail_alone(self, run: RenderRun, error: RenderError) -> None:
        """Have the job tried alone, and on other workers, too: the job or this worker is to blame."""

        def record() -> None:
            if self._failure_counter.failed_here_before(run.job.id):
                self._store.release(run.job)
            else:
                self._store.fail(run.job, error.code, str(error), retry="alone")

        _log.warning("job not rendered", job=run.job.id, error=with_detail(error))
        self._finish(run, record)

    def _fail_inputs(self, run: RenderRun, error: StorageError) -> None:
        """Have a job without inputs tried again; a worker that drains releases it, uncounted."""
        if self._draining.is_set():
            self._finish(run, partial(self._store.release, run.job))
        else:
            self._fail(run, error, retry="again")

    def _fail(self, run: RenderRun, error: FarmError, *, retry: Retry) -> None:
        _log.warning("job not rendered", job=run.job.id, error=with_detail(error))
        self._finish(run, partial(self._store.fail, run.job, error.code, str(error), retry=retry))

    def _finish(self, run: RenderRun, record: Callable[[], object]) -> None:
        """Render the job no further, and `record` its end in the job store. If that fails, its lease expires."""
        run.output.end()
        try:
            retry_store_call(record, self._draining)
        except FarmError as error:
            _log.error("end of job not recorded", job=run.job.id, error=with_detail(error))
        self._lease.remove(run.job)


def _check(rendered: RenderedImage, request: ImageRequest) -> None:
    """Raise RenderError if an image is not what every pipeline promises to render."""
    size = (request.width, request.height)
    if rendered.size != size or len(rendered.pixels) != 3 * _pixels(request):
        raise RenderError(
            f"The pipeline rendered {len(rendered.pixels)} bytes of {rendered.size}, and not RGB of {size}."
        )


def _pixels(request: ImageRequest | Request) -> int:
    return request.width * request.height


def _caller_message(sentence: str, error: Exception) -> str:
    """Return what a caller is told of a pipeline's error; of an engine's own only the type: its text may name files."""
    return str(error) if isinstance(error, FarmError) else f"{sentence} ({type(error).__name__})."
