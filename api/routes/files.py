"""`/files`: pictures from storage, and what callers upload. No key is asked for, because nobody can guess the names.

Any key is ignored. An upload may be anything: it is shown as a picture only where it begins as one.
"""

from __future__ import annotations

from contextlib import closing

import flask
from werkzeug.exceptions import PreconditionFailed

from farm import clock
from farm.errors import NotFound
from farm.storage.storage import HEAD_BYTES, KEEP_SECONDS, Picture, Storage, begins_like, name_in


def routes(storage: Storage) -> flask.Blueprint:
    blueprint = flask.Blueprint("files", __name__)

    @blueprint.get("/files/<key>")
    def file(key: str) -> flask.Response:
        name, picture = name_in(key), storage.find(key)
        if name is None or picture is None:
            raise NotFound(f"No file is here under the name '{key}'.")
        response = _head(key, picture)
        if name.until:
            response.cache_control.max_age = min(KEEP_SECONDS, name.until - clock.now_us() // 1_000_000)
            if name.extension == "bin" or not begins_like(name.extension, _beginning(storage, key, picture)):
                response.content_type = "application/octet-stream"
                response.headers["Content-Disposition"] = "attachment"
        wants_a_part = _wants_a_part(picture)
        response.make_conditional(flask.request, accept_ranges=wants_a_part, complete_length=picture.bytes)
        response.accept_ranges = "bytes"
        if response.status_code == PreconditionFailed.code:
            raise PreconditionFailed
        if flask.request.method == "GET" and response.status_code in (200, 206):
            part = response.content_range
            # Opened before the answer begins: until then a failure can be told.
            response.response = storage.open(key, part.start or 0, part.stop or picture.bytes)
        return response

    return blueprint


def _head(key: str, picture: Picture) -> flask.Response:
    """The answer without its body."""
    response = flask.Response(content_type=picture.content_type)
    response.content_length = picture.bytes
    response.last_modified = picture.stored_at
    response.set_etag(key)  # what is stored under a key never changes
    response.cache_control.public = True
    response.cache_control.max_age = KEEP_SECONDS
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _wants_a_part(picture: Picture) -> bool:
    """Whether the current request asks for one range of bytes. Any other wish is not refused, but not heard (RFC 9110).

    So is one for more of a file's end than there is.
    """
    asked = flask.request.range
    return (
        asked is not None and asked.units == "bytes" and len(asked.ranges) == 1 and asked.ranges[0][0] >= -picture.bytes
    )


def _beginning(storage: Storage, key: str, picture: Picture) -> bytes:
    with closing(storage.open(key, 0, min(HEAD_BYTES, picture.bytes))) as pieces:
        return b"".join(pieces)
