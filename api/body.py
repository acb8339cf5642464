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
    """A JSON object, the digest of its bytes, and the caller's Idempotency-Key (empty: none)."""

    fields: dict[str, Any]
    digest: str
    idempotency_key: str


def read_body() -> Body:
    """The current request's body. Raises InvalidRequest where it is no JSON object or the key is too long."""
    raw = flask.request.get_data(cache=False)
    key = flask.request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_KEY:
        raise InvalidRequest([Problem("Idempotency-Key", f"allowed: up to {MAX_KEY} characters", "string_too_long")])
    return Body(decode(raw), hashlib.sha256(raw).hexdigest(), key)
