"""A web host of images that misbehaves on command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.webhook_receiver import Server

#: Answers one request, whatever way.
Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Host:
    """Answers each path as configured, and 404 elsewhere; `asked` are the paths of the requests, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()
        self._behaviours: dict[str, Behaviour] = {}
        self._server = Server(self._handler())
        self.port = self._server.server_port
        self.url = self._server.url

    def behave(self, path: str, behaviour: Behaviour) -> str:
        """Configure the answer of a path, and return its URL."""
        self._behaviours[path] = behaviour
        return self.url + path

    def serve(self, path: str, content: bytes, status: int = 200, **headers: str) -> str:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            with suppress(ConnectionError):  # it has read enough
                request.wfile.write(content)

        return self.behave(path, answer)

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        return self.serve(path, b"elsewhere", status, Location=target)

    def hold(self, path: str, content: bytes) -> str:
        """Delay the answers of a path until the host is released."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            self.released.wait(60)
            serve(request)

        self.serve(path, content)
        serve = self._behaviours[path]
        return self.behave(path, answer)

    def delay(self, path: str, seconds: float) -> None:
        """Delay the answers of a path by so many seconds."""
        behaviour = self._behaviours[path]

        def answer(request: BaseHTTPRequestHandler) -> None:
            self.released.wait(seconds)
            behaviour(request)

        self.behave(path, answer)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self.released.set()
        self._server.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                behaviour = host._behaviours.get(self.path)
                if behaviour:
                    behaviour(self)
                else:
                    self.send_error(404)

            def log_message(self, *args: Any) -> None:
                """Log nothing."""

        return Handler


@contextmanager
def running_host() -> Iterator[Host]:
    host = Host()
    host.start()
    try:
        yield host
    finally:
        host.stop()
