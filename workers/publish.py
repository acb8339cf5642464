"""From rendered images to a completed job: check, encode, store, then complete. Runs beside the render thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog
from PIL import Image as Pillow
from PIL import ImageOps

from farm import clock
from farm.concurrency.background_thread import call_in_thread
from farm.concurrency.retry import retrying
from farm.concurrency.slots import Slots
from farm.domain.errors import (
    FarmError,
    SafetyError,
    StorageError,
    StorageUnavailable,
    StoreFull,
    StoreUnavailable,
    with_detail,
)
from farm.domain.job import FULL_STEPS, Claimed, Image, Result
from farm.domain.measures import DEVICE
from farm.jobstore.store import JobStore
from farm.storage.storage import Storage, new_key
from farm.tracing.span import Span
from workers.encode import Encoder
from workers.health import FailureCounter
from workers.lease import Lease, ProgressWatchdog
from workers.pipelines.pipeline import RenderedImage
from workers.safety import Checker

#: Threads that encode and store.
_THREADS = 2
#: Images that may wait for them before the render thread does.
_BACKLOG = 8
#: How long the end of a job is retried while the job store does not answer, in seconds; and by a worker that drains,
#: whose jobs come back anyway when their leases expire.
STORE_RETRY_SECONDS = 600.0
STORE_RETRY_SECONDS_DRAINING = 10.0
#: How long storing an image is retried, in seconds from the moment it was rendered.
STORAGE_RETRY_SECONDS = 300.0
#: The longest pause between two attempts, in seconds: a cancelled job waits no longer for its end.
STORAGE_RETRY_PAUSE = 5.0
#: How often a render thread that waits for a slot checks whether the worker drains, in seconds.
_DRAIN_CHECK_SECONDS = 1.0
#: How often the render thread checks whether the publisher is idle, in seconds.
_IDLE_CHECK_SECONDS = 0.02

T = TypeVar("T")

_log = structlog.get_logger(__name__)


def retry_store_call(call: Callable[[], T], draining: threading.Event) -> T:
    """Make `call`, retrying until the job store answers. The lease may expire meanwhile; the fence then decides."""
    began = clock.monotonic()

    def drained_too_long() -> bool:
        return draining.is_set() and clock.monotonic() - began > STORE_RETRY_SECONDS_DRAINING

    return retrying((StoreUnavailable, StoreFull), max_seconds=STORE_RETRY_SECONDS, give_up=drained_too_long)(call)


class JobOutput:
    """A job's images on their way to storage, and the seconds that each stage took."""

    def __init__(self, job: Claimed, span: Span) -> None:
        """Begin the output of an attempt, which is recorded as `span`."""
        self.job = job
        self.span = span
        self.images: dict[int, Image] = {}
        self.flagged: dict[int, bool] = {}
        self.warnings = dict.fromkeys(job.request.notes)  # ordered, each once
        self.timings: dict[str, float] = {DEVICE: 0.0, "decode": 0.0, "safety": 0.0, "encode": 0.0, "upload": 0.0}
        self.timings[FULL_STEPS] = 0
        self.is_over = False
        self.lock = threading.Lock()

    def end(self, outcome: str, *, is_error: bool = False) -> bool:
        """Mark the job as not to be completed with this output. Return False if it was marked already.

        `outcome`: what the attempt came to, for its trace.
        """
        with self.lock:
            first, self.is_over = not self.is_over, True
        if first:
            self.end_span(outcome, is_error=is_error)
        return first

    def end_span(self, outcome: str, *, is_error: bool = False) -> None:
        self.span.add(outcome=outcome)
        if is_error:
            self.span.fail(outcome)
        self.span.end()

    def end_stage(self, name: str, began: float) -> float:
        """Record that a stage has ended which began at this moment of the monotonic clock; return the present one."""
        now = clock.monotonic()
        with self.lock:
            self.timings[name] += now - began
        self.span.record_stage(name, now - began)
        return now

    def result(self, build: str) -> Result:
        numbers = range(self.job.request.images)
        return Result(
            images=tuple(self.images[number] for number in numbers),
            flagged=tuple(self.flagged[number] for number in numbers),
            timings={name: round(seconds, 6) for name, seconds in self.timings.items()},
            warnings=tuple(self.warnings),
            build=build,
        )


@dataclass(frozen=True, slots=True, eq=False)
class PendingImage:
    """A rendered image on its way to storage. `rendered_at` is a moment of the monotonic clock."""

    output: JobOutput
    number: int
    rendered: RenderedImage
    rendered_at: float


class Publisher:
    """Publishes rendered images in threads of its own, and completes their jobs."""

    def __init__(
        self,
        store: JobStore,
        *,
        storage: Storage,
        encoder: Encoder,
        checker: Checker | None,
        lease: Lease,
        failure_counter: FailureCounter,
        draining: threading.Event,
    ) -> None:
        self._store = store
        self._storage = storage
        self._encoder = encoder
        self._checker = checker
        self._lease = lease
        self._failure_counter = failure_counter
        self._draining = draining
        self._slots = Slots(_BACKLOG)
        self._queue: queue.SimpleQueue[PendingImage | None] = queue.SimpleQueue()
        self._in_flight: set[PendingImage] = set()
        # Daemon threads: a call to a storage that hangs must not keep the process from exiting.
        self._threads = [call_in_thread("publish", self._work) for _ in range(_THREADS)]

    def publish(self, output: JobOutput, number: int, rendered: RenderedImage) -> float:
        """Publish the `number`-th image of a job; its last one completes it. Waits while too many are in flight.

        Return the seconds that it waited.
        """
        pending = PendingImage(output, number, rendered, clock.monotonic())
        while not self._slots.acquire(timeout=_DRAIN_CHECK_SECONDS):
            if self._draining.is_set():
                self._release(output)
                return 0
        waited = clock.monotonic() - pending.rendered_at
        self._in_flight.add(pending)
        self._queue.put(pending)
        return waited

    def wait_until_idle(self) -> None:
        """Wait until every image is published, or the worker drains."""
        while self._in_flight and not self._draining.wait(_IDLE_CHECK_SECONDS):
            pass

    def close(self, *, seconds: float) -> None:
        """Wait up to `seconds` until every image is published, and release the jobs of the others."""
        for _ in self._threads:
            self._queue.put(None)
        wait(self._threads, timeout=seconds)
        try:
            for pending in list(self._in_flight):
                self._release(pending.output)
        except FarmError as error:
            # All come back when their leases expire.
            _log.error("jobs not released", error=with_detail(error))

    def _work(self) -> None:
        watchdog = self._lease.new_watchdog()
        while pending := self._queue.get():
            try:
                self._publish(pending, watchdog)
            except Exception as error:  # noqa: BLE001  # the thread would end with it
                _log.error("end of job not recorded", job=pending.output.job.id, exc_info=error)
                # It comes back when its lease expires.
                self._lease.remove(pending.output.job)
            finally:
                self._in_flight.discard(pending)
                self._slots.release()

    def _publish(self, pending: PendingImage, watchdog: ProgressWatchdog) -> None:
        output = pending.output
        if output.is_over:
            return
        try:
            with watchdog.guard(self._lease.timeouts.publish, "publishing"):
                self._store_image(pending)
        except StorageUnavailable as error:
            self._fail(output, StorageError(str(error), detail=error.detail))
        except StorageError as error:
            self._fail(output, error)
        except SafetyError as error:
            self._fail_and_count(output, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the job must not wait for its lease
            _log.error("publishing failed", job=output.job.id, exc_info=error)
            self._fail_and_count(output, FarmError("The image could not be published.", detail=str(error)))
        else:
            if self._is_last(output):
                self._complete(output)

    def _store_image(self, pending: PendingImage) -> None:
        output, number, rendered = pending.output, pending.number, pending.rendered
        request = output.job.request
        began = clock.monotonic()
        image, flagged = self._checked(output, rendered.image)
        checked = output.end_stage("safety", began)
        if request.output_size:
            image = ImageOps.fit(image, request.output_size, Pillow.Resampling.LANCZOS)
        encoder = self._encoder if output.job.keeps_payload else replace(self._encoder, with_prompt=False)
        content = encoder.encode(image, of=request, number=number, rendered=rendered)
        encoded = output.end_stage("encode", checked)
        key = new_key(output.job.id, output.job.fence, number, request.output_format)
        self._store_with_retry(pending, key, content)
        output.end_stage("upload", encoded)
        with output.lock:
            output.timings[FULL_STEPS] += rendered.full_steps
            output.flagged[number] = flagged
            output.warnings.update(dict.fromkeys(rendered.warnings))
            content_type = f"image/{request.output_format}"
            output.images[number] = Image(key, image.width, image.height, content_type, len(content))

    def _store_with_retry(self, pending: PendingImage, key: str, content: bytes) -> None:
        """Store `content`, retrying while the storage is down; the lease is renewed meanwhile."""
        # The closures must not hold the image: tenacity's objects are cyclic, and would keep it until a collection.
        output, job = pending.output, pending.output.job

        def warn(error: BaseException) -> None:
            _log.warning("image not stored yet", job=job.id, error=with_detail(error), cause=str(error.__cause__))

        retry = retrying(
            StorageUnavailable,
            max_seconds=pending.rendered_at + STORAGE_RETRY_SECONDS - clock.monotonic(),
            max_pause=STORAGE_RETRY_PAUSE,
            stop_event=self._draining,
            give_up=lambda: output.is_over or self._lease.must_stop(job),
            before_pause=warn,
        )
        retry(self._storage.put, key, content)

    def checker_of(self, job: Claimed) -> Checker | None:
        """Return what checks the job's images; None if they are not to be checked. Raises SafetyError without one."""
        if not job.request.safety:
            return None
        if self._checker is None:
            raise SafetyError("The request asks for checking, and this worker has no image checker.")
        return self._checker

    def _checked(self, output: JobOutput, image: Pillow.Image) -> tuple[Pillow.Image, bool]:
        """Return the image, or a black one if it is flagged, and the flag. Raises rather than pass it unchecked."""
        checker = self.checker_of(output.job)
        if checker is None:
            return image, False
        try:
            flagged = checker.check(image, output.job.request.safety_tolerance)
        except Exception as error:  # whatever a checker raises: unchecked images are not published
            raise SafetyError(detail=str(error)) from error
        return (Pillow.new("RGB", image.size) if flagged else image), flagged

    def _is_last(self, output: JobOutput) -> bool:
        with output.lock:
            return len(output.images) == output.job.request.images and not output.is_over

    def _complete(self, output: JobOutput) -> None:
        result = output.result(self._encoder.build)
        is_ours = retry_store_call(partial(self._store.complete, output.job, result), self._draining)
        output.end_span("completed" if is_ours else "lost", is_error=not is_ours)
        self._lease.remove(output.job)
        self._failure_counter.record_success()

    def _fail_and_count(self, output: JobOutput, error: FarmError) -> None:
        """Fail the job, and count the failure: this worker may be to blame."""
        failed_before = partial(self._failure_counter.failed_here_before, output.job.id)
        if retry_store_call(failed_before, self._draining):
            self._release(output)
        else:
            self._fail(output, error)
        self._failure_counter.fail([output.job.id])

    def _fail(self, output: JobOutput, error: FarmError) -> None:
        """Have the job tried again; a worker that drains releases it, uncounted."""
        if self._draining.is_set():
            self._release(output)
        elif output.end(str(error.code), is_error=True):
            cause = with_detail(error)
            fail = partial(self._store.fail, output.job, error.code, str(error), retry="again", cause=cause)
            retry_store_call(fail, self._draining)
            self._lease.remove(output.job)

    def _release(self, output: JobOutput) -> None:
        if output.end("released"):
            retry_store_call(partial(self._store.release, output.job), self._draining)
            self._lease.remove(output.job)
