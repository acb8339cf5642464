"""File uploads: how many may arrive at a time, and the file of a form, in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from werkzeug.sansio.multipart import Data, Event, File, Preamble

from api.http import multipart
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Uploads at a time. Each holds a thread, and a file in the data folder until all of it has arrived.
MAX_UPLOADS = 40
#: Uploads of one caller at a time. fal's client sends ten parts at once.
MAX_UPLOADS_PER_CALLER = 20
#: How long one more upload waits for a slot, in seconds.
SLOT_WAIT_SECONDS = 20.0


class UploadSlots:
    """Slots for uploads. One that gets none within `wait_seconds` is refused."""

    def __init__(
        self,
        *,
        max_uploads: int = MAX_UPLOADS,
        per_caller: int = MAX_UPLOADS_PER_CALLER,
        wait_seconds: float = SLOT_WAIT_SECONDS,
    ) -> None:
        self._slots = Slots(max_uploads, per_key=per_caller, max_waiting=max_uploads)
        self._wait_seconds = wait_seconds

    def held(self, caller: str) -> AbstractContextManager[None]:
        """Hold a slot for one upload meanwhile. Raises ConcurrencyLimitReached."""
        refusal = ConcurrencyLimitReached("Too many files are being uploaded; try again when some are done.")
        return self._slots.held(caller, timeout=self._wait_seconds, refusal=refusal)


def file_in_form(pieces: Iterable[bytes], field: str) -> tuple[File, Iterator[bytes]]:
    """Return the one file of the current request's form, with its name and type, and its bytes as they arrive.

    `pieces` is the body. Raises InvalidRequest where the form has no such part, has others, or is cut off; for what
    follows the file, only when its last bytes are read.
    """
    events = multipart.events(pieces)
    first = next((event for event in events if not isinstance(event, Preamble)), None)
    if not isinstance(first, File) or first.name != field:
        raise InvalidRequest([Problem(field, "a file is required, as the only part of the form", "missing")])
    return first, _content(events)


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if not isinstance(event, Data):
            raise InvalidRequest([Problem("", "the form has a second part; send only the file", "form_invalid")])
        yield bytes(event.data)
