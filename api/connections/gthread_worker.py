"""The API's threads: given to whoever has something to say, and taken back from who keeps them waiting."""

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

from api.connections.slow_client_socket import PATIENCE_SECONDS, taken
from farm import clock

#: Who has kept a thread waiting for so many seconds is hung up on when others find none.
SLOW_SECONDS = 2.0
#: So many threads are made free then, and so many open files are left when there are no more.
_SPARE = 40

#: What is no caller's fault, though gunicorn calls it so.
_OWN_FAULTS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
_STATUS: dict[type[Exception], HTTPStatus] = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}

_log = structlog.get_logger(__name__)


class Connection(TConn):  # type: ignore[misc]  # gunicorn is untyped
    """A connection that is never closed politely by the one thread which waits for all others."""

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002  # gunicorn's signature
        util.close(self.sock)

    def take_leave(self) -> None:
        """Close it so that a client which still sends finds its answer (RFC 9112, section 9.6). Up to two seconds."""
        util.close_graceful(self.sock)


class SlowClientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's threads, for whoever has something to say.

    They answer in JSON even what is no HTTP, and do not stay for streams when asked to stop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_threads: set[Connection] = set()
        self._hung_up_at = -SLOW_SECONDS

    def accept(self, listener: Any) -> None:
        """Take a connection. It gets a thread when something comes: it may cost its maker nothing to be silent."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.worker_connections = max(1, self.nr_conns - _SPARE)  # more there cannot be
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        connection = Connection(self.cfg, taken(client), address, listener.getsockname())
        connection.timeout = clock.monotonic() + PATIENCE_SECONDS
        self.pending_conns.append(connection)
        heard = partial(self.on_pending_socket_readable, connection)
        self.poller.register(connection.sock, selectors.EVENT_READ, heard)

    def enqueue_req(self, conn: Connection) -> None:
        self._in_threads.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: Any) -> None:
        self._in_threads.discard(conn)
        super().finish_request(conn, fs)

    def handle(self, conn: Connection) -> Any:
        conn.sock.begin_head()
        stays = super().handle(conn)
        while stays and conn.sock.pending():
            conn.sock.begin_head()
            stays = super().handle(conn)
        if not stays:
            conn.take_leave()
        return stays

    def handle_request(self, req: Any, conn: Connection) -> Any:
        conn.sock.begin_exchange()
        _settle_host(req)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except ParseException:  # in a body that nobody read: what was to be said is said
            return False

    def murder_pending(self) -> None:
        """gunicorn's moment to look at who has been silent for too long; it comes at least once a second."""
        super().murder_pending()
        self._make_room()
        if len(self._in_threads) >= self.cfg.threads:
            self._free_threads()

    def _make_room(self) -> None:
        """Hang up on the most silent, so that one more connection can be taken."""
        while self.nr_conns >= self.worker_connections and (silent := self._most_silent()):
            connection = silent.popleft()
            self.poller.unregister(connection.sock)
            self.nr_conns -= 1
            connection.close()

    def _most_silent(self) -> deque[Connection]:
        """Those who have said nothing yet before those who may come back, unless they have only just connected."""
        new: deque[Connection] = self.pending_conns
        known: deque[Connection] = self.keepalived_conns
        is_late = bool(new) and new[0].timeout - clock.monotonic() < PATIENCE_SECONDS - SLOW_SECONDS
        return new if is_late or not known else known

    def _free_threads(self) -> None:
        """No thread is free: hang up on those who keep theirs waiting, the slowest first."""
        if clock.monotonic() - self._hung_up_at < SLOW_SECONDS:
            return
        self._hung_up_at = clock.monotonic()
        slow = [conn for conn in self._in_threads if conn.sock.kept_waiting > SLOW_SECONDS]
        slow.sort(key=lambda conn: conn.sock.kept_waiting, reverse=True)
        for connection in slow[: len(self._in_threads) - self.cfg.threads + _SPARE]:
            connection.sock.hang_up()
        if slow:
            _log.warning("all threads were taken; hung up on slow callers", slow=len(slow))

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
        application = getattr(self, "wsgi", None)  # not there yet while it starts
        if application is not None and "streams" in application.extensions:
            application.extensions["streams"].end()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:  # noqa: ARG002
        """Say what is wrong with what could not be read. It is not in the log: there may be a key in it."""
        status, message = _status(exc), f"The request could not be read: {exc}"[:300]
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("unforeseen error", exc_info=exc)
            message = "The farm failed in a way that it did not foresee."
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
    """Have the request name one host (RFC 9112, sections 3.2 and 3.2.2). Raises InvalidHeader where it names none."""
    if request.uri.startswith("http"):
        named = urlsplit(request.uri).netloc
        request.headers = [("HOST", named), *(header for header in request.headers if header[0] != "HOST")]
    elif request.version >= (1, 1) and all(name != "HOST" for name, _ in request.headers):
        raise InvalidHeader("HOST", req=request)


def _status(error: Exception) -> HTTPStatus:
    """The status that says what kept a request from being read."""
    if not isinstance(error, ParseException | ssl.SSLError) or isinstance(error, _OWN_FAULTS):
        return HTTPStatus.INTERNAL_SERVER_ERROR
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)
