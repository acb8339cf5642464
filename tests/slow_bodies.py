"""Bodies that come slowly, as gunicorn hands them to an application."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gunicorn.http.body import Body, EOFReader, LengthReader
from gunicorn.http.unreader import SocketUnreader

from api.connections.slow_client_socket import TimedSocket, timed


@contextmanager
def pair() -> Iterator[tuple[socket.socket, TimedSocket]]:
    """Yield a caller's end of a connection, and the farm's, which awaits a body or sends an answer."""
    theirs, plain = socket.socketpair()
    with theirs, timed(plain) as ours:
        ours.begin_exchange()
        yield theirs, ours


def awaited(ours: TimedSocket, announced: int | None) -> dict[str, Any]:
    """Return the environment of a request whose body comes at this end; its length, where it is announced."""
    unreader = SocketUnreader(ours)
    reader = EOFReader(unreader) if announced is None else LengthReader(unreader, announced)
    length = {} if announced is None else {"CONTENT_LENGTH": str(announced)}
    return {"wsgi.input": Body(reader), "gunicorn.socket": ours} | length
