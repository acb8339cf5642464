"""The body of a request: read once and whole; and, of a submit, what identifies it when it comes again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flask
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout

from farm.dialects.fields import decode
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Longest Idempotency-Key, in characters.
MAX_KEY = 255
#: Largest body of a request that may bring images: several, as data URIs or as files. In bytes.
IMAGES_BODY = 70 * 1024 * 1024
#: So much of a file that comes is in memory at once, in bytes.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object, the digest of all that a submit says, and the caller's Idempotency-Key (empty: none).

    Of a form, the fields are its texts, and `files` the contents of the files in it, each with its field.
    """

    fields: dict[str, Any]
    digest: str
    idempotency_key: str
    files: tuple[tuple[str, bytes], ...] = ()


def read_body(*about: str, instead: bytes = b"", most: int | None = None) -> Body:
    """A submit's body. Raises InvalidRequest where it is no JSON object or the key is too long.

    `about` is what the call says elsewhere: its dialect and, where they are not in the body, endpoint and priority.
    `instead` is read where no body came. `most` is its largest size in bytes, as in `read_bytes`.
    """
    take_room(most)
    raw = read_bytes(most) or instead
    return Body(decode(raw), digest(*about, content=raw), idempotency_key())


def idempotency_key() -> str:
    """The caller's Idempotency-Key, empty where there is none. Raises InvalidRequest for one that is too long."""
    key: str = flask.request.environ.get("HTTP_IDEMPOTENCY_KEY", "")
    if len(key) > MAX_KEY:
        raise InvalidRequest([Problem("Idempotency-Key", f"allowed: up to {MAX_KEY} characters", "string_too_long")])
    return key


def digest(*about: str, content: bytes) -> str:
    """The digest of all that the current call says: `about` and `content` as in `read_body`, and its query."""
    # A webhook stands in the query: with another one it is not the same call.
    said = [*(word.encode() for word in about), flask.request.query_string, content]
    return hashlib.sha256(b"\n".join(said)).hexdigest()


def take_room(most: int | None) -> None:
    """Have the memory for the current request's body, should it be a large one. Raises ConcurrencyLimitReached.

    `most` is as in `read_bytes`. A body that does not say how long it is may be as long as that.
    """
    usual = _usual_most()
    announced = flask.request.content_length
    size = min(most or usual, announced if announced is not None else most or usual)
    if size > usual:
        try:
            flask.current_app.extensions["room"].reserve(size)
        except ConcurrencyLimitReached:
            drain(pieces(most or usual))
            raise


def _usual_most() -> int:
    most: int = flask.current_app.config["MAX_CONTENT_LENGTH"]
    return most


def drain(rest: Iterator[bytes]) -> None:
    """Read what else comes of a body that is refused: until they have sent it, many clients read no answer."""
    for _ in rest:
        pass


def read_bytes(most: int | None = None) -> bytes:
    """The current request's body. One that is cut off, too large or garbled on its way raises an HTTPException.

    `most` is its largest size in bytes, where that is not the application's own: `IMAGES_BODY` where a model takes
    images. Flask's own reader takes what comes before a cut or the limit for the whole.
    """
    if most is None:
        most = _usual_most()
    else:
        flask.request.max_content_length = most
    announced = flask.request.content_length
    if announced is not None and announced > most:
        raise RequestEntityTooLarge
    _refuse_coded()
    raw = _read(most + 1 if announced is None else announced)
    if announced is not None and len(raw) < announced:
        raise BadRequest(f"The body is cut off: {len(raw)} of {announced} bytes came.")
    if len(raw) > most:
        raise RequestEntityTooLarge
    return raw


def pieces(most: int) -> Iterator[bytes]:
    """The current request's body as it comes, never whole in memory; `most` is its largest size in bytes.

    Raises as `read_bytes` does, where it shows: whoever reads it may use nothing of it before its end.
    """
    flask.request.max_content_length = most
    announced, came = flask.request.content_length, 0
    if announced is not None and announced > most:
        raise RequestEntityTooLarge
    _refuse_coded()
    while piece := _read(CHUNK_BYTES if announced is None else min(CHUNK_BYTES, announced - came)):
        came += len(piece)
        if came > most:
            raise RequestEntityTooLarge
        yield piece
    if announced is not None and came < announced:
        raise BadRequest(f"The body is cut off: {came} of {announced} bytes came.")


def _refuse_coded() -> None:
    """A packed body would be unpacked to any size."""
    coding = flask.request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    if coding.lower() != "identity":
        raise BadRequest(f"Content-Encoding: '{coding[:80]}' is not understood; send the body as it is, without one.")


def _read(amount: int) -> bytes:
    """Up to so many bytes of the body; fewer only at its end."""
    try:
        raw: bytes = flask.request.environ["wsgi.input"].read(amount)
    except ParseException as error:
        raise BadRequest(f"The body could not be read: {error}") from error
    except TimeoutError as error:
        raise RequestTimeout("The body stands still, or comes too slowly.") from error
    except OSError as error:
        raise BadRequest("The body is cut off.") from error
    return raw
