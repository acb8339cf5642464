"""`/files`: pictures from storage. No key is asked for, because nobody can guess the names; any is ignored."""

from __future__ import annotations

import flask

from farm.errors import NotFound
from farm.storage.storage import KEEP_SECONDS, Picture, Storage


def routes(storage: Storage) -> flask.Blueprint:
    blueprint = flask.Blueprint("files", __name__)

    @blueprint.get("/files/<key>")
    def file(key: str) -> flask.Response:
        picture = storage.find(key)
        if picture is None:
            raise NotFound(f"No file is here under the name '{key}'.")
        response = _head(key, picture)
        response.make_conditional(flask.request, accept_ranges=True, complete_length=picture.bytes)
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
