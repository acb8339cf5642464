"""The images that a worker has in flight: they join and leave between denoising steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from farm import clock
from farm.domain.errors import RenderError
from farm.domain.request import ImageRequest, Request
from workers.lease import ProgressWatchdog
from workers.pipelines.pipeline import ImageInFlight, Pipeline, RenderedImage
from workers.run import RenderRun

#: An image leaves soon if it has so many steps left, or will leave within so many seconds.
_LAST_STEPS = 2
_SOON_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """The `number`-th image of a run, in flight."""

    run: RenderRun
    number: int
    image: ImageInFlight

    @property
    def request(self) -> ImageRequest:
        return self.image.request

    @property
    def steps_left(self) -> int:
        return self.request.denoising_steps - self.image.step


class Flight:
    """Images that advance step by step on one pipeline, watched for progress; all have the batch key of the first."""

    def __init__(self, pipeline: Pipeline, watchdog: ProgressWatchdog) -> None:
        self._pipeline = pipeline
        self._watchdog = watchdog
        self.members: list[Member] = []
        #: Duration of the last step of all; none is known before the first.
        self._step_seconds = math.inf

    def __bool__(self) -> bool:
        return bool(self.members)

    @property
    def runs(self) -> list[RenderRun]:
        """The runs of the images, each once."""
        return list(dict.fromkeys(member.run for member in self.members))

    def admits(self, request: Request) -> bool:
        """Return True if an image of this request may join now."""
        return not self.members or (
            request.batch_key == self._batch_key and len(self.members) < self._pipeline.capacity_for(request.image(0))
        )

    def capacity(self, seconds: float) -> tuple[int, str]:
        """Return how many images may join now, or so many seconds before others leave, and of which batch key.

        The key is empty, for any, if all that are in flight leave soon.
        """
        leaving = sum(self._leaves_soon(member, seconds) for member in self.members)
        if leaving == len(self.members):
            return self._pipeline.capacity, ""
        limit = self._pipeline.capacity_for(self.members[0].request)
        return limit - len(self.members) + leaving, self._batch_key

    def start(self, run: RenderRun, number: int) -> None:
        """Have the `number`-th image of a run join."""
        if not self.members:
            self._step_seconds = math.inf
        request, began = run.job.request.image(number), clock.monotonic()
        with self._watched([request]):
            image = self._pipeline.start(request, run.inputs)
        self.members.append(Member(run, number, image))
        run.record_step(number, 0, clock.monotonic() - began)

    def advance(self) -> None:
        """Do the next denoising step of each image."""
        began = clock.monotonic()
        with self._watched([member.request for member in self.members]):
            self._pipeline.advance([member.image for member in self.members])
            self._watchdog.heartbeat()
        self._step_seconds = clock.monotonic() - began
        for member in self.members:
            member.run.record_step(member.number, member.image.step, self._step_seconds / len(self.members))

    def finish(self, member: Member) -> RenderedImage:
        """Return the image of a member that is denoised; it leaves."""
        began = clock.monotonic()
        with self._watched([member.request]):
            rendered = self._pipeline.finish(member.image)
        _check(rendered, member.request)
        self.members.remove(member)
        member.run.record_image(clock.monotonic() - began)
        return rendered

    def remove(self, run: RenderRun) -> None:
        """Have all images of a run leave."""
        self.members = [member for member in self.members if member.run is not run]

    @property
    def _batch_key(self) -> str:
        return self.members[0].run.job.request.batch_key

    def _leaves_soon(self, member: Member, seconds: float) -> bool:
        left = member.steps_left
        return left <= _LAST_STEPS or left * self._step_seconds <= _SOON_SECONDS + seconds

    @contextmanager
    def _watched(self, requests: Sequence[ImageRequest]) -> Iterator[None]:
        self._watchdog.start_steps(sum(request.width * request.height for request in requests))
        try:
            yield
        finally:
            self._watchdog.stop()


def _check(rendered: RenderedImage, request: ImageRequest) -> None:
    """Raise RenderError if an image is not what every pipeline promises to render."""
    size = (request.width, request.height)
    if rendered.size != size or len(rendered.pixels) != 3 * size[0] * size[1]:
        raise RenderError(
            f"The pipeline rendered {len(rendered.pixels)} bytes of {rendered.size}, and not RGB of {size}."
        )
