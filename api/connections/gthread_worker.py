"""gunicorn's gthread worker, hardened against slow clients: it evicts idle and slow connections when it must."""

from __future__ import annotations

import errno
import json
import selectors
import socket
import ssl
from collections import deque
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import structlog
from gunicorn import util
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidHeader,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

from api.connections.slow_client_socket import IO_TIMEOUT_SECONDS, timed
from farm import clock
from farm.domain.errors import FarmError

#: A client that has kept a thread waiting for so many seconds is disconnected when others find none.
SLOW_SECONDS = 2.0
#: How many threads are freed then, and how many open files are left when all are in use.
_RESERVE = 40

#: Errors of the server, though gunicorn counts them among those of clients.
_OWN_FAULTS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
_STATUS: dict[type[Exception], HTTPStatus] = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}

_log = structlog.get_logger(__name__)


class Connection(TConn):  # type: ignore[misc]  # gunicorn is untyped
    """A connection that the polling thread closes at once: it must not wait for one client."""

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002  # gunicorn's signature
        util.close(self.sock)

    def close_gracefully(self) -> None:
        """Close it so that a client that still sends reads its answer (RFC 9112, section 9.6): up to two seconds."""
        util.close_graceful(self.sock)


class SlowClientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is untyped
    """A gthread worker that gives its threads to clients that send, and takes them back from those that stall.

    It answers malformed HTTP in JSON, and ends the event streams when it is asked to stop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy: set[Connection] = set()
        self._evicted_at = -SLOW_SECONDS

    def accept(self, listener: Any) -> None:
        """Accept a connection. It gets a thread when its client sends something: an idle one must not hold any."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.worker_connections = max(1, self.nr_conns - _RESERVE)  # as many as there are files
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        connection = Connection(self.cfg, timed(client), address, listener.getsockname())
        connection.timeout = clock.monotonic() + IO_TIMEOUT_SECONDS
        self.pending_conns.append(connection)
        on_readable = partial(self.on_pending_socket_readable, connection)
        self.poller.register(connection.sock, selectors.EVENT_READ, on_readable)

    def enqueue_req(self, conn: Connection) -> None:
        self._busy.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: Any) -> None:
        self._busy.discard(conn)
        super().finish_request(conn, fs)

    def handle(self, conn: Connection) -> Any:
        conn.sock.begin_head()
        keeps_open = super().handle(conn)
        while keeps_open and conn.sock.pending():
            conn.sock.begin_head()
            keeps_open = super().handle(conn)
        if not keeps_open:
            conn.close_gracefully()
        return keeps_open

    def handle_request(self, req: Any, conn: Connection) -> Any:
        conn.sock.begin_exchange()
        _settle_host(req)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except ParseException:  # in a body that was not read: the answer has been sent
            return False

    def murder_pending(self) -> None:
        """Close connections that have been idle for too long. gunicorn calls this at least once a second."""
        super().murder_pending()
        self._evict_idle()
        if len(self._busy) >= self.cfg.threads:
            self._evict_slow()

    def _evict_idle(self) -> None:
        """Close the connection that has been idle for longest, so that one more can be accepted."""
        while self.nr_conns >= self.worker_connections and (idle := self._longest_idle()):
            connection = idle.popleft()
            self.poller.unregister(connection.sock)
            self.nr_conns -= 1
            connection.close()

    def _longest_idle(self) -> deque[Connection]:
        """Return the connections to evict: those that have sent nothing before kept-alive ones, unless they are new."""
        new: deque[Connection] = self.pending_conns
        kept_alive: deque[Connection] = self.keepalived_conns
        is_late = bool(new) and new[0].timeout - clock.monotonic() < IO_TIMEOUT_SECONDS - SLOW_SECONDS
        return new if is_late or not kept_alive else kept_alive

    def _evict_slow(self) -> None:
        """Disconnect the slowest clients: no thread is free."""
        if clock.monotonic() - self._evicted_at < SLOW_SECONDS:
            return
        self._evicted_at = clock.monotonic()
        slow = [conn for conn in self._busy if conn.sock.stalled_seconds > SLOW_SECONDS]
        slow.sort(key=lambda conn: conn.sock.stalled_seconds, reverse=True)
        for connection in slow[: len(self._busy) - self.cfg.threads + _RESERVE]:
            connection.sock.hang_up()
        if slow:
            _log.warning("all threads were busy; slow clients disconnected", slow=len(slow))

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(deadline)
        for connection in self.pending_conns:
            connection.timeout = min(connection.timeout, deadline)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end_streams()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        self._end_streams()
        super().handle_quit(sig, frame)

    def _end_streams(self) -> None:
        application = getattr(self, "wsgi", None)  # not loaded yet while it starts
        if application is not None and "streams" in application.extensions:
            application.extensions["streams"].end()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:  # noqa: ARG002
        """Answer a request that could not be read with what is wrong. It is not logged: it may hold a key."""
        status, message = _status(exc), f"The request could not be read: {exc}"[:300]
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("unexpected error", exc_info=exc)
            message = str(FarmError())
        body = json.dumps(
            {"code": status.value, "status": status.value, "message": message, "detail": message}
        ).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\n"
        )
        with suppress(OSError):
            client.sendall(head.encode() + body)


def _settle_host(request: Any) -> None:
    """Make the request name exactly one host (RFC 9112, 3.2 and 3.2.2). Raises InvalidHeader where it names none."""
    if request.uri.startswith("http"):
        host = urlsplit(request.uri).netloc
        request.headers = [("HOST", host), *(header for header in request.headers if header[0] != "HOST")]
    elif request.version >= (1, 1) and all(name != "HOST" for name, _ in request.headers):
        raise InvalidHeader("HOST", req=request)


def _status(error: Exception) -> HTTPStatus:
    """Return the HTTP status of an error that kept a request from being read."""
    if not isinstance(error, ParseException | ssl.SSLError) or isinstance(error, _OWN_FAULTS):
        return HTTPStatus.INTERNAL_SERVER_ERROR
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)
