"""Files of the pages for people: sent with an ETag, so that a browser reads each version once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.resources.abc import Traversable

import flask
from werkzeug.exceptions import PreconditionFailed

from farm.domain.errors import NotFound

#: The media types of files by their suffix. The system's own table is not asked: it may be wrong.
_MEDIA_TYPES = {
    "css": "text/css",
    "js": "text/javascript",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
}
#: How long a browser may use a file without asking again, in seconds.
MAX_AGE = 300


def with_etag(response: flask.Response, content: bytes) -> flask.Response:
    """Return the response, or 304 if the client has this content already. Raises PreconditionFailed."""
    response.set_etag(hashlib.sha256(content).hexdigest()[:32])
    response.make_conditional(flask.request)
    if response.status_code == PreconditionFailed.code:
        raise PreconditionFailed
    return response


class Assets:
    """Named files, read once. Scripts that belong together are loaded together: a version is never mixed for long."""

    def __init__(self, files: Iterable[Traversable]) -> None:
        self._files = {file.name: (file.read_bytes(), _media_type(file.name)) for file in files if file.is_file()}

    def answer(self, name: str) -> flask.Response:
        """Return the response with a file. Raises NotFound."""
        if name not in self._files:
            raise NotFound(f"The page has no file '{name}'.")
        content, kind = self._files[name]
        response = with_etag(flask.Response(content, mimetype=kind), content)
        response.cache_control.public = True
        response.cache_control.max_age = MAX_AGE
        return response


def _media_type(name: str) -> str:
    return _MEDIA_TYPES[name.rpartition(".")[2]]
