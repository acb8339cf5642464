"""Image storage: storage keys, and the interface that a local folder and an S3 bucket implement."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Literal, Protocol, cast, get_args

from farm.domain.catalogue import OutputFormat
from farm.storage.declaration import DEFAULT_TYPE, Declaration, decode

#: A rendered image is `{job}-{fence}-{number}-{random}.{extension}`, where the fence keeps a late loser from
#: overwriting the winner; an image that a job begins from is `{job}-input-{number}-{random}.{extension}`.
_OF_A_JOB = re.compile(r"([0-9a-f-]{36})-([0-9]{1,19}|input)-([0-9]{1,2})-[0-9a-f]{16}\.(jpeg|png|webp)")
#: An upload belongs to no job, and is kept until the time in its key, in seconds since the epoch:
#: `{random}-upload-{until}.{extension}`, or with what its sender declared, `{random}-upload-{until}-{declaration}.bin`.
#: A part of an upload in progress is `{the same random}-part-{until}-{number}-{its digest's beginning}.bin`.
_UPLOAD = re.compile(r"([0-9a-f]{32})-upload-([0-9]{10})(?:\.(jpeg|png|webp|bin)|-([A-Za-z0-9_-]{1,184})\.bin)")
_PART = re.compile(r"[0-9a-f]{32}-part-([0-9]{10})-([0-9]{1,5})-[0-9a-f]{16}\.(bin)")
#: A file of a bulk, also kept until a time, is `{random}-bulk-{until}.bin`.
_BULK = re.compile(r"[0-9a-f]{32}-bulk-([0-9]{10})\.bin")
_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "bin": DEFAULT_TYPE}

Extension = Literal["jpeg", "png", "webp", "bin"]
#: Content types that are not spelled like the extension.
_ALIASES: dict[str, Extension] = {"image/jpg": "jpeg", "image/pjpeg": "jpeg"}
_EXTENSIONS: dict[str, Extension] = {_TYPES[name]: name for name in get_args(Extension)} | _ALIASES
#: File signatures (magic bytes); `.` is any byte.
_SIGNATURES = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "bin": re.compile(rb""),
}
#: Bytes that a file signature takes.
HEAD_BYTES = 12

#: The key of a farm's mark, beside the images: which farms use this storage.
_MARK = re.compile(r"farm-id-([0-9a-f]{32}|unknown)")
#: Marks a storage whose images were there before any mark.
UNKNOWN_FARM = "unknown"

#: How long a client may cache an image, in seconds. The content under a key never changes.
CACHE_SECONDS = 86400
#: Bytes that are in memory at once while an image is served.
CHUNK_BYTES = 64 * 1024


def new_key(job_id: str, fence: int, number: int, extension: OutputFormat) -> str:
    """Return a new storage key for a rendered image."""
    return f"{job_id}-{fence}-{number}-{secrets.token_hex(8)}.{extension}"


def new_input_key(job_id: str, number: int, extension: Extension) -> str:
    """Return a new storage key for an input image of a job."""
    return f"{job_id}-input-{number}-{secrets.token_hex(8)}.{extension}"


def new_upload_key(extension: Extension, *, until: int, declaration: Declaration | None = None) -> str:
    """Return a new storage key for an upload that expires at `until`, in seconds since the epoch.

    Only a file that is not an image keeps its declaration: of an image, the extension says the content type.
    """
    encoded = declaration.encoded() if declaration and extension == "bin" else ""
    return f"{secrets.token_hex(16)}-upload-{until:010}{'-' if encoded else ''}{encoded}.{extension}"


def new_bulk_key(*, until: int) -> str:
    """Return a new storage key for a file of a bulk that expires at `until`, in seconds since the epoch."""
    return f"{secrets.token_hex(16)}-bulk-{until:010}.bin"


def part_key(upload_key: str, number: int, digest: str) -> str:
    """Return the storage key of a part of an upload; `digest` is that of its bytes, in hexadecimal digits."""
    match = _UPLOAD.fullmatch(upload_key)
    assert match, upload_key
    return f"{match[1]}-part-{match[2]}-{number}-{digest[:16]}.bin"


def extension_for(content_type: str) -> Extension:
    """Return the extension for a declared content type; `bin` if it is not an image type that the farm supports."""
    return _EXTENSIONS.get(content_type.partition(";")[0].strip().lower(), "bin")


def matches_signature(extension: Extension, head: bytes) -> bool:
    """Return True if the first `HEAD_BYTES` of a file match the signature of the extension."""
    return _SIGNATURES[extension].match(head) is not None


@dataclass(frozen=True, slots=True)
class StorageKey:
    """The parts of a storage key. An upload belongs to no job; an input has no fence.

    `until` is when an upload expires, in seconds since the epoch. `is_public` is False for what is not served to anyone
    who has its key: a part of an upload, a file of a bulk.
    """

    job_id: str | None
    fence: int | None
    number: int
    extension: Extension
    until: int | None = None
    is_public: bool = True
    declaration: Declaration | None = None

    @property
    def content_type(self) -> str:
        return self.declaration.content_type if self.declaration else _TYPES[self.extension]

    def is_servable(self, now_us: int) -> bool:
        """Return True if the file may be served to anyone who has its key."""
        return self.is_public and not self.is_expired(now_us)

    def is_expired(self, now_us: int) -> bool:
        """Return True if an upload has expired."""
        return self.until is not None and self.until * 1_000_000 <= now_us


def parse_key(key: str) -> StorageKey | None:
    """Parse a storage key; return None if it is not one."""
    if match := _OF_A_JOB.fullmatch(key):
        fence = None if match[2] == "input" else int(match[2])
        return StorageKey(match[1], fence, int(match[3]), cast(Extension, match[4]))
    if match := _UPLOAD.fullmatch(key):
        return _parse_upload(match)
    if match := _PART.fullmatch(key):
        return StorageKey(None, None, int(match[2]), cast(Extension, match[3]), int(match[1]), is_public=False)
    if match := _BULK.fullmatch(key):
        return StorageKey(None, None, 0, "bin", int(match[1]), is_public=False)
    return None


def _parse_upload(match: re.Match[str]) -> StorageKey | None:
    declaration = decode(match[4]) if match[4] else None
    if match[4] and declaration is None:
        return None
    return StorageKey(None, None, 0, cast(Extension, match[3] or "bin"), int(match[2]), declaration=declaration)


def mark_of(farm_id: str) -> str:
    """Return the key of a farm's mark."""
    return f"farm-id-{farm_id}"


def farm_of_mark(mark: str) -> str | None:
    """Return the id of the farm whose mark this is; None if it is not a mark."""
    match = _MARK.fullmatch(mark)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Metadata of a stored file."""

    content_type: str
    bytes: int
    stored_at: datetime


class Source(Protocol):
    """An open file or HTTP response."""

    def read(self, amount: int, /) -> bytes: ...

    def close(self) -> None: ...


class Chunks:
    """The bytes of a stored file, in chunks. `close` releases the file or the connection behind them.

    The first chunk is read at once: a storage that fails early does so while an error can still be answered.
    """

    def __init__(self, source: Source, length: int) -> None:
        self._source = source
        self._left = length
        try:
            self._first = self._read()
        except BaseException:
            source.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        chunk, self._first = self._first, b""
        while chunk:
            yield chunk
            chunk = self._read()

    def close(self) -> None:
        self._source.close()

    def _read(self) -> bytes:
        """Return the next chunk; empty at the end."""
        chunk = self._source.read(min(self._left, CHUNK_BYTES)) if self._left > 0 else b""
        self._left -= len(chunk)
        return chunk


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a listing, and its age by the storage's own clock."""

    name: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing. `cursor` leads to the next page; empty on the last one."""

    entries: tuple[Entry, ...]
    cursor: str


class Storage(Protocol):
    """The interface of an image storage. All methods raise StorageError: StorageUnavailable if a retry may succeed."""

    @property
    def place(self) -> str:
        """The location of this storage, unlike that of any other."""

    def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key` atomically: it is readable when this returns."""

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Store the content of a local file, which is never in memory as a whole."""

    def find(self, key: str) -> StoredFile | None:
        """Return the metadata of the file that callers may read under `key`; None if missing or expired."""

    def open(self, key: str, start: int, stop: int) -> Chunks:
        """Return the bytes of a file from `start` up to `stop`."""

    def read(self, key: str) -> bytes:
        """Return the whole file."""

    def url(self, key: str) -> str | None:
        """Return a URL at which the storage itself serves the file; None if the API has to serve it.

        The API serves uploads, since it knows when they expire, and requests name them by the API's own URLs.
        """

    def delete_job(self, job_id: str) -> None:
        """Delete every image of a job, those of superseded attempts included."""

    def page(self, cursor: str) -> Page:
        """List the stored files page by page; the first cursor is ''. Files with foreign names are left out."""

    def marks(self) -> set[str]:
        """Return the ids of all farms that have marked this storage."""

    def has_mark(self, farm_id: str) -> bool:
        """Return True if this farm has marked this storage. Unlike a listing, this is never out of date."""

    def mark(self, farm_id: str) -> None:
        """Mark this storage as used by a farm."""

    def remove_mark(self, farm_id: str) -> None:
        """Remove a farm's mark, if it is there: only an operator knows that the farm is gone."""

    def close(self) -> None:
        """Close idle connections to the storage."""

    def remove(self, name: str) -> None:
        """Delete an entry of a listing; a missing one is not an error."""
