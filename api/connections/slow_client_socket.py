"""Connections as the API's threads use them: with patience for whoever is slow, and an end to it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from farm import clock

#: How long the head of a request, with a handshake before it, may take, and how long a body that comes, or an answer
#: that goes, may stand still, in seconds.
PATIENCE_SECONDS = 30.0
#: How slow bodies and answers may be for longer than that, in bytes a second.
LEAST_PACE = 4096

#: So much of an answer is sent at once, in bytes: less than is sent at the least pace while it may stand still.
_PIECE_BYTES = 64 * 1024
#: A time limit is set anew where it is off by more than this, in seconds: to set one is a call to the kernel.
_NEARLY = 1.0


class TimedSocket(socket.socket):
    """A connection that raises TimeoutError when the other end has kept threads waiting for too long.

    Its patience is spent while a thread waits, and comes back with the bytes that move: who keeps the least pace is
    never given up, and who is silent, or drips, is. What asks for blocking or not is not heard: with a time limit, a
    socket serves a poller and a thread alike.
    """

    _left = PATIENCE_SECONDS
    _back_per_byte = 0.0
    _asked: float | None = None
    _set = 0.0
    _waiting_since: float | None = None

    def begin_head(self) -> None:
        """From now on the head of a request is awaited."""
        self._left = PATIENCE_SECONDS
        self._back_per_byte = 0.0

    def begin_exchange(self) -> None:
        """From now on a body comes, and an answer goes."""
        self._left = PATIENCE_SECONDS
        self._back_per_byte = 1 / LEAST_PACE

    @property
    def kept_waiting(self) -> float:
        """How much of its patience is spent, in seconds; 0 while no thread waits for the other end."""
        since = self._waiting_since
        return 0.0 if since is None else PATIENCE_SECONDS - self._left + clock.monotonic() - since

    def hang_up(self) -> None:
        """End the connection, from any thread; one that waits for it finds nothing more."""
        with suppress(OSError):
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # TLS would take its own for an order to speak plainly

    def pending(self) -> int:
        """Bytes that have been read from the kernel already, so that no poller sees them."""
        return 0

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        data: bytes = self._patiently(super().recv, bufsize, flags)
        self._move(len(data))
        return data

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        whole = memoryview(data).cast("B")
        for start in range(0, len(whole), _PIECE_BYTES):
            piece = whole[start : start + _PIECE_BYTES]
            self._patiently(super().sendall, piece, flags)
            self._move(len(piece))

    def settimeout(self, value: float | None, /) -> None:
        """Have less patience for a while."""
        self._asked = value

    def gettimeout(self) -> float | None:
        return self._asked

    def setblocking(self, flag: bool, /) -> None:  # noqa: ARG002  # the name is socket's
        self._asked = None

    def _patiently(self, act: Callable[..., Any], *words: Any) -> Any:
        limit = self._left if self._asked is None else min(self._left, self._asked)
        if limit <= 0:
            raise TimeoutError("the other end is too slow")
        if limit < _NEARLY or abs(limit - self._set) > _NEARLY:
            super().settimeout(limit)
            self._set = limit
        self._waiting_since = began = clock.monotonic()
        try:
            return act(*words)
        finally:
            self._waiting_since = None
            self._left -= clock.monotonic() - began

    def _move(self, count: int) -> None:
        self._left = min(PATIENCE_SECONDS, self._left + count * self._back_per_byte)


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same over TLS."""

    def pending(self) -> int:
        return ssl.SSLSocket.pending(self)

    def do_handshake(self, block: bool = False) -> None:
        self._patiently(super().do_handshake, block)


def taken(client: socket.socket) -> TimedSocket:
    """This connection as a TimedSocket, in its place."""
    return TimedSocket(client.family, client.type, client.proto, client.detach())


def safe(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, which makes TimedSockets."""
    context.sslsocket_class = TimedTlsSocket
    return context
