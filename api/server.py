"""Serves the API with gunicorn: one process, many threads, so that held connections cost little."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import flask
import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from api.app import create_app
from api.body import STALL_SECONDS
from farm.bootstrap import build, reach
from farm.callers import Callers, refuse_open_door, wants_keys
from farm.jobstore import keys
from farm.lifeline import die_with_parent
from farm.reaper import Reaper
from farm.settings import Settings

#: Threads are made when they are needed, and cost little while they wait.
THREADS = 720
#: Streams and waiting calls held open at a time; the rest of the threads stay free for short calls.
MOST_STREAMS = 200
MOST_HELD = 400


#: To listen here is to listen on every address of this machine, of which none is called so.
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not listened on

_log = structlog.get_logger(__name__)


class Log(Logger):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's lines in the farm's log."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002  # gunicorn's signature
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.error_log.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that a caller was cut off who stood still: hundreds might, each with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BlockingIOError | TimeoutError)


class _Said:
    """Stands in for a socket, to read what gunicorn would have answered."""

    def __init__(self) -> None:
        self.head = b""

    def gettimeout(self) -> float:
        return 0.0

    def setblocking(self, _yes: bool) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        self.head += data


def close_after_a_broken_body(_worker: Any, request: Any) -> None:
    """gunicorn closes such a connection; this has it say so, too."""
    wishes_to_close = request.should_close
    request.should_close = lambda: request.body.failed or wishes_to_close()


def give_up_who_stands_still(arbiter: Any) -> None:
    """Have the kernel cut off who sends or takes nothing for long: anybody could hold all threads so, without a key.

    The connections to come inherit it. Over TLS it has no effect on who sends nothing.
    """
    for listener in arbiter.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", STALL_SECONDS, 0))
        listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_SECONDS * 1000)


class Threads(ThreadWorker):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's threads, which answer in JSON even what is no HTTP, and do not stay for streams when asked to stop."""

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

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        said = _Said()
        super().handle_error(req, said, addr, exc)
        status_line = said.head.partition(b"\r\n")[0] or b"HTTP/1.1 500 Internal Server Error"
        message = f"The request could not be read: {exc}"[:300]
        status = int(status_line.split()[1])
        body = json.dumps({"code": status, "status": status, "message": message, "detail": message}).encode()
        head = f"Connection: close\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        with suppress(OSError):
            client.sendall(status_line + b"\r\n" + head.encode() + body)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API listens; with `tls` (certificate, private key) over HTTPS."""

    host: str
    port: int
    tls: tuple[Path, Path] | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self}"


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn with our options and no configuration file."""

    def __init__(self, settings: Settings, address: Address, *, data_dir: Path) -> None:
        self._settings = settings
        self._address = address
        self._data_dir = data_dir
        super().__init__()

    def load_config(self) -> None:
        arbiter = os.getpid()
        options: dict[str, Any] = {
            "bind": str(self._address),
            "worker_class": Threads,
            "workers": 1,
            "threads": THREADS,
            "keepalive": 75,
            "timeout": 0,  # held connections are no sign of a hang
            "graceful_timeout": 5,
            "proc_name": "farm-api",
            "logger_class": "api.server.Log",
            "post_fork": lambda _arbiter, _worker: die_with_parent(arbiter),
            "when_ready": give_up_who_stands_still,
            "pre_request": close_after_a_broken_body,
        }
        if self._address.tls:
            options["certfile"], options["keyfile"] = map(str, self._address.tls)
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        """Build the application, in the worker process: connections and threads do not survive a fork."""
        farm = build(self._settings, self._data_dir, listens=True)
        Reaper(farm.service.reap).start()
        Reaper(farm.sweeper.go_on).start()
        base = (self._settings.public_url or self._address.url).rstrip("/")
        farm.redis.set(keys.BASE, base)
        if self._address.host in _EVERYWHERE and not self._settings.public_url:
            _log.warning("callers are handed URLs that lead nowhere; set FARM_PUBLIC_URL", base=base)
        app = create_app(
            farm,
            base=base,
            with_keys=wants_keys(self._settings, self._address.host),
            most_streams=MOST_STREAMS,
            most_held=MOST_HELD,
        )
        # What is there now stays; the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        return app


def serve(settings: Settings, address: Address, *, data_dir: Path) -> None:
    """Run the API until it is told to stop. Raises ConfigurationError for what would be unsafe."""
    # This process forks: it must not have the threads that a whole farm's parts bring.
    refuse_open_door(settings, Callers(reach(settings, data_dir)), address.host)
    open_as_many_files_as_allowed()
    Server(settings, address, data_dir=data_dir).run()


def open_as_many_files_as_allowed() -> None:
    """A call has its socket, and its thread one to Redis: more than the 1024 files that a shell allows at first."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
