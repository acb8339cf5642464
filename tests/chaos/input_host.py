"""The web host of input images, which answers slowly at times."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.webhook_receiver import Server

#: While the host is slow, an image comes in so many pieces, with a pause of so many seconds before each.
_PIECES, _PAUSE = 8, 0.5


class InputHost:
    """Serves images, one for each request of a caller."""

    def __init__(self) -> None:
        self._images: dict[str, bytes] = {}
        self._is_slow = threading.Event()
        self._closing = threading.Event()
        self._server = Server(self._handler())

    def __enter__(self) -> InputHost:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.stop()

    def address(self, ask: int, content: bytes) -> str:
        """Serve the image of a request from now on, and return its URL."""
        self._images[f"/{ask}"] = content
        return f"{self._server.url}/{ask}"

    def slow_down(self) -> None:
        self._is_slow.set()

    def speed_up(self) -> None:
        self._is_slow.clear()

    def _send(self, request: BaseHTTPRequestHandler) -> None:
        content = self._images[request.path]
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        step = -(-len(content) // _PIECES)
        for start in range(0, len(content), step):
            if self._is_slow.is_set():
                self._closing.wait(_PAUSE)
            request.wfile.write(content[start : start + step])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(ConnectionError):  # its reader was killed
                    host._send(self)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler
