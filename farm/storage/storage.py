"""Image storage: the names of images, and what a folder and a bucket can both do with them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Literal, Protocol, cast, get_args

from farm.domain.catalogue import OutputFormat

#: A rendered image is `{job}-{fence}-{number}-{random}.{extension}`, where the fence keeps a late loser from
#: overwriting the winner; an image that a job begins from is `{job}-input-{number}-{random}.{extension}`.
_OF_A_JOB = re.compile(r"([0-9a-f-]{36})-([0-9]{1,19}|input)-([0-9]{1,2})-[0-9a-f]{16}\.(jpeg|png|webp)")
#: What a caller has uploaded belongs to no job, and is kept until a moment that its name tells, in seconds since the
#: epoch: `{random}-upload-{until}.{extension}`. While it arrives in parts, each is
#: `{the same random}-part-{until}-{number}-{its digest's beginning}.bin`.
_UPLOAD = re.compile(r"([0-9a-f]{32})-upload-([0-9]{10})\.(jpeg|png|webp|bin)")
_PART = re.compile(r"[0-9a-f]{32}-part-([0-9]{10})-([0-9]{1,5})-[0-9a-f]{16}\.(bin)")
_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "bin": "application/octet-stream"}

Extension = Literal["jpeg", "png", "webp", "bin"]
#: Declared types that are not spelled as the extension is.
_ALIASES: dict[str, Extension] = {"image/jpg": "jpeg", "image/pjpeg": "jpeg"}
_EXTENSIONS: dict[str, Extension] = {_TYPES[name]: name for name in get_args(Extension)} | _ALIASES
#: How files of a kind begin; `.` is any byte.
_BEGINNINGS = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "bin": re.compile(rb""),
}
#: So many bytes tell what a file is.
HEAD_BYTES = 12

#: The name of a farm's mark, beside the images.
_MARK = re.compile(r"farm-id-([0-9a-f]{32}|unknown)")
#: Marks a storage for the farm whose images were there before any mark.
UNKNOWN_FARM = "unknown"

#: How long a caller may keep an image before it asks again, in seconds. It never changes.
KEEP_SECONDS = 86400
#: Bytes that are in memory at once while an image is handed out.
PIECE_BYTES = 64 * 1024


def new_key(job_id: str, fence: int, number: int, extension: OutputFormat) -> str:
    """A new name for one image of a job."""
    return f"{job_id}-{fence}-{number}-{secrets.token_hex(8)}.{extension}"


def new_input_key(job_id: str, number: int, extension: Extension) -> str:
    """A new name for one image that a job begins from."""
    return f"{job_id}-input-{number}-{secrets.token_hex(8)}.{extension}"


def new_upload_key(extension: Extension, *, until: int) -> str:
    """A new name for what a caller uploads, and may use until then, in seconds since the epoch."""
    return f"{secrets.token_hex(16)}-upload-{until:010}.{extension}"


def part_key(upload_key: str, number: int, digest: str) -> str:
    """The name of a part of an upload; `digest` is that of its bytes, in hexadecimal digits."""
    match = _UPLOAD.fullmatch(upload_key)
    assert match, upload_key
    return f"{match[1]}-part-{match[2]}-{number}-{digest[:16]}.bin"


def extension_for(content_type: str) -> Extension:
    """The extension of a file of this declared type; `bin` where it is no image that the farm could use."""
    return _EXTENSIONS.get(content_type.partition(";")[0].strip().lower(), "bin")


def begins_like(extension: Extension, head: bytes) -> bool:
    """Whether a file with this beginning, `HEAD_BYTES` of it, is what the extension says."""
    return _BEGINNINGS[extension].match(head) is not None


@dataclass(frozen=True, slots=True)
class Name:
    """What a key tells of what is stored under it. An upload belongs to no job; an input has no fence.

    `until` is when an upload's time is over, in seconds since the epoch. `whole`: it is no mere part of a file.
    """

    job_id: str | None
    fence: int | None
    number: int
    extension: Extension
    until: int | None = None
    whole: bool = True

    @property
    def content_type(self) -> str:
        return _TYPES[self.extension]

    def is_shown(self, now_us: int) -> bool:
        """Whether whoever knows the name is given the file."""
        return self.whole and not self.is_over(now_us)

    def is_over(self, now_us: int) -> bool:
        """Whether an upload's time is over."""
        return self.until is not None and self.until * 1_000_000 <= now_us


def name_in(key: str) -> Name | None:
    """What `key` tells; None if it is no key at all."""
    if match := _OF_A_JOB.fullmatch(key):
        fence = None if match[2] == "input" else int(match[2])
        return Name(match[1], fence, int(match[3]), cast(Extension, match[4]))
    if match := _UPLOAD.fullmatch(key):
        return Name(None, None, 0, cast(Extension, match[3]), int(match[2]))
    if match := _PART.fullmatch(key):
        return Name(None, None, int(match[2]), cast(Extension, match[3]), int(match[1]), whole=False)
    return None


def mark_of(farm_id: str) -> str:
    """The name of a farm's mark."""
    return f"farm-id-{farm_id}"


def farm_in(mark: str) -> str | None:
    """Whose mark has this name; None if it is no mark."""
    match = _MARK.fullmatch(mark)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored image, without its bytes."""

    content_type: str
    bytes: int
    stored_at: datetime


class Source(Protocol):
    """Where an image's bytes come from."""

    def read(self, amount: int, /) -> bytes: ...

    def close(self) -> None: ...


class Pieces:
    """An image's bytes, piece by piece. Closing it gives back the file or the connection behind.

    The first is read at once: a storage that breaks off before it says so while whoever asked can still be told.
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
        piece, self._first = self._first, b""
        while piece:
            yield piece
            piece = self._read()

    def close(self) -> None:
        self._source.close()

    def _read(self) -> bytes:
        """The next piece; nothing at the end."""
        piece = self._source.read(min(self._left, PIECE_BYTES)) if self._left > 0 else b""
        self._left -= len(piece)
        return piece


@dataclass(frozen=True, slots=True)
class Found:
    """Something that a look through the storage met, and how long it has been there by the storage's own clock."""

    name: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Page:
    """A part of all that is stored. `reached` leads on to the next; empty: there is none."""

    found: tuple[Found, ...]
    reached: str


class Storage(Protocol):
    """Where images lie. Everything raises StorageError: StorageUnavailable where a later try may do better."""

    def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, whole: when this returns, everybody can read it."""

    def put_file(self, key: str, file: BinaryIO) -> None:
        """The same with what a file on this machine holds, which is never in memory as a whole."""

    def find(self, key: str) -> StoredFile | None:
        """What callers may have under `key`, or None; also None for what is no key at all, or is over."""

    def open(self, key: str, start: int, stop: int) -> Pieces:
        """The bytes of an image from `start` up to `stop`."""

    def read(self, key: str) -> bytes:
        """The whole image."""

    def url(self, key: str) -> str | None:
        """An address at which the storage itself hands the image out to anybody; None: the API has to.

        It has to for uploads, whose time it knows, and which are named by its own address when they are used.
        """

    def delete_job(self, job_id: str) -> None:
        """Remove every image of a job, those of attempts that lost included."""

    def page(self, reached: str) -> Page:
        """What is stored, part after part, beginning with ''. Only what could be the farm's own is in it."""

    def marks(self) -> set[str]:
        """The ids of all farms that have left their mark here."""

    def mark(self, farm_id: str) -> None:
        """Leave a farm's mark. The farm never removes one."""

    def remove(self, name: str) -> None:
        """Remove what a page has shown. Nothing is there: all the better."""
