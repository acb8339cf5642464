"""Uploads in progress: bodies in chunks, and how many at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import flask
import pytest
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout

from api.connections import slow_client_socket
from api.connections.slow_client_socket import TimedSocket
from api.http import body
from api.http.upload_body import MAX_UPLOADS, MAX_UPLOADS_PER_CALLER
from api.server import MAX_HELD_CALLS, MAX_STREAMS, THREADS
from tests import slow_bodies


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, TimedSocket]]:
    """Yield both ends of a connection: the client's, and the farm's."""
    with slow_bodies.pair() as both:
        yield both


def received(ours: TimedSocket, announced: int | None, maximum: int = 1000) -> bytes:
    """Return the body that arrives at our end, as a route reads it."""
    environ = slow_bodies.awaited(ours, announced)
    with flask.Flask("test").test_request_context(method="PUT", environ_overrides=environ):
        return b"".join(body.pieces(maximum))


@pytest.mark.parametrize("announced", [7, None])
def test_a_body_is_read_to_its_end(pair: tuple[socket.socket, TimedSocket], announced: int | None) -> None:
    theirs, ours = pair
    theirs.sendall(b"content")
    if announced is None:
        theirs.shutdown(socket.SHUT_WR)

    assert received(ours, announced) == b"content"


def test_a_body_that_stands_still_is_given_up(
    pair: tuple[socket.socket, TimedSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold a thread and a slot for ever."""
    theirs, ours = pair
    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.05)
    ours.begin_exchange()
    theirs.sendall(b"half")

    with pytest.raises(RequestTimeout):
        received(ours, 8)


def test_a_body_that_is_cut_off_is_reported_as_such(pair: tuple[socket.socket, TimedSocket]) -> None:
    theirs, ours = pair
    theirs.sendall(b"half")
    theirs.shutdown(socket.SHUT_WR)

    with pytest.raises(BadRequest, match="4 of 8 bytes"):
        received(ours, 8)


@pytest.mark.parametrize("announced", [1001, None])
def test_a_body_may_not_be_longer_than_the_limit(
    pair: tuple[socket.socket, TimedSocket], announced: int | None
) -> None:
    theirs, ours = pair
    theirs.sendall(b"x" * 1001)
    theirs.shutdown(socket.SHUT_WR)

    with pytest.raises(RequestEntityTooLarge):
        received(ours, announced)


# Slots


def test_threads_are_left_for_short_calls() -> None:
    """Many uploads are in progress, and as many wait for a slot."""
    assert MAX_UPLOADS_PER_CALLER <= MAX_UPLOADS
    assert THREADS - MAX_HELD_CALLS - MAX_STREAMS - 2 * MAX_UPLOADS > 32
