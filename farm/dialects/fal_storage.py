"""fal's storage and CDN: the requests and answers of an upload, after fal's clients. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from farm.dialects.answers.fal import FalFile, FalMultipartUpload, FalPart, FalToken, FalUpload
from farm.dialects.fal_lifecycle import parse_keep_seconds
from farm.dialects.fields import Input, Whole, parse
from farm.domain.catalogue import MAX_UPLOAD_PARTS
from farm.domain.errors import InvalidRequest, Problem

#: Parameters that are accepted without effect, with the reason.
TOLERATED = {
    "storage_type": "it selects one of fal's stores, and this farm has one store",
}
#: Headers with the retention of a file: the JavaScript client sends the first, the Python client both.
LIFECYCLES = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")

DEFAULT_TYPE = "application/octet-stream"
MAX_TYPE_LENGTH = 255


class Announcement(Input):
    """The body of a call that begins an upload."""

    content_type: Annotated[str, Field(max_length=MAX_TYPE_LENGTH)] = DEFAULT_TYPE
    file_name: Annotated[str, Field(max_length=1024)] | None = None


class NamedPart(Input):
    """A part of a file as a completion names it: by its number and its tag."""

    model_config = ConfigDict(strict=True, extra="forbid", validate_by_alias=True)

    number: Annotated[Whole, Field(ge=1, le=MAX_UPLOAD_PARTS, alias="partNumber")]
    etag: Annotated[str, Field(max_length=255)]


class Completion(Input):
    """The body of the call that completes an upload in parts, in any order."""

    parts: Annotated[list[NamedPart], Field(max_length=MAX_UPLOAD_PARTS)]


def read_parts(body: Mapping[str, Any]) -> dict[int, str]:
    """Return the tags of the parts that a completion names, by number. Raises InvalidRequest."""
    parts = parse(Completion, body).parts
    named = {part.number: part.etag.removeprefix("W/").strip('"') for part in parts}
    if len(named) < len(parts):
        raise InvalidRequest([Problem("parts", "a part is named twice", "duplicate")])
    return named


def part_number(text: str) -> int:
    """Parse the number of a part from its URL. Raises InvalidRequest."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_UPLOAD_PARTS):
        message = f"'{text[:40]}' is not a part number; allowed: 1 to {MAX_UPLOAD_PARTS}"
        raise InvalidRequest([Problem("partNumber", message, "int_parsing", text)])
    return int(text)


def read_keep_seconds(header: Callable[[str], str | None], *, max_seconds: float) -> int:
    """Return the retention of a file from the headers of a call, in seconds; 0 if not set.

    `max_seconds`: how long the farm keeps uploads. Raises InvalidRequest.
    """
    values = {name: text for name in LIFECYCLES if (text := header(name)) is not None}
    seconds = {parse_keep_seconds(text, max_seconds=max_seconds) for text in values.values()}
    if len(seconds) > 1:
        raise InvalidRequest([Problem("", f"{' and '.join(values)} disagree; send one of them", "conflict")])
    return seconds.pop() if seconds else 0


def begun(upload_url: str, file_url: str) -> FalUpload:
    """Build the answer to a call that begins an upload."""
    return {"upload_url": upload_url, "file_url": file_url}


def begun_in_parts(access_url: str, upload_id: str) -> FalMultipartUpload:
    """Build the answer to a call that begins an upload in parts at the CDN."""
    return {"access_url": access_url, "uploadId": upload_id}


def kept(access_url: str) -> FalFile:
    """Build the answer to a file that the CDN has stored."""
    return {"access_url": access_url}


def part(number: int, etag: str) -> FalPart:
    """Build the answer to a part. The Python client reads the ETag header instead."""
    return {"partNumber": number, "etag": etag}


def token(text: str, *, until: int, base: str) -> FalToken:
    """Build the answer with a token for the CDN at `base`. The Python client needs a time zone in `expires_at`."""
    expires_at = datetime.fromtimestamp(until, UTC).isoformat()
    return {"token": text, "token_type": "Bearer", "base_url": base, "expires_at": expires_at}
