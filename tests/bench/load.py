"""The load client: `python -m tests.bench.load`, a process of its own that does as little as possible for each answer.

A few keep-alive sockets, one selector, requests as bytes made beforehand, one request under way on each connection. It
imports nothing but the standard library, reads its orders as JSON lines and answers each with one.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

#: Connections at a time: enough that the server always has a request at hand.
CONNECTIONS = 4

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tally:
    """The result of a load: answers with a 2xx status within `seconds`, and the share of a core that it took."""

    answers: int
    seconds: float
    client_share: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


class Load:
    """The load process, as the benchmark controls it."""

    def __enter__(self) -> Load:
        program = [sys.executable, "-m", "tests.bench.load"]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends with its orders
        self._process.wait(10)
        self._process.stdout.close()

    def drive(self, port: int, request: bytes, *, seconds: float) -> Tally:
        """Send `request` again and again for so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"port": port, "request": request.decode("latin-1"), "seconds": seconds}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"problem": "the load client died"}')
        if "problem" in reply:
            raise AssertionError(reply["problem"])
        return Tally(**reply)


def request(method: str, path: str, body: object = None, *, key: str = "") -> bytes:
    """Return a whole HTTP request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


class _Connection:
    """One socket that always waits for one answer."""

    def __init__(self, port: int, order: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._order = order
        self._received = b""

    def send(self) -> None:
        self._received = b""
        self.socket.sendall(self._order)

    def is_answered(self) -> bool:
        """Read what has arrived, and return True if the answer is complete. Raises ValueError for anything but 2xx."""
        piece = self.socket.recv(65536)
        received = self._received = self._received + piece
        end = received.find(b"\r\n\r\n")
        if end < 0 and piece:
            return False
        length = _LENGTH.search(received, 0, end)
        if received[9:10] != b"2" or length is None:
            raise ValueError(f"the answer is no success: {received[:400]!r}")
        return len(received) >= end + 4 + int(length[1])


def _drive(port: int, order: bytes, seconds: float) -> Tally:
    selector = selectors.DefaultSelector()
    connections = [_Connection(port, order) for _ in range(CONNECTIONS)]
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    began, cpu = time.monotonic(), time.process_time()
    for connection in connections:
        connection.send()
    answers, waiting = 0, len(connections)
    while waiting:
        for key, _ in selector.select(10):
            if not key.data.is_answered():
                continue
            if time.monotonic() - began < seconds:
                answers += 1
                key.data.send()
            else:  # what comes after the time is awaited, so that the next measurement meets an idle server
                waiting -= 1
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    for connection in connections:
        connection.socket.close()
    selector.close()
    return Tally(answers, seconds, share)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        try:
            reply = asdict(_drive(order["port"], order["request"].encode("latin-1"), order["seconds"]))
        except (OSError, ValueError) as error:
            reply = {"problem": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
