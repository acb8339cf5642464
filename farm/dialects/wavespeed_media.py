"""WaveSpeed's uploads, after its documentation and SDKs: by ticket, and by form from older SDKs. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from farm.dialects.answers.wavespeed import WaveSpeedFile, WaveSpeedTicket
from farm.dialects.fields import Input, Whole
from farm.domain.catalogue import MAX_UPLOAD

#: The form field with the file.
FIELD = "file"
DEFAULT_TYPE = "application/octet-stream"
#: Content types that fit in a header: the file must be sent with the announced type.
_SENDABLE = r"^[!-~]([ -~]*[!-~])?$"


class Announcement(Input):
    """The body of a call for a ticket."""

    filename: Annotated[str, Field(max_length=1024)]
    size: Annotated[Whole, Field(ge=1, le=MAX_UPLOAD)]
    content_type: Annotated[str, Field(max_length=255, pattern=_SENDABLE)] = DEFAULT_TYPE


def ticket(upload_url: str, download_url: str, content_type: str) -> WaveSpeedTicket:
    """Build a ticket for one upload."""
    return {
        "download_url": download_url,
        "upload": {"method": "PUT", "url": upload_url, "headers": {"Content-Type": content_type}},
    }


def kept(download_url: str, *, content_type: str, filename: str, size: int) -> WaveSpeedFile:
    """Build the description of a file that was uploaded in a form."""
    kind = content_type.partition("/")[0]
    return {"type": kind, "download_url": download_url, "filename": filename, "size": size}
