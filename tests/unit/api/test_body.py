"""Bodies read whole: a client that sends nothing must not keep a thread, and nothing is decompressed."""

from __future__ import annotations

import flask
import pytest
from werkzeug.exceptions import BadRequest, RequestTimeout

from api.connections import slow_client_socket
from api.http import body
from tests import slow_bodies


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("test")
    app.config["MAX_CONTENT_LENGTH"] = 100
    return app


def test_a_body_that_stands_still_is_given_up(app: flask.Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.05)

    with slow_bodies.pair() as (theirs, ours):
        theirs.sendall(b"half")
        environ = slow_bodies.awaited(ours, 8)
        with app.test_request_context(method="POST", environ_overrides=environ), pytest.raises(RequestTimeout):
            body.read_bytes()


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate, identity", ""])
@pytest.mark.parametrize("way", ["whole", "pieces"])
def test_a_packed_body_is_refused(app: flask.Flask, coding: str, way: str) -> None:
    """It is refused whatever its decompressed size would be."""
    context = app.test_request_context(method="POST", data=b"{}", headers={"Content-Encoding": coding})
    with context, pytest.raises(BadRequest, match="Content-Encoding"):
        body.read_bytes() if way == "whole" else list(body.pieces(100))


@pytest.mark.parametrize("coding", [None, "identity", "Identity"])
def test_a_body_that_is_not_packed_is_read(app: flask.Flask, coding: str | None) -> None:
    with app.test_request_context(method="POST", data=b"{}", headers={"Content-Encoding": coding} if coding else {}):
        assert body.read_bytes() == b"{}"
