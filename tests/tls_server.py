"""Servers of single connections, with TLS or without, and an authority that signs their certificates."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

#: What a server does with each connection, which it closes afterwards.
Answering = Callable[[socket.socket], None]

_DAY, _NOW = timedelta(days=1), datetime.now(UTC)
#: What the farm says of a certificate → its dates.
DATES = {
    "has expired": {"not_before": _NOW - 2 * _DAY, "not_after": _NOW - _DAY},
    "is not valid yet": {"not_before": _NOW + _DAY, "not_after": _NOW + 2 * _DAY},
}


@contextmanager
def server(respond: Answering, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve connections one after another, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, respond, tls))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(listener: socket.socket, respond: Answering, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with ExitStack() as stack:
            stack.enter_context(connection)
            try:
                wrapped = stack.enter_context(tls.wrap_socket(connection, server_side=True)) if tls else connection
                respond(wrapped)
            except OSError:
                continue


class Authority:
    """A certificate authority, and servers with its certificates."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def context(self, name: str, **dates: datetime) -> ssl.SSLContext:
        """Return the TLS of a server. `dates`: trustme's `not_before` and `not_after` of its certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name, **dates).configure_cert(context)  # type: ignore[arg-type]
        return context
