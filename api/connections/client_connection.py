"""The other end of a connection that is held open: whether it is still there."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

#: How long a client may take nothing of what is sent, in seconds, before it is cut off.
SEND_SECONDS = 30.0


class Peer:
    """Whoever waits for an answer. Without a connection, as in a test, it stays."""

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection
        self._poll = select.poll()
        if connection is not None:
            # The kernel cuts off who takes nothing, and a line that is dead: the server would wait politely.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(SEND_SECONDS * 1000))
            self._poll.register(connection, select.POLLRDHUP)

    def has_left(self) -> bool:
        return bool(self._poll.poll(0))

    def hang_up(self) -> None:
        """Take no more from the client, so that the server does not keep its connection for another request."""
        if self._connection is not None:
            # By a copy, for TLS would take it as an order to speak plainly.
            with socket.socket(fileno=os.dup(self._connection.fileno())) as copy, suppress(OSError):
                copy.shutdown(socket.SHUT_RD)
