"""Route of stored files: rendered images and uploads, under unguessable names and without an API key.

An upload may have any content: it is served as an image only if it starts like one, else as an attachment under the
name and, if browsers cannot run it, with the content type that its sender declared.
"""

from __future__ import annotations

from contextlib import closing, suppress
from urllib.parse import quote

import flask
from werkzeug.exceptions import PreconditionFailed

from farm import clock
from farm.domain.errors import NotFound, StoreUnavailable
from farm.jobstore.store import JobStore
from farm.storage.declaration import DEFAULT_TYPE
from farm.storage.storage import (
    CACHE_SECONDS,
    HEAD_BYTES,
    Storage,
    StorageKey,
    StoredFile,
    matches_signature,
    parse_key,
)


def routes(storage: Storage, store: JobStore) -> flask.Blueprint:
    blueprint = flask.Blueprint("files", __name__)

    @blueprint.get("/files/<key>")
    def file(key: str) -> flask.Response:
        name, stored = parse_key(key), storage.find(key)
        if name is None or stored is None:
            raise NotFound(f"No file has the name '{key}'.")
        response = _head(key, stored)
        _set_caching(response, _remaining_seconds(name, store))
        if name.until and not _is_image(name, storage, key, stored):
            response.content_type = name.content_type if name.extension == "bin" else DEFAULT_TYPE
            response.headers["Content-Disposition"] = _attachment(name)
        is_range = _is_range_request(stored)
        response.make_conditional(flask.request, accept_ranges=is_range, complete_length=stored.bytes)
        response.accept_ranges = "bytes"
        if response.status_code == PreconditionFailed.code:
            raise PreconditionFailed
        if flask.request.method == "GET" and response.status_code in (200, 206):
            part = response.content_range
            # Opened before the response starts, so that a failure becomes an error response.
            response.response = storage.open(key, part.start or 0, part.stop or stored.bytes)
        return response

    return blueprint


def _head(key: str, stored: StoredFile) -> flask.Response:
    """Build the response without its body."""
    response = flask.Response(content_type=stored.content_type)
    response.content_length = stored.bytes
    response.last_modified = stored.stored_at
    response.set_etag(key)  # a file never changes under its key
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # pages of other origins may show it
    return response


def _remaining_seconds(name: StorageKey, store: JobStore) -> int:
    """Return the remaining retention of the file in seconds, 0 if unknown."""
    until_us = name.until * 1_000_000 if name.until else None
    if name.job_id:
        with suppress(StoreUnavailable):
            until_us = store.expires_us(name.job_id)
    return max(0, (until_us or 0) - clock.now_us()) // 1_000_000


def _set_caching(response: flask.Response, seconds: int) -> None:
    """Let the browser cache the file for at most this long, and shared caches not at all."""
    response.cache_control.private = True
    if seconds:
        response.cache_control.max_age = min(CACHE_SECONDS, seconds)
    else:
        response.cache_control.no_cache = True


def _is_range_request(stored: StoredFile) -> bool:
    """Return True if the current request has one satisfiable range of bytes. Other ranges are ignored (RFC 9110)."""
    wanted = flask.request.range
    return (
        wanted is not None
        and wanted.units == "bytes"
        and len(wanted.ranges) == 1
        and wanted.ranges[0][0] >= -stored.bytes
    )


def _attachment(name: StorageKey) -> str:
    """Return the Content-Disposition of a file that is not an image; its name is percent-encoded UTF-8 (RFC 6266)."""
    file_name = name.declaration.name if name.declaration else ""
    return f"attachment; filename*=UTF-8''{quote(file_name, safe='')}" if file_name else "attachment"


def _is_image(name: StorageKey, storage: Storage, key: str, stored: StoredFile) -> bool:
    """Return True if an upload has the image type of its name."""
    return name.extension != "bin" and matches_signature(name.extension, _first_bytes(storage, key, stored))


def _first_bytes(storage: Storage, key: str, stored: StoredFile) -> bytes:
    with closing(storage.open(key, 0, min(HEAD_BYTES, stored.bytes))) as chunks:
        return b"".join(chunks)
