"""The memory that large bodies may take together: without a bound, as many of them as there are threads."""

from __future__ import annotations

import threading

import flask

from farm.errors import TooManyHeld

#: Bytes of large bodies that are being dealt with at a time, those of held calls among them. While a body is taken
#: apart, its bytes are there about four times.
MOST = 512 * 1024 * 1024


class Room:
    """So many bytes. Who finds too few free is told to come back."""

    def __init__(self, most: int = MOST) -> None:
        self._lock = threading.Lock()
        self.free = most

    def take(self, size: int) -> None:
        """Take so many bytes, until the current request is answered. Raises TooManyHeld."""
        with self._lock:
            if size > self.free:
                raise TooManyHeld("Too many large bodies are being dealt with; name images by URL, or come back.")
            self.free -= size

        @flask.after_this_request
        def give_back(response: flask.Response) -> flask.Response:
            with self._lock:
                self.free += size
            return response
