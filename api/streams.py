"""Streams of server-sent events, and the bound on how many of them hold a thread at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import flask

from farm.errors import QueueFull


class Streams:
    """Hands out at most `most` streams at a time; one more is told to come back."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    def answer(self, events: Iterator[str]) -> flask.Response:
        """A response that sends `events` as they come."""
        if not self._free.acquire(blocking=False):
            raise QueueFull("Too many streams are open; poll instead, or come back.")
        response = flask.Response(events, mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        response.call_on_close(self._free.release)
        return response
