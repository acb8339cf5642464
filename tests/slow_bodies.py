"""Request bodies that arrive slowly, or stop."""

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
    """Yield both ends of a connection: the client's, and the farm's, which awaits a body or sends an answer."""
    theirs, plain = socket.socketpair()
    with theirs, timed(plain) as ours:
        ours.begin_exchange()
        yield theirs, ours


def awaited(ours: TimedSocket, announced: int | None) -> dict[str, Any]:
    """Return the environment of a request whose body arrives at this end, with its length if that is announced."""
    unreader = SocketUnreader(ours)
    reader = EOFReader(unreader) if announced is None else LengthReader(unreader, announced)
    length = {} if announced is None else {"CONTENT_LENGTH": str(announced)}
    return {"wsgi.input": Body(reader), "gunicorn.socket": ours} | length
