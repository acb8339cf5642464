"""Files that callers upload: with a ticket or without, whole or in parts, and never whole in memory.

What a file's name says of its type was announced before its bytes came, if it came with a ticket; whoever hands it out
looks at how it begins (`farm/storage/storage.py`).
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from farm import clock
from farm.domain.catalogue import MAX_UPLOAD
from farm.domain.errors import (
    InvalidRequest,
    NotFound,
    Problem,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UploadComplete,
)
from farm.storage.storage import (
    HEAD_BYTES,
    Extension,
    Storage,
    begins_like,
    extension_for,
    name_in,
    new_upload_key,
    part_key,
)
from farm.uploads.tickets import Allowance, Part, Ticket, Tickets

#: Bytes of the data folder's disk that no upload may take: the job store and the images need them.
LEFT_FREE = 1024**3
#: What is said of a ticket that is none, or another caller's: the two cannot be told apart.
NO_TICKET = "No upload is open at this address; it may have expired. Begin a new one."


@dataclass(frozen=True, slots=True)
class Arrival:
    """What has come, in a file of this machine which has no name; `head` is its beginning."""

    file: BinaryIO
    size: int
    digest: str
    head: bytes


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller says of a file that it is about to send.

    `keep_seconds`: how long it is to be kept, if for less than the farm would. `size`: its bytes. 0: it does not say.
    """

    content_type: str
    keep_seconds: int = 0
    size: int = 0


class Uploads:
    """Takes in files. `spool` is a folder for what is on its way to the storage.

    What brings bytes raises UploadQuotaExceeded where their sender has brought too many already.
    """

    def __init__(
        self, tickets: Tickets, *, allowance: Allowance, storage: Storage, spool: Path, keep_seconds: float
    ) -> None:
        self._tickets = tickets
        self._allowance = allowance
        self._storage = storage
        self._spool = spool
        self._keep_seconds = keep_seconds

    def issue(self, caller: str, wish: Wish, *, in_parts: bool = False) -> Ticket:
        """A ticket for one file. Raises StoreFull."""
        self._allowance.refuse_when_spent(caller)
        key = self._new_key(extension_for(wish.content_type), wish)
        ticket = Ticket(secrets.token_urlsafe(32), caller, key, wish.content_type, wish.size, in_parts)
        self._tickets.issue(ticket)
        return ticket

    def ticket(self, ticket_id: str, *, in_parts: bool = False) -> Ticket:
        """The ticket of this id. Raises NotFound."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.in_parts != in_parts:
            raise NotFound(NO_TICKET)
        _refuse_over(ticket)
        return ticket

    def keep(self, caller: str, wish: Wish, pieces: Iterable[bytes]) -> tuple[str, int]:
        """Store a file that comes without a ticket. Its key, and its size in bytes."""
        self._allowance.refuse_when_spent(caller)
        with self._arrived(pieces) as arrival, self._allowance.spent(caller, arrival.size):
            declared = extension_for(wish.content_type)
            key = self._new_key(declared if begins_like(declared, arrival.head) else "bin", wish)
            self._storage.put_file(key, arrival.file)
        return key, arrival.size

    def fill(self, ticket: Ticket, pieces: Iterable[bytes]) -> None:
        """Store the file of a ticket. It may come again, as clients send it whose answer got lost, but no other may."""
        if not ticket.settled:
            self._allowance.refuse_when_spent(ticket.caller)
        with self._arrived(pieces) as arrival:
            if ticket.size and arrival.size != ticket.size:
                message = f"{ticket.size} bytes were announced, and {arrival.size} came"
                raise InvalidRequest([Problem("size", message, "size_mismatch", arrival.size)])
            with self._allowance.spent(ticket.caller, 0 if ticket.settled else arrival.size):
                self._settle(ticket, arrival.digest)
                self._storage.put_file(ticket.key, arrival.file)

    def room(self, ticket: Ticket, number: int) -> int:
        """How many bytes the part of this number may have beside the others. Raises UploadComplete."""
        if ticket.settled:
            raise UploadComplete("This upload is complete and takes no further parts; start a new one.")
        others = [part.size for one, part in self._tickets.parts(ticket.id).items() if one != number]
        return max(0, MAX_UPLOAD - sum(others))

    def add_part(self, ticket: Ticket, number: int, pieces: Iterable[bytes]) -> str:
        """Store a part, in place of one that came before it under its number; what it is to be called at the end."""
        before = self._tickets.parts(ticket.id).get(number)
        if before is None:
            self._allowance.refuse_when_spent(ticket.caller)
        with self._arrived(pieces) as arrival:
            part = Part(arrival.digest, arrival.size)
            with self._allowance.spent(ticket.caller, 0 if part == before else part.size):
                self._storage.put_file(part_key(ticket.key, number, part.digest), arrival.file)
        parts = self._tickets.add_part(ticket.id, number, part)
        if before and before != part:
            self._remove_part(ticket, number, before)
        if sum(one.size for one in parts.values()) > MAX_UPLOAD:  # others came meanwhile
            self._tickets.remove_part(ticket.id, number)
            self._remove_part(ticket, number, part)
            raise InvalidRequest(
                [Problem("", f"the parts are too large; allowed: {MAX_UPLOAD} bytes", "file_too_large")]
            )
        return part.digest

    def complete(self, ticket: Ticket, named: Mapping[int, str]) -> None:
        """Put the parts together. `named` are their numbers with what `add_part` called them: all, and no others."""
        settled = hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()
        if ticket.settled:
            self._settle(ticket, settled)
            if self._storage.find(ticket.key):
                return  # the caller did not get its answer
        parts = self._tickets.parts(ticket.id)
        _refuse_others(parts, named)
        try:
            with self._arrived(self._joined(ticket, parts)) as arrival:
                self._settle(ticket, settled)
                self._storage.put_file(ticket.key, arrival.file)
        except NotFound:
            if not self._storage.find(ticket.key):
                raise
            # The caller asked twice, and the other call has removed the parts: it was about these.
            self._settle(ticket, settled)
        for number, part in parts.items():
            self._remove_part(ticket, number, part)

    def _settle(self, ticket: Ticket, digest: str) -> None:
        _refuse_over(ticket)
        if not self._tickets.settle(ticket.id, digest):
            raise UploadComplete("This upload is complete, with another file; start a new one.")

    def _new_key(self, extension: Extension, wish: Wish) -> str:
        seconds = min(wish.keep_seconds or self._keep_seconds, self._keep_seconds)
        return new_upload_key(extension, until=int(clock.now_us() / 1e6 + seconds))

    def _joined(self, ticket: Ticket, parts: Mapping[int, Part]) -> Iterator[bytes]:
        for number, part in sorted(parts.items()):
            left = part.size
            with closing(self._storage.open(part_key(ticket.key, number, part.digest), 0, left)) as pieces:
                for piece in pieces:
                    left -= len(piece)
                    yield piece
            if left:
                raise StorageUnavailable(detail=f"part {number} of an upload breaks off in the storage")

    def _remove_part(self, ticket: Ticket, number: int, part: Part) -> None:
        with suppress(StorageError):  # the sweeper finds it
            self._storage.remove(part_key(ticket.key, number, part.digest))

    @contextmanager
    def _arrived(self, pieces: Iterable[bytes]) -> Iterator[Arrival]:
        """All of a body in a file, which is gone with the block, and with this process. Raises InvalidRequest."""
        # Closing the file writes to it, too.
        with _translated(), self._nameless_file() as file:
            digest, head, length = hashlib.sha256(), b"", 0
            for piece in pieces:
                self._refuse_when_full()
                file.write(piece)
                digest.update(piece)
                head = (head + piece[:HEAD_BYTES])[:HEAD_BYTES]
                length += len(piece)
            if not length:
                raise InvalidRequest([Problem("", "the file is empty", "file_empty")])
            file.seek(0)
            yield Arrival(file, length, digest.hexdigest(), head)

    def _nameless_file(self) -> BinaryIO:
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._spool)

    def _refuse_when_full(self) -> None:
        if shutil.disk_usage(self._spool).free < LEFT_FREE:
            raise StorageFull


def _refuse_over(ticket: Ticket) -> None:
    """Raise NotFound where the file would be stored and never be found."""
    name = name_in(ticket.key)
    if name is None or name.is_over(clock.now_us()):
        raise NotFound("The time for which this file was to be kept is over already. Begin a new upload.")


def _refuse_others(parts: Mapping[int, Part], named: Mapping[int, str]) -> None:
    """Raise InvalidRequest where the parts that were named are not those that came, one after the other from 1 on."""
    problems = [
        Problem("parts", f"part {number} has not come", "part_missing", number)
        for number in range(1, max([*named, *parts, 1]) + 1)
        if number not in parts
    ]
    problems += [
        Problem("parts", f"part {number} has come, and is not named", "part_missing", number)
        for number in parts
        if number not in named
    ]
    problems += [
        Problem("parts", f"part {number} is another one than that which came under this etag", "part_differs", etag)
        for number, etag in named.items()
        if number in parts and parts[number].digest != etag
    ]
    if problems:
        raise InvalidRequest(problems)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(detail=f"writing an upload to the data folder: {error.strerror}") from error
