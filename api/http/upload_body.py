"""Files on their way in: how many may come at once, and the file in a form, piece by piece."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from werkzeug.sansio.multipart import Data, Event, File, Preamble

from api.http import multipart
from farm.domain.errors import InvalidRequest, Problem, TooManyHeld

#: Files that come at once, those of one caller among them, and how long one more waits for its turn, in seconds. A
#: file holds a thread, and lies in the data folder until all of it has come. fal's client sends ten parts at once.
MOST = 40
MOST_OF_A_CALLER = 20
PATIENCE_SECONDS = 20.0


class UploadBodies:
    """Places for files that come. Who waits longer than `seconds`, or as one more than `most`, is told to come back."""

    def __init__(
        self, *, most: int = MOST, most_of_a_caller: int = MOST_OF_A_CALLER, seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._most = most
        self._most_of_a_caller = most_of_a_caller
        self._seconds = seconds
        self._changed = threading.Condition()
        self._coming: Counter[str] = Counter()
        self._waiting = 0

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """A place for one file. Raises TooManyHeld."""
        with self._changed:
            if not self._has_room(caller):
                self._wait(caller)
            self._coming[caller] += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming[caller] -= 1
                self._coming += Counter()  # forgets whoever sends nothing
                self._changed.notify_all()

    def _has_room(self, caller: str) -> bool:
        return self._coming.total() < self._most and self._coming[caller] < self._most_of_a_caller

    def _wait(self, caller: str) -> None:
        if self._waiting >= self._most:
            raise TooManyHeld("Too many files are being uploaded already; come back.")
        self._waiting += 1
        try:
            if not self._changed.wait_for(lambda: self._has_room(caller), self._seconds):
                raise TooManyHeld("Too many files are being uploaded; come back when some are done.")
        finally:
            self._waiting -= 1


def file_in_form(pieces: Iterable[bytes], field: str) -> tuple[File, Iterator[bytes]]:
    """The one file in the current request's form, with its name and type, and its bytes as they come.

    `pieces` is the body. Raises InvalidRequest where the form has no such part, or has others, or ends too early; for
    what comes behind the file, when its last bytes are read.
    """
    events = multipart.events(pieces)
    first = next((event for event in events if not isinstance(event, Preamble)), None)
    if not isinstance(first, File) or first.name != field:
        raise InvalidRequest([Problem(field, "a file is required here, as the one part of the form", "missing")])
    return first, _content(events)


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if not isinstance(event, Data):
            raise InvalidRequest([Problem("", "the form has a second part; send the file alone", "form_invalid")])
        yield bytes(event.data)
