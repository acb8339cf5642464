"""File uploads: how many may arrive at a time, and the file of a form, in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from werkzeug.datastructures import MultiDict
from werkzeug.sansio.multipart import Data, Event, Field, File, Preamble

from api.http import multipart
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Uploads at a time. Each holds a thread, and a file in the data folder until all of it has arrived.
MAX_UPLOADS = 40
#: Uploads of one caller at a time. fal's client sends ten parts at once.
MAX_UPLOADS_PER_CALLER = 20
#: How long one more upload waits for a slot, in seconds.
SLOT_WAIT_SECONDS = 20.0
#: Most bytes of the texts beside a file, together.
MAX_FORM_TEXT = 64 * 1024


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


class FormWithFile:
    """A form with one file among texts, in any order.

    `texts` are complete when the last piece of the file's content has been read.
    """

    def __init__(self, pieces: Iterable[bytes], field: str) -> None:
        self._events = multipart.events(pieces)
        self._field = field
        self._texts: MultiDict[str, str] = MultiDict()
        self._text_bytes = 0
        self.file_name = ""

    @property
    def texts(self) -> dict[str, Any]:
        """The texts by name; names such as `size[width]` make objects. Raises InvalidRequest for a repeated one."""
        return multipart.objects(self._texts)

    def content(self) -> Iterator[bytes]:
        """Yield the bytes of the file as they arrive. Raises InvalidRequest if there is none, or the form malformed."""
        part: File | Field | None = None
        has_file = False
        for event in self._events:
            if isinstance(event, File):
                self._name_file(event, has_file)
                part, has_file = event, True
            elif isinstance(event, Field):
                part = event
                self._texts.add(event.name, "")
            elif isinstance(event, Data) and isinstance(part, File):
                yield bytes(event.data)
            elif isinstance(event, Data) and part is not None:
                self._add_text(part.name, bytes(event.data))
        if not has_file:
            raise InvalidRequest([Problem(self._field, "a file is required", "missing")])

    def _name_file(self, part: File, has_file: bool) -> None:
        if has_file or part.name != self._field:
            message = f"send one file, in the field {self._field}"
            raise InvalidRequest([Problem(part.name or self._field, message, "form_invalid")])
        self.file_name = part.filename or ""

    def _add_text(self, name: str, data: bytes) -> None:
        self._text_bytes += len(data)
        if self._text_bytes > MAX_FORM_TEXT or len(self._texts) > multipart.MAX_FORM_PARTS:
            message = f"the form has more than {MAX_FORM_TEXT} bytes of text, or {multipart.MAX_FORM_PARTS} parts"
            raise InvalidRequest([Problem(name, message, "form_invalid")])
        *values, last = self._texts.getlist(name)
        self._texts.setlist(name, [*values, last + data.decode(errors="replace")])


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if not isinstance(event, Data):
            raise InvalidRequest([Problem("", "the form has a second part; send only the file", "form_invalid")])
        yield bytes(event.data)
