"""The render thread: claimed images join the flight, advance step by step, and leave it to be published.

One thread, one pipeline.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from farm import clock
from farm.celery import WakeUps
from farm.jobstore.store import JobStore
from farm.storage.storage import Storage
from workers.claims import Claims, Found
from workers.flight import Flight, Member
from workers.health import FailureCounter
from workers.lease import Lease
from workers.pipelines.pipeline import Pipeline, RenderedImage
from workers.previews import Previews
from workers.publish import Publisher
from workers.run import RenderRun
from workers.unrendered import Unrendered

#: After so many seconds of one wake-up the worker claims nothing more, sends itself another and returns, so that Celery
#: sees it alive.
_MAX_WAKE_UP_SECONDS = 600.0


class Renderer:
    """Renders while jobs wait: whenever an image leaves the flight, or is about to, the next is claimed."""

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
        has_work: Callable[[], bool],
        draining: threading.Event,
        previews: Previews | None = None,
    ) -> None:
        self._previews = previews
        self._lease = lease
        self._failure_counter = failure_counter
        self._publisher = publisher
        self._wake_ups = wake_ups
        self._draining = draining
        self._unrendered = Unrendered(store, lease=lease, failure_counter=failure_counter, draining=draining)
        self._claims = Claims(
            store,
            worker=worker,
            pipeline=pipeline,
            storage=storage,
            lease=lease,
            unrendered=self._unrendered,
            wake_ups=wake_ups,
            has_work=has_work,
            refuse=publisher.checker_of,
            draining=draining,
        )
        self._flight = Flight(pipeline, lease.watchdog)
        #: Claimed images that have not joined the flight.
        self._waiting: deque[tuple[RenderRun, int]] = deque()
        #: Nothing is claimed beside a job that must be alone, until it is published.
        self._is_exclusive = False
        self._ends_at = 0.0
        #: How long the pipeline has had images in flight, in seconds.
        self.busy_seconds = 0.0

    def work(self) -> None:
        """Render until no job waits, the worker drains, or the wake-up has lasted long enough."""
        self._ends_at = clock.monotonic() + _MAX_WAKE_UP_SECONDS
        try:
            while self._flight or self._waiting or self._claim():
                self._work_on()
        finally:
            # Whatever went wrong: what is not being published is not held for ever.
            for run in self._unfinished():
                self._leave(run)
                self._lease.remove(run.job)

    def close(self) -> None:
        """Claim nothing more: called after the last wake-up."""
        self._claims.close()

    def _claim(self) -> bool:
        """Wait for a claim while nothing is in flight. Return False if no job waits, or this wake-up is over."""
        if self._receive(self._claims.take(wait=True)):
            return True
        if self._is_exclusive:
            self._publisher.wait_until_idle()
            self._is_exclusive = False
        if self._draining.wait(self._failure_counter.pause_seconds):
            return False
        if clock.monotonic() > self._ends_at:
            self._wake_ups.send(1)
            return False
        found = self._claims.claim()
        if found.is_deferred:
            self._publisher.wait_until_idle()
        return self._receive(found) or found.is_deferred

    def _receive(self, found: Found) -> bool:
        """Have the images of a claim wait for the flight. Return True if any job was claimed."""
        self._waiting.extend((run, number) for run in found.runs for number in range(run.job.request.images))
        self._is_exclusive |= any(run.job.must_be_alone for run in found.runs)
        return found.is_any

    def _work_on(self) -> None:
        """Let images join, advance, and leave."""
        began = clock.monotonic()
        self._receive(self._claims.take(wait=False))
        self._end_stopped()
        self._start_waiting()
        self._finish_denoised()  # image to image without a step
        if self._flight:
            self._claim_ahead()
            self._advance()
        self.busy_seconds += clock.monotonic() - began

    def _claim_ahead(self) -> None:
        """Look for what joins next, beside the step that follows, if there is capacity now or soon."""
        if self._waiting or self._claims.is_looking or self._is_exclusive or self._failure_counter.pause_seconds:
            return
        images, batch_key = self._flight.capacity(self._claims.seconds)
        if images > 0 and clock.monotonic() < self._ends_at:
            self._claims.look_ahead(images, batch_key)

    def _start_waiting(self) -> None:
        while self._waiting and not self._draining.is_set():
            run, number = self._waiting[0]
            if not self._flight.admits(run.job.request):
                return
            self._waiting.popleft()
            self._start(run, number)

    def _start(self, run: RenderRun, number: int) -> None:
        try:
            self._flight.start(run, number)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends in the job's record
            self._fail([run], error)
        else:
            self._lease.progress(run.job, run.step)

    def _advance(self) -> None:
        try:
            self._flight.advance()
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends in the records of its jobs
            self._fail(self._flight.runs, error)
            return
        for run in self._flight.runs:
            self._lease.progress(run.job, run.step)
        self._finish_denoised()
        if self._previews:
            self._previews.take(self._flight.members)

    def _finish_denoised(self) -> None:
        """Publish what is denoised; an image that is denoised when a drain begins is finished."""
        for member in list(self._flight.members):
            run = member.run
            if not (member.steps_left or run.output.is_over or self._lease.must_stop(run.job)):
                self._finish(member)

    def _finish(self, member: Member) -> None:
        try:
            self._publish(member, self._flight.finish(member))
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends in the job's record
            self._fail([member.run], error)

    def _publish(self, member: Member, rendered: RenderedImage) -> None:
        # Waiting for the publisher is no work of the pipeline.
        self.busy_seconds -= self._publisher.publish(member.run.output, member.number, rendered)

    def _end_stopped(self) -> None:
        """End the runs that were cancelled, lost or failed elsewhere; a worker that drains releases all."""
        for run in self._unfinished():
            if run.output.is_over:
                self._leave(run)
            elif self._lease.must_stop(run.job):
                self._leave(run)
                self._unrendered.cancel(run)
            elif self._draining.is_set():
                self._leave(run)
                self._unrendered.release(run)

    def _fail(self, runs: Sequence[RenderRun], error: Exception) -> None:
        """Fail the runs of images that were computed together; other runs go on."""
        for run in runs:
            self._leave(run)
        were_alone = len(runs) == 1 and not self._flight
        self._unrendered.fail_rendering(runs, error, were_alone=were_alone)

    def _unfinished(self) -> list[RenderRun]:
        """Return the runs with images in flight or waiting for it, each once."""
        return list(dict.fromkeys([*self._flight.runs, *(run for run, _ in self._waiting)]))

    def _leave(self, run: RenderRun) -> None:
        """Have all images of a run leave."""
        self._flight.remove(run)
        self._waiting = deque(pair for pair in self._waiting if pair[0] is not run)
