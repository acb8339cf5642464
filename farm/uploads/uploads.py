"""File uploads: with a ticket or without, whole or in parts, and never whole in memory.

With a ticket, the type in a file's key was announced before its bytes arrived: the API checks the file signature
(`farm/storage/storage.py`) when it serves the file.
"""

from __future__ import annotations

import errno
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
from farm.storage.declaration import declared
from farm.storage.storage import (
    HEAD_BYTES,
    Extension,
    Storage,
    extension_for,
    matches_signature,
    new_upload_key,
    parse_key,
    part_key,
)
from farm.uploads.tickets import Part, Ticket, Tickets, UploadQuota

#: Bytes of the data folder's disk that uploads must leave free for the job store and the images.
MIN_FREE_BYTES = 1024**3
#: The error for an unknown ticket and for another caller's: they must look alike.
NO_TICKET = "No upload is open at this URL; it may have expired. Start a new one."


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A received file, spooled to an unnamed temporary file; `head` is its first bytes."""

    file: BinaryIO
    size: int
    digest: str
    head: bytes


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """A caller's announcement of a file.

    `keep_seconds`: how long to keep it, up to the farm's retention; 0: as long as that. `size`: its bytes; 0: not
    announced. `name`: its file name, as the caller has it; empty: not announced.
    """

    content_type: str
    keep_seconds: int = 0
    size: int = 0
    name: str = ""


class Uploads:
    """Receives uploaded files. `spool` is a folder for files on their way to the storage.

    Methods that receive bytes raise UploadQuotaExceeded if their sender has used up its quota.
    """

    def __init__(
        self, tickets: Tickets, *, quota: UploadQuota, storage: Storage, spool: Path, keep_seconds: float
    ) -> None:
        self._tickets = tickets
        self._quota = quota
        self._storage = storage
        self._spool = spool
        self._keep_seconds = keep_seconds

    def issue(self, caller: str, announced: UploadRequest, *, in_parts: bool = False) -> Ticket:
        """Issue a ticket for one file. Raises StoreFull."""
        self._quota.refuse_when_spent(caller)
        key = self._new_key(extension_for(announced.content_type), announced)
        ticket = Ticket(secrets.token_urlsafe(32), caller, key, announced.content_type, announced.size, in_parts)
        self._tickets.issue(ticket)
        return ticket

    def ticket(self, ticket_id: str, *, in_parts: bool = False) -> Ticket:
        """Return the ticket of this id. Raises NotFound."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.in_parts != in_parts:
            raise NotFound(NO_TICKET)
        _refuse_expired(ticket)
        return ticket

    def keep(self, caller: str, announced: UploadRequest, pieces: Iterable[bytes]) -> tuple[str, int]:
        """Store a file that comes without a ticket. Returns its key and its size in bytes."""
        with self.spooled(caller, pieces) as received:
            extension = extension_for(announced.content_type)
            key = self._new_key(extension if matches_signature(extension, received.head) else "bin", announced)
            self._storage.put_file(key, received.file)
        return key, received.size

    @contextmanager
    def spooled(self, caller: str, pieces: Iterable[bytes]) -> Iterator[ReceivedFile]:
        """Receive a file and yield it; it counts against the caller's quota unless the block fails."""
        self._quota.refuse_when_spent(caller)
        with self._received(pieces) as received, self._quota.charge(caller, received.size):
            yield received

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        """Yield an unnamed temporary file of the data folder. Raises StorageFull and StorageUnavailable."""
        with _translated(), self._temporary_file() as file:
            self._refuse_when_full()
            yield file

    def fill(self, ticket: Ticket, pieces: Iterable[bytes]) -> None:
        """Store the file of a ticket. Clients that lost the answer may send the same file again, but no other."""
        if not ticket.settled:
            self._quota.refuse_when_spent(ticket.caller)
        with self._received(pieces) as received:
            if ticket.size and received.size != ticket.size:
                message = f"{ticket.size} bytes were announced, but {received.size} arrived"
                raise InvalidRequest([Problem("size", message, "size_mismatch", received.size)])
            with self._quota.charge(ticket.caller, 0 if ticket.settled else received.size):
                self._settle(ticket, received.digest)
                self._storage.put_file(ticket.key, received.file)

    def remaining_bytes(self, ticket: Ticket, number: int) -> int:
        """Return how many bytes the part of this number may have beside the others. Raises UploadComplete."""
        if ticket.settled:
            raise UploadComplete("This upload is complete and takes no further parts; start a new one.")
        others = [part.size for one, part in self._tickets.parts(ticket.id).items() if one != number]
        return max(0, MAX_UPLOAD - sum(others))

    def add_part(self, ticket: Ticket, number: int, pieces: Iterable[bytes]) -> str:
        """Store a part, replacing an earlier one of its number. Returns its etag, which completing the upload names."""
        before = self._tickets.parts(ticket.id).get(number)
        if before is None:
            self._quota.refuse_when_spent(ticket.caller)
        with self._received(pieces) as received:
            part = Part(received.digest, received.size)
            with self._quota.charge(ticket.caller, 0 if part == before else part.size):
                self._storage.put_file(part_key(ticket.key, number, part.digest), received.file)
        parts = self._tickets.add_part(ticket.id, number, part)
        if before and before != part:
            self._remove_part(ticket, number, before)
        if sum(one.size for one in parts.values()) > MAX_UPLOAD:  # other parts arrived meanwhile
            self._tickets.remove_part(ticket.id, number)
            self._remove_part(ticket, number, part)
            raise InvalidRequest(
                [Problem("", f"the parts are too large; allowed: {MAX_UPLOAD} bytes", "file_too_large")]
            )
        return part.digest

    def complete(self, ticket: Ticket, named: Mapping[int, str]) -> None:
        """Join the parts. `named` are the numbers and etags of all of them; any other set raises InvalidRequest."""
        settled = hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()
        if ticket.settled:
            self._settle(ticket, settled)
            if self._storage.find(ticket.key):
                return  # a repeated call: the caller lost the answer
        parts = self._tickets.parts(ticket.id)
        _refuse_mismatch(parts, named)
        try:
            with self._received(self._joined(ticket, parts)) as received:
                self._settle(ticket, settled)
                self._storage.put_file(ticket.key, received.file)
        except NotFound:
            if not self._storage.find(ticket.key):
                raise
            # A concurrent call for the same parts has joined and removed them.
            self._settle(ticket, settled)
        for number, part in parts.items():
            self._remove_part(ticket, number, part)

    def _settle(self, ticket: Ticket, digest: str) -> None:
        _refuse_expired(ticket)
        if not self._tickets.settle(ticket.id, digest):
            raise UploadComplete("This upload is complete, with another file; start a new one.")

    def _new_key(self, extension: Extension, announced: UploadRequest) -> str:
        seconds = announced.keep_seconds or self._keep_seconds
        # What was declared to be an image and is not has no known type.
        kept_type = announced.content_type if extension_for(announced.content_type) == extension else ""
        declaration = declared(kept_type, announced.name)
        return new_upload_key(extension, until=int(clock.now_us() / 1e6 + seconds), declaration=declaration)

    def _joined(self, ticket: Ticket, parts: Mapping[int, Part]) -> Iterator[bytes]:
        for number, part in sorted(parts.items()):
            left = part.size
            with closing(self._storage.open(part_key(ticket.key, number, part.digest), 0, left)) as pieces:
                for piece in pieces:
                    left -= len(piece)
                    yield piece
            if left:
                raise StorageUnavailable(detail=f"part {number} of an upload is truncated in the storage")

    def _remove_part(self, ticket: Ticket, number: int, part: Part) -> None:
        with suppress(StorageError):  # the sweeper removes it
            self._storage.remove(part_key(ticket.key, number, part.digest))

    @contextmanager
    def _received(self, pieces: Iterable[bytes]) -> Iterator[ReceivedFile]:
        """Spool a body to an unnamed temporary file, deleted at the end of the block. Raises InvalidRequest."""
        # Closing the file writes to it, too.
        with _translated(), self._temporary_file() as file:
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
            yield ReceivedFile(file, length, digest.hexdigest(), head)

    def _temporary_file(self) -> BinaryIO:
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._spool)

    def _refuse_when_full(self) -> None:
        if shutil.disk_usage(self._spool).free < MIN_FREE_BYTES:
            raise StorageFull


def _refuse_expired(ticket: Ticket) -> None:
    """Raise NotFound if the file of the ticket has already expired."""
    name = parse_key(ticket.key)
    if name is None or name.is_expired(clock.now_us()):
        raise NotFound("The file of this upload has already expired. Start a new upload.")


def _refuse_mismatch(parts: Mapping[int, Part], named: Mapping[int, str]) -> None:
    """Raise InvalidRequest unless the named parts are those that arrived, numbered from 1 without a gap."""
    problems = [
        Problem("parts", f"part {number} has not arrived", "part_missing", number)
        for number in range(1, max([*named, *parts, 1]) + 1)
        if number not in parts
    ]
    problems += [
        Problem("parts", f"part {number} has arrived, but is not named", "part_missing", number)
        for number in parts
        if number not in named
    ]
    problems += [
        Problem("parts", f"part {number} has another etag", "part_differs", etag)
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
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageUnavailable
        raise kind(detail=f"writing an upload to the data folder: {error.strerror}") from error
