"""Files of the pages for people: sent with an ETag, so that a browser reads each version once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
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


def policy(image_sources: str) -> str:
    """Return a Content-Security-Policy: the same origin only, nothing inline, and images from these sources besides."""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' {image_sources}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@dataclass(frozen=True, slots=True)
class Asset:
    """Content that stays the same, with its media type and the tag of its version."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Asset:
        """Return the asset of this content."""
        return cls(content, media_type, hashlib.sha256(content).hexdigest()[:32])

    def answer(self) -> flask.Response:
        """Return the response with the content, or 304 if the client has it already. Raises PreconditionFailed."""
        response = flask.Response(self.content, mimetype=self.media_type)
        response.set_etag(self.etag)
        response.make_conditional(flask.request)
        if response.status_code == PreconditionFailed.code:
            raise PreconditionFailed
        return response


class Assets:
    """Named files, read once. Scripts that belong together are loaded together: a version is never mixed for long."""

    def __init__(self, files: Iterable[Traversable]) -> None:
        self._files = {file.name: _read(file) for file in files if file.is_file()}

    def answer(self, name: str) -> flask.Response:
        """Return the response with a file. Raises NotFound."""
        if name not in self._files:
            raise NotFound(f"The page has no file '{name}'.")
        response = self._files[name].answer()
        response.cache_control.public = True
        response.cache_control.max_age = MAX_AGE
        return response


def _read(file: Traversable) -> Asset:
    return Asset.of(file.read_bytes(), _MEDIA_TYPES[file.name.rpartition(".")[2]])
