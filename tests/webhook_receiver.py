"""A webhook receiver that records what it receives, and misbehaves on command."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A received request. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


#: Answers one request, whatever way.
Behaviour = Callable[[BaseHTTPRequestHandler], None]


def answer(status: int, **headers: str) -> Behaviour:
    """Return a behaviour that answers with `status`."""

    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "2")
        request.end_headers()
        request.wfile.write(b"ok")

    return behave


def close_early(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    request.connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    """Takes the connections of many couriers at once: the default backlog of five would delay the others."""

    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Receiver:
    """Behaves well at first; `behave` is called for each request, and may be replaced at any time."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.behave: Behaviour = answer(200)
        self.released = threading.Event()
        self._server = Server(self._handler())
        self.url = self._server.url

    def at(self, path: str) -> list[Received]:
        """Return the requests to `path`."""
        return [request for request in self.received if request.path == path]

    def hang(self, _request: BaseHTTPRequestHandler) -> None:
        """Give no answer before the test is over."""
        self.released.wait(60)

    def late(self, request: BaseHTTPRequestHandler) -> None:
        """Answer well, once released."""
        self.released.wait(60)
        answer(200)(request)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self.released.set()
        self._server.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                receiver.behave(self)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *args: Any) -> None:
                """Log nothing."""

        return Handler


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
