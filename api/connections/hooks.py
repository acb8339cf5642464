"""Hooks into gunicorn: its log, send buffers, TLS contexts, and `Connection: close` after a broken body."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from gunicorn.glogging import Logger

from api.connections.slow_client_socket import with_timed_sockets

#: Bytes of an answer that the kernel buffers until its client reads them.
_SEND_BUFFER_BYTES = 512 * 1024

_log = structlog.get_logger(__name__)


class Log(Logger):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's log lines in the farm's log."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002  # gunicorn's signature
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.error_log.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the tracebacks of slow clients that were disconnected: there may be hundreds."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BlockingIOError | TimeoutError)


def limit_send_buffers(arbiter: Any) -> None:
    """Limit the kernel's send buffer of every connection to come: for hundreds of slow readers it would be gigabytes.

    Connections inherit it from their listener.
    """
    for listener in arbiter.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)


def leave_hangups_to_the_arbiter(_worker: Any) -> None:
    """Ignore SIGHUP in the worker: a terminal that closes sends it to both processes, and the arbiter drains this."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def close_after_broken_body(_worker: Any, request: Any) -> None:
    """Have the answer to a request with a broken body say `Connection: close`: gunicorn closes, but does not say so."""
    should_close = request.should_close
    request.should_close = lambda: request.body.failed or should_close()


class TlsContexts:
    """A cache of the TLS context: gunicorn would read the certificate anew for each connection.

    A renewed certificate is used from the next connection on.
    """

    def __init__(self) -> None:
        self._cached: tuple[list[int], ssl.SSLContext] | None = None

    def context(self, options: Any, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """Return the context for the files that `options` name; `make` reads them.

        While renewed files cannot be used, or only one of them has been replaced, the old context serves.
        """
        changed = [_changed_at(Path(file)) for file in (options.certfile, options.keyfile)]
        if self._cached is None:
            self._cached = changed, with_timed_sockets(make())
        elif self._cached[0] != changed:
            self._cached = changed, self._renewed(make, self._cached[1])
        return self._cached[1]

    def _renewed(self, make: Callable[[], ssl.SSLContext], old: ssl.SSLContext) -> ssl.SSLContext:
        try:
            return with_timed_sockets(make())
        except (OSError, ValueError) as error:
            _log.warning("renewed TLS files cannot be used; the old ones stay in use", error=str(error))
            return old


def _changed_at(file: Path) -> int:
    """Return when a file was changed; 0 if it is not there."""
    with suppress(OSError):
        return file.stat().st_mtime_ns
    return 0
