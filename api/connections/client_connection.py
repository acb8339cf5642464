"""The connection of a client that waits for its answer, and the request body that arrives on it."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import ParseException

#: How long a client may take nothing of what is sent, in seconds, before it is disconnected.
SEND_TIMEOUT_SECONDS = 30.0


class BrokenBody(Exception):
    """A request body whose framing is malformed."""


def read_body(environ: Mapping[str, Any], amount: int) -> bytes:
    """Return up to `amount` bytes of the request body, fewer only at its end.

    Raises BrokenBody, TimeoutError where the client is too slow, and OSError where it has disconnected.
    """
    try:
        raw: bytes = environ["wsgi.input"].read(amount)
    except ParseException as error:
        raise BrokenBody(str(error)) from error
    return raw


class ClientConnection:
    """The connection of a waiting client. Without a socket, as in a test, the client never disconnects."""

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection
        if connection is not None:
            # The kernel disconnects a client that takes nothing, and a dead connection: the server would wait.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(SEND_TIMEOUT_SECONDS * 1000))

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> ClientConnection:
        """Return the connection on which the request came."""
        return cls(environ.get("gunicorn.socket"))

    def has_disconnected(self) -> bool:
        """Return True if the client has closed its connection. Thread-safe."""
        if self._connection is None:
            return False
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """Stop reading from the client, so that the server does not keep its connection for another request."""
        if self._connection is not None:
            # By a copy: TLS would take it as an order to continue in plain text.
            with socket.socket(fileno=os.dup(self._connection.fileno())) as copy, suppress(OSError):
                copy.shutdown(socket.SHUT_RD)
