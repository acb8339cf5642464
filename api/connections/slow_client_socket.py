"""Sockets with a deadline for slow clients: a minimum rate while a thread waits, plain and over TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from farm import clock

#: How long the head of a request, with a TLS handshake before it, may take, and how long a body or an answer may make
#: no progress, in seconds.
IO_TIMEOUT_SECONDS = 30.0
#: The rate that a body or an answer must keep to take longer than that.
MIN_BYTES_PER_SECOND = 4096

#: Bytes of an answer that are sent at once: fewer than the minimum rate allows within the timeout.
_CHUNK_BYTES = 64 * 1024
#: The socket's own timeout is set anew where it is off by more seconds than this: setting it is a system call.
_TIMEOUT_TOLERANCE = 1.0


class TimedSocket(socket.socket):
    """A connection that raises TimeoutError when its client has kept threads waiting for too long.

    Each connection has a budget of waiting time. It is spent while a thread waits, and refilled by the bytes that move:
    a client that keeps the minimum rate is never disconnected, one that is silent or trickles is. Requests to block or
    not to block are ignored: with a timeout, a socket serves a poller and a thread alike.
    """

    _budget = IO_TIMEOUT_SECONDS
    _refill_per_byte = 0.0
    _asked: float | None = None
    _set = 0.0
    _waiting_since: float | None = None

    def begin_head(self) -> None:
        """Start the budget for the head of a request, which bytes do not refill."""
        self._budget = IO_TIMEOUT_SECONDS
        self._refill_per_byte = 0.0

    def begin_exchange(self) -> None:
        """Start the budget for a body and its answer, which bytes refill."""
        self._budget = IO_TIMEOUT_SECONDS
        self._refill_per_byte = 1 / MIN_BYTES_PER_SECOND

    @property
    def stalled_seconds(self) -> float:
        """The spent part of the budget, in seconds; 0 while no thread waits for the client."""
        since = self._waiting_since
        return 0.0 if since is None else IO_TIMEOUT_SECONDS - self._budget + clock.monotonic() - since

    def hang_up(self) -> None:
        """End the connection, from any thread; a thread that waits for it reads its end."""
        with suppress(OSError):
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # TLS's own would continue in plain text

    def pending(self) -> int:
        """Return the number of bytes that have been read from the kernel already, so that no poller sees them."""
        return 0

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        data: bytes = self._within_budget(super().recv, bufsize, flags)
        self._refill(len(data))
        return data

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        whole = memoryview(data).cast("B")
        for start in range(0, len(whole), _CHUNK_BYTES):
            chunk = whole[start : start + _CHUNK_BYTES]
            self._within_budget(super().sendall, chunk, flags)
            self._refill(len(chunk))

    def settimeout(self, value: float | None, /) -> None:
        """Wait for less than the budget, until the timeout is set again."""
        self._asked = value

    def gettimeout(self) -> float | None:
        return self._asked

    def setblocking(self, flag: bool, /) -> None:  # noqa: ARG002  # the name is socket's
        self._asked = None

    def _within_budget(self, act: Callable[..., Any], *arguments: Any) -> Any:
        limit = self._budget if self._asked is None else min(self._budget, self._asked)
        if limit <= 0:
            raise TimeoutError("the client is too slow")
        if limit < _TIMEOUT_TOLERANCE or abs(limit - self._set) > _TIMEOUT_TOLERANCE:
            super().settimeout(limit)
            self._set = limit
        self._waiting_since = began = clock.monotonic()
        try:
            return act(*arguments)
        finally:
            self._waiting_since = None
            self._budget -= clock.monotonic() - began

    def _refill(self, count: int) -> None:
        self._budget = min(IO_TIMEOUT_SECONDS, self._budget + count * self._refill_per_byte)


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """A TimedSocket over TLS."""

    def pending(self) -> int:
        return ssl.SSLSocket.pending(self)

    def do_handshake(self, block: bool = False) -> None:
        self._within_budget(super().do_handshake, block)


def timed(client: socket.socket) -> TimedSocket:
    """Return this connection as a TimedSocket, which replaces it."""
    return TimedSocket(client.family, client.type, client.proto, client.detach())


def with_timed_sockets(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have the context make TimedTlsSockets, and return it."""
    context.sslsocket_class = TimedTlsSocket
    return context
