"""Files on their way in: how many may come at once, and the file in a form, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from werkzeug.sansio.multipart import Data, Event, File, Preamble

from api.http import multipart
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Files that come at once, those of one caller among them, and how long one more waits for its turn, in seconds. A
#: file holds a thread, and lies in the data folder until all of it has come. fal's client sends ten parts at once.
MOST = 40
MAX_TICKETS_PER_CALLER = 20
PATIENCE_SECONDS = 20.0


class UploadSlots:
    """Slots for files that arrive. A caller that gets none within `seconds` is told to come back."""

    def __init__(
        self, *, most: int = MOST, most_of_a_caller: int = MAX_TICKETS_PER_CALLER, seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._slots = Slots(most, per_key=most_of_a_caller, max_waiting=most)
        self._seconds = seconds

    def held(self, caller: str) -> AbstractContextManager[None]:
        """Hold a slot for one file meanwhile. Raises ConcurrencyLimitReached."""
        refusal = ConcurrencyLimitReached("Too many files are being uploaded; come back when some are done.")
        return self._slots.held(caller, timeout=self._seconds, refusal=refusal)


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
