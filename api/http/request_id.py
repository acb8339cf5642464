"""The id of a call, by which it is found in logs: the caller's own `X-Request-Id`, or a new one."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

import flask

HEADER = "X-Request-Id"
#: The id in the call's WSGI environment.
_CALL = "farm.request_id"
#: Characters of a caller's id that are kept at most.
MAX_LENGTH = 128
#: What is left out of a caller's id.
_FOREIGN = re.compile(r"[^A-Za-z0-9._:/+=@-]")
#: An id with the beginning of an API key, or of a token, in it is not taken: it would be logged.
_KEY = re.compile(r"farm(token)?_")


def request_id() -> str:
    """Return the id of the current call."""
    environ = flask.request.environ
    known: str = environ.get(_CALL) or _sent(environ) or f"{random.getrandbits(64):016x}"  # no secret
    environ[_CALL] = known
    return known


def set_request_id(default: str) -> str:
    """Give the current call this id, unless its caller sent one; return the one that it has."""
    environ = flask.request.environ
    known = environ[_CALL] = _sent(environ) or default
    return known


def install(app: flask.Flask) -> None:
    """Have each answer repeat the id that came with its call, or that the call was given because it is logged."""

    @app.after_request
    def add(response: flask.Response) -> flask.Response:
        environ = flask.request.environ
        if known := environ.get(_CALL) or _sent(environ):
            response.headers.add(HEADER, known)
        return response


def _sent(environ: Mapping[str, Any]) -> str:
    text: str = environ.get("HTTP_X_REQUEST_ID", "")
    if not text or _KEY.search(text):
        return ""
    return _FOREIGN.sub("", text[: 4 * MAX_LENGTH])[:MAX_LENGTH]
