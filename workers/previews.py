"""Previews: small images of how those in flight look so far, published while somebody watches, and kept nowhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from farm import clock
from farm.concurrency.background_thread import BackgroundThread
from farm.domain.preview import Preview
from farm.jobstore.previews import PreviewChannels
from workers.flight import Member
from workers.lease import Lease
from workers.pipelines.pipeline import Pipeline

#: Seconds between two previews of an image.
SECONDS = 0.5
#: Longest side in pixels; of an image that is to be checked, it shows no more than the checker's own input would.
MAX_SIDE = 192
MAX_CHECKED_SIDE = 64
#: Largest file in bytes: 20 kB in base64. Even noise is smaller at the last of these qualities.
MAX_BYTES = 14_500
_QUALITIES = (75, 50, 30)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A preview that is not encoded yet."""

    job: str
    number: int
    step: int
    image: Image.Image
    max_side: int


class Previews(BackgroundThread):
    """Takes previews in the render thread, and encodes and publishes them in its own."""

    def __init__(self, channels: PreviewChannels, *, pipeline: Pipeline, lease: Lease) -> None:
        super().__init__("previews", self._publish)
        self._channels = channels
        self._pipeline = pipeline
        self._lease = lease
        self._due = 0.0
        self._in_flight: frozenset[str] = frozenset()
        self._watched: frozenset[str] = frozenset()
        self._taken: Sequence[_Taken] = ()

    def take(self, members: Sequence[Member]) -> None:
        """Take a preview of each image of a watched job, if it is time. Called by the render thread between steps."""
        now = clock.monotonic()
        if now < self._due:
            return
        self._due = now + SECONDS
        self._in_flight = frozenset(member.run.job.id for member in members)
        watched = [member for member in members if member.run.job.id in self._watched]
        if watched:
            with self._lease.watchdog.guard(self._lease.timeouts.step, "taking previews"):
                self.attempt(lambda: self._take(watched))
        self.wake()

    def _take(self, members: Iterable[Member]) -> None:
        self._taken = [
            _Taken(
                member.run.job.id,
                member.number,
                member.image.step,
                self._pipeline.preview(member.image),
                MAX_CHECKED_SIDE if member.run.job.request.safety else MAX_SIDE,
            )
            for member in members
        ]

    def _publish(self) -> None:
        taken, self._taken = self._taken, ()
        for one in taken:
            url = f"data:image/jpeg;base64,{base64.b64encode(encoded(one.image, one.max_side)).decode()}"
            self._channels.publish(one.job, Preview(one.number, one.step, url))
        self._watched = self._channels.watched(self._in_flight)


def encoded(image: Image.Image, max_side: int) -> bytes:
    """Return the image as a JPEG of at most MAX_BYTES, no side longer than `max_side`."""
    small = image.copy()
    small.thumbnail((max_side, max_side))
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
