"""A run: one job on its way through a worker, from its claim to its last rendered image."""

from __future__ import annotations

from farm import clock
from farm.domain.job import Claimed
from farm.domain.measures import DEVICE
from farm.tracing import tracer
from farm.tracing.span import Fact, Span
from workers.pipelines.pipeline import InputImages
from workers.publish import JobOutput


class RenderRun:
    """One claimed job, with its input images, its progress and its output. Moments are by the monotonic clock."""

    def __init__(self, job: Claimed, inputs: InputImages) -> None:
        self.job = job
        #: By their storage keys; all that the job names are there before it is rendered.
        self.inputs = inputs
        self.output = JobOutput(job, _span(job))
        self._claimed = clock.monotonic()
        self._began: float | None = None
        self._steps = [0] * job.request.images
        self._steps_in_all = job.request.denoising_steps * job.request.images

    @property
    def step(self) -> int:
        """Denoising steps that are done, of all images together."""
        return sum(self._steps)

    def record_step(self, number: int, step: int, device_seconds: float) -> None:
        """Record that `step` steps of the `number`-th image are done (0: its first begins).

        `device_seconds`: its share of the time that the device took since the step before.
        """
        now = clock.monotonic()
        self.output.timings[DEVICE] += device_seconds
        if self._began is None:
            self._began = now
            self.output.timings["start"] = now - self._claimed
            self.output.span.record_stage("start", now - self._claimed)
        self._steps[number] = step
        self.output.timings["denoise"] = now - self._began
        if self.step == self._steps_in_all:
            self.output.span.record_stage("denoise", now - self._began)

    def record_image(self, device_seconds: float) -> None:
        """Record that an image is rendered, and how long it took to decode it."""
        self.output.timings[DEVICE] += device_seconds
        self.output.timings["decode"] += device_seconds
        self.output.span.record_stage("decode", device_seconds)
        if self._began is not None:
            self.output.timings["inference"] = clock.monotonic() - self._began


def _span(job: Claimed) -> Span:
    """Return the span of this attempt, from its claim on; the time that the job waited is a span by itself."""
    request, parent = job.request, job.origin.traceparent
    facts: dict[str, Fact] = {"job": job.id, "attempt": job.attempt, "request_id": job.origin.request_id}
    tracer.start("wait for worker", parent, facts, seconds_ago=job.wait_seconds).end()
    return tracer.start(
        "render job", parent, {**facts, "model": request.model, "images": request.images, "steps": request.steps}
    )
