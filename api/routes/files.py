"""`/files`: images from storage, and what callers upload. No key is asked for, because nobody can guess the names.

Any key is ignored. An upload may be anything: it is shown as an image only where it begins as one.
"""

from __future__ import annotations

from contextlib import closing, suppress

import flask
from werkzeug.exceptions import PreconditionFailed

from farm import clock
from farm.domain.errors import NotFound, StoreUnavailable
from farm.jobstore.store import JobStore
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
        _say_how_long(response, _left_seconds(name, store))
        if name.until and not _begins_as_it_says(name, storage, key, stored):
            response.content_type = "application/octet-stream"
            response.headers["Content-Disposition"] = "attachment"
        wants_a_part = _wants_a_part(stored)
        response.make_conditional(flask.request, accept_ranges=wants_a_part, complete_length=stored.bytes)
        response.accept_ranges = "bytes"
        if response.status_code == PreconditionFailed.code:
            raise PreconditionFailed
        if flask.request.method == "GET" and response.status_code in (200, 206):
            part = response.content_range
            # Opened before the answer begins: until then a failure can be told.
            response.response = storage.open(key, part.start or 0, part.stop or stored.bytes)
        return response

    return blueprint


def _head(key: str, stored: StoredFile) -> flask.Response:
    """The answer without its body."""
    response = flask.Response(content_type=stored.content_type)
    response.content_length = stored.bytes
    response.last_modified = stored.stored_at
    response.set_etag(key)  # what is stored under a key never changes
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # pages of others may show it
    return response


def _left_seconds(name: StorageKey, store: JobStore) -> int:
    """How long what lies under this name will be there; 0 where nobody can tell."""
    until_us = name.until * 1_000_000 if name.until else None
    if name.job_id:
        with suppress(StoreUnavailable):
            until_us = store.expires_us(name.job_id)
    return max(0, (until_us or 0) - clock.now_us()) // 1_000_000


def _say_how_long(response: flask.Response, seconds: int) -> None:
    """Have it kept for so long, at most, by the browser of whoever knows its name, and by nobody on the way."""
    response.cache_control.private = True
    if seconds:
        response.cache_control.max_age = min(CACHE_SECONDS, seconds)
    else:
        response.cache_control.no_cache = True


def _wants_a_part(stored: StoredFile) -> bool:
    """Whether the current request asks for one range of bytes. Any other wish is not refused, but not heard (RFC 9110).

    So is one for more of a file's end than there is.
    """
    asked = flask.request.range
    return (
        asked is not None and asked.units == "bytes" and len(asked.ranges) == 1 and asked.ranges[0][0] >= -stored.bytes
    )


def _begins_as_it_says(name: StorageKey, storage: Storage, key: str, stored: StoredFile) -> bool:
    """Whether an upload is the image that its name tells."""
    return name.extension != "bin" and matches_signature(name.extension, _beginning(storage, key, stored))


def _beginning(storage: Storage, key: str, stored: StoredFile) -> bytes:
    with closing(storage.open(key, 0, min(HEAD_BYTES, stored.bytes))) as chunks:
        return b"".join(chunks)
