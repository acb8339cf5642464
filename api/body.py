"""The body of a request: read once and whole; and, of a submit, what identifies it when it comes again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import flask
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from farm.dialects.fields import decode
from farm.errors import InvalidRequest, Problem

#: Longest Idempotency-Key, in characters.
MAX_KEY = 255


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object, the digest of all that a submit says, and the caller's Idempotency-Key (empty: none)."""

    fields: dict[str, Any]
    digest: str
    idempotency_key: str


def read_body(*about: str, instead: bytes = b"") -> Body:
    """A submit's body. Raises InvalidRequest where it is no JSON object or the key is too long.

    `about` is what the call says elsewhere: its dialect and, where they are not in the body, endpoint and priority.
    `instead` is read where no body came.
    """
    raw = read_bytes() or instead
    key = flask.request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_KEY:
        raise InvalidRequest([Problem("Idempotency-Key", f"allowed: up to {MAX_KEY} characters", "string_too_long")])
    # A webhook stands in the query: with another one it is not the same call.
    said = [*(word.encode() for word in about), flask.request.query_string, raw]
    return Body(decode(raw), hashlib.sha256(b"\n".join(said)).hexdigest(), key)


def read_bytes() -> bytes:
    """The current request's body. One that is cut off, too large or garbled on its way raises an HTTPException.

    Flask's own reader takes what comes before a cut or the limit for the whole.
    """
    most, announced = flask.request.max_content_length, flask.request.content_length
    assert most is not None
    if announced is not None and announced > most:
        raise RequestEntityTooLarge
    try:
        raw: bytes = flask.request.environ["wsgi.input"].read(most + 1 if announced is None else announced)
    except ParseException as error:
        raise BadRequest(f"The body could not be read: {error}") from error
    except OSError as error:
        raise BadRequest("The body is cut off.") from error
    if announced is not None and len(raw) < announced:
        raise BadRequest(f"The body is cut off: {len(raw)} of {announced} bytes came.")
    if len(raw) > most:
        raise RequestEntityTooLarge
    return raw
