"""The body of a submit, with what identifies it when it comes again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import flask

from farm.dialects.fields import decode
from farm.errors import InvalidRequest, Problem

#: Longest Idempotency-Key, in characters.
MAX_KEY = 255


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object, the digest of its bytes and the query, and the caller's Idempotency-Key (empty: none)."""

    fields: dict[str, Any]
    digest: str
    idempotency_key: str


def read_body(*, instead: bytes = b"") -> Body:
    """The current request's body. Raises InvalidRequest where it is no JSON object or the key is too long.

    `instead` is read where no body came.
    """
    raw = flask.request.get_data(cache=False) or instead
    key = flask.request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_KEY:
        raise InvalidRequest([Problem("Idempotency-Key", f"allowed: up to {MAX_KEY} characters", "string_too_long")])
    # A webhook stands in the query: with another one it is not the same call.
    digest = hashlib.sha256(flask.request.query_string + b"\n" + raw).hexdigest()
    return Body(decode(raw), digest, key)
