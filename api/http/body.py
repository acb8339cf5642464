"""Request bodies: read within their limits, whole or in chunks; and what identifies a repeated submit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flask
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout

from api.connections import client_connection
from api.connections.client_connection import BrokenBody
from farm.dialects.fields import decode
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Longest Idempotency-Key, in characters.
MAX_IDEMPOTENCY_KEY = 255
#: Largest body of a request that may bring images: several, as data URIs or as files. In bytes.
IMAGES_BODY = 70 * 1024 * 1024
#: Most characters of the name of a refused field, and most such fields, that an error names.
_MAX_NAME = 100
_MAX_NAMED = 20
#: Bytes of an uploaded file in memory at a time.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The fields of a submit, the digest of all that it says, and the caller's Idempotency-Key (empty: none).

    The digest is empty where nobody asks for it.

    The fields are those of a JSON object, or the texts of a form. `files` are the files of a form, each with its field.
    """

    fields: dict[str, Any]
    digest: str
    idempotency_key: str
    files: tuple[tuple[str, bytes], ...] = ()


def read_body(
    *about: str, instead: bytes = b"", max_bytes: int | None = None, may_be_direct: bool = True
) -> RequestBody:
    """Read a submit's body. Raises InvalidRequest where it is no JSON object or the Idempotency-Key is too long.

    `about` is what the call says elsewhere: its dialect and, where they are not in the body, endpoint and priority.
    `instead` stands for an empty body. `max_bytes` is as in `read_bytes`. Of a call that cannot be direct the digest is
    known only with an Idempotency-Key.
    """
    reserve_memory(max_bytes)
    raw, key = read_bytes(max_bytes) or instead, idempotency_key()
    return RequestBody(decode(raw), digest(*about, content=raw) if key or may_be_direct else "", key)


def refuse_fields(where: str = "this call takes none") -> None:
    """Raise InvalidRequest for the fields in the body of a call that reads none, instead of ignoring them."""
    raw = read_bytes()
    names = [name[:_MAX_NAME] for name in decode(raw)] if raw else []
    if names:
        message = f"unknown field; {where}"
        raise InvalidRequest([Problem(name, message, "extra_forbidden") for name in names[:_MAX_NAMED]])


def idempotency_key() -> str:
    """Return the caller's Idempotency-Key, empty if there is none. Raises InvalidRequest for one that is too long."""
    key: str = flask.request.environ.get("HTTP_IDEMPOTENCY_KEY", "")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(
            [
                Problem(
                    "Idempotency-Key", f"it is too long; send up to {MAX_IDEMPOTENCY_KEY} characters", "string_too_long"
                )
            ]
        )
    return key


def digest(*about: str, content: bytes) -> str:
    """Return the digest of all that the current call says: `about` as in `read_body`, its query and its content."""
    # The query may hold a webhook: with another one it is another call.
    parts = [*(word.encode() for word in about), flask.request.query_string, content]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def reserve_memory(max_bytes: int | None) -> None:
    """Reserve memory for the current request's body if it is a large one. Raises ConcurrencyLimitReached.

    `max_bytes` is as in `read_bytes`. A body without a length counts as one of that size.
    """
    if max_bytes is None:
        return
    announced = flask.request.content_length
    limit = max_bytes if announced is None else min(max_bytes, announced)
    if limit <= _default_max_bytes():
        return
    try:
        flask.current_app.extensions["body_memory"].reserve(limit)
    except ConcurrencyLimitReached:
        drain(pieces(max_bytes))
        raise


def _default_max_bytes() -> int:
    max_bytes: int = flask.current_app.config["MAX_CONTENT_LENGTH"]
    return max_bytes


def drain(rest: Iterator[bytes]) -> None:
    """Read the rest of a refused body: many clients read no answer until they have sent theirs."""
    for _ in rest:
        pass


def read_bytes(max_bytes: int | None = None) -> bytes:
    """Read the current request's body. Raises an HTTPException for one that is cut off, too large or malformed.

    `max_bytes` is its largest size, where that is not the application's own: `IMAGES_BODY` where a model takes images.
    Flask's own reader would take a body that is cut off, or cut at the limit, for the whole.
    """
    if max_bytes is None:
        max_bytes = _default_max_bytes()
    else:
        flask.request.max_content_length = max_bytes
    announced = flask.request.content_length
    if announced is not None and announced > max_bytes:
        raise RequestEntityTooLarge
    _refuse_compressed()
    raw = _read(max_bytes + 1 if announced is None else announced)
    if announced is not None and len(raw) < announced:
        raise BadRequest(f"The body is cut off: {len(raw)} of {announced} bytes arrived; send it again.")
    if len(raw) > max_bytes:
        raise RequestEntityTooLarge
    return raw


def pieces(max_bytes: int) -> Iterator[bytes]:
    """Yield the current request's body in chunks as it arrives; `max_bytes` is its largest size.

    Raises what `read_bytes` raises, but only when it gets there: nothing of the body may be used before its end.
    """
    flask.request.max_content_length = max_bytes
    announced, received = flask.request.content_length, 0
    if announced is not None and announced > max_bytes:
        raise RequestEntityTooLarge
    _refuse_compressed()
    while chunk := _read(CHUNK_BYTES if announced is None else min(CHUNK_BYTES, announced - received)):
        received += len(chunk)
        if received > max_bytes:
            raise RequestEntityTooLarge
        yield chunk
    if announced is not None and received < announced:
        raise BadRequest(f"The body is cut off: {received} of {announced} bytes arrived; send it again.")


def _refuse_compressed() -> None:
    """Raise BadRequest for a compressed body: it could decompress to any size."""
    coding = flask.request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    if coding.lower() != "identity":
        raise BadRequest(f"Content-Encoding '{coding[:80]}' is not supported; send the body uncompressed.")


def _read(amount: int) -> bytes:
    """Read up to `amount` bytes of the body; fewer only at its end."""
    try:
        return client_connection.read_body(flask.request.environ, amount)
    except BrokenBody as error:
        raise BadRequest(f"The body could not be read: {error}") from error
    except TimeoutError as error:
        raise RequestTimeout("The body arrived too slowly; send it again.") from error
    except OSError as error:
        raise BadRequest("The body is cut off; send it again.") from error
