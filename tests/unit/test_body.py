"""A body that is read whole: its caller may not keep a thread by sending nothing."""

from __future__ import annotations

import socket

import flask
import pytest
from werkzeug.exceptions import RequestTimeout

from api import body


def test_a_body_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "STALL_SECONDS", 0.05)
    app = flask.Flask("test")
    app.config["MAX_CONTENT_LENGTH"] = 100
    theirs, ours = socket.socketpair()

    with theirs, ours, ours.makefile("rb") as stream:
        theirs.sendall(b"half")
        environ = {"wsgi.input": stream, "gunicorn.socket": ours, "CONTENT_LENGTH": "8"}
        with app.test_request_context(method="POST", environ_overrides=environ), pytest.raises(RequestTimeout):
            body.read_bytes()

        assert ours.gettimeout() is None
