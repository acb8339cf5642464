"""Proxies that inject faults in front of a server: errors, silence, slowness, cut answers, resets, absence.

They pass bytes on as they are. For HTTP a request begins where a piece from the client begins with a method: clients
send no second one before they have the answer to the first. A wire knows nothing of what it carries.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")
_PIECE = 65536


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault that a request meets instead of a good answer. Without any of these fields there is none."""

    #: Answered in the server's place; the server never sees the request.
    answer: bytes = b""
    #: Nothing is passed on, and nothing is answered.
    silent: bool = False
    #: The connection is reset at once.
    reset: bool = False
    #: The connection ends after so many bytes of the answer.
    cut_after: int | None = None
    #: The answer's pace.
    bytes_per_second: int | None = None
    #: The request's pace.
    bytes_taken_per_second: int | None = None


def refusal(status: int, code: str) -> Fault:
    """Return an error answer as S3 sends it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Trouble.</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Trouble\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return Fault(answer=f"{head}Connection: close\r\n\r\n".encode() + body)


@dataclass(slots=True)
class _Rule:
    fault: Fault
    methods: frozenset[str]
    times: int
    share: float


class FaultyWay:
    """A proxy of a server on loopback, with a port of its own."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty way", daemon=True)
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rules: list[_Rule] = []
        self._dice = random.Random(7)
        self.port = 0
        #: Requests that arrived, as (method, path).
        self.seen: list[tuple[str, str]] = []
        self._heads: list[bytes] = []

    def open(self) -> None:
        self._thread.start()
        self.come_up()

    def close(self) -> None:
        self.go_down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def inject(self, fault: Fault, *methods: str, times: int = 1_000_000, share: float = 1.0) -> None:
        """Have the next so many requests of these methods (of any, if none is named), or a share, meet `fault`."""
        self._rules.append(_Rule(fault, frozenset(methods), times, share))

    def heal(self) -> None:
        self._rules.clear()

    def asked(self, method: str) -> int:
        """Return how many requests of a method have arrived."""
        return [seen for seen, _ in self.seen].count(method)

    def sent_header(self, name: str) -> bool:
        """Return True if any request had this header."""
        return any(f"\r\n{name}:".encode() in head.lower() for head in self._heads)

    @property
    def open_connections(self) -> int:
        """The number of connections to the server."""
        return len(self._ways) // 2

    @property
    def is_down(self) -> bool:
        return self._server is None

    def go_down(self) -> None:
        """Refuse connections, and close those that are open."""
        self._run(self._stop())

    def come_up(self) -> None:
        self._run(self._start())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for way in self._ways:
            _reset(way)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed is gone then

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await self._connect(client, back)
        except asyncio.CancelledError:
            """The way goes down."""
        finally:
            back.close()  # also where the server cannot be reached
            self._tasks.discard(task)

    async def _connect(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self._to_port)
        way = _Way(self, client, back, answers, server)
        self._ways |= {back, server}
        both = [asyncio.ensure_future(way.ask()), asyncio.ensure_future(way.answer())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for end in (back, server):
                end.close()
            self._ways -= {back, server}

    def fault_for(self, method: str, path: str, head: bytes) -> Fault:
        """Return the fault for a request that arrives."""
        self.seen.append((method, path))
        self._heads.append(head)
        for rule in self._rules:
            if rule.times and (not rule.methods or method in rule.methods) and self._dice.random() < rule.share:
                rule.times -= 1
                return rule.fault
        return Fault()


class _Way:
    """One connection of a client, and the proxy's own to the server."""

    def __init__(
        self,
        faults: FaultyWay,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self._faults = faults
        self._client = client
        self._back = back
        self._answers = answers
        self._server = server
        self._fault = Fault()
        self._passed = 0

    async def ask(self) -> None:
        while piece := await self._client.read(_PIECE):
            if begun := _REQUEST.match(piece):
                self._fault = self._faults.fault_for(begun[1].decode(), begun[2].decode(), piece)
                self._passed = 0
                self._back.write(self._fault.answer)
            if self._fault.reset:
                _reset(self._back)
            elif not (self._fault.silent or self._fault.answer):
                self._server.write(piece)
                await self._server.drain()
            if self._fault.bytes_taken_per_second:
                await asyncio.sleep(len(piece) / self._fault.bytes_taken_per_second)

    async def answer(self) -> None:
        while piece := await self._answers.read(self._fault.bytes_per_second or _PIECE):
            fault = self._fault
            if fault.bytes_per_second:
                await asyncio.sleep(len(piece) / fault.bytes_per_second)
            if fault.cut_after is not None:
                piece = piece[: fault.cut_after - self._passed]
            self._back.write(piece)
            await self._back.drain()
            self._passed += len(piece)
            if self._passed == fault.cut_after:
                return


class Wire(FaultyWay):
    """A proxy of plain bytes to a Unix socket: slow, cut, or stalled without either end noticing."""

    def __init__(self, to: Path) -> None:
        super().__init__(0)
        self._to = to
        #: Seconds that each piece takes, each way; and the share of pieces with which a connection is reset.
        self.delay = 0.0
        self.torn = 0.0
        self._is_cut = False
        self._dead: set[asyncio.StreamWriter] = set()

    def lead_to(self, to: Path) -> None:
        """Lead new connections to another server; the open ones stay."""
        self._to = to

    def die(self) -> None:
        """Stall the open connections. New connections work."""
        self._dead |= self._ways

    def cut(self) -> None:
        """Stall the open connections, and new ones."""
        self._is_cut = True
        self.die()

    def heal(self) -> None:
        """Let new connections work again; stalled ones stay stalled."""
        self.delay, self.torn, self._is_cut = 0.0, 0.0, False

    async def _connect(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_unix_connection(self._to)
        ends = {back, server}
        self._ways |= ends
        if self._is_cut:
            self._dead |= ends
        both = [asyncio.ensure_future(self._carry(client, server)), asyncio.ensure_future(self._carry(answers, back))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for end in ends:
                end.close()
            self._ways -= ends
            self._dead -= ends

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(_PIECE):
            if self.delay:
                await asyncio.sleep(self.delay)
            if sink in self._dead:
                continue
            if self._dice.random() < self.torn:
                _reset(sink)
                return
            sink.write(piece)
            await sink.drain()


def _reset(way: asyncio.StreamWriter) -> None:
    """Reset a connection, so that the other side sees an error."""
    connection = way.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    way.transport.abort()


@contextmanager
def faulty_way(to_port: int) -> Iterator[FaultyWay]:
    """Yield a proxy of a port."""
    way = FaultyWay(to_port)
    way.open()
    try:
        yield way
    finally:
        way.close()
