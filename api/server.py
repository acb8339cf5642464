"""Serves the API with gunicorn: one process, many threads, so that held connections cost little."""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from api.app import create_app
from api.auth import is_loopback
from farm.bootstrap import build, reach
from farm.callers import Callers
from farm.errors import ConfigurationError
from farm.lifeline import die_with_parent
from farm.reaper import Reaper
from farm.settings import Settings

THREADS = 256
#: Streams held open at a time; the rest of the threads stay free for short calls.
MOST_STREAMS = 200


class Log(Logger):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's lines in the farm's log."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002  # gunicorn's signature
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


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


class Threads(ThreadWorker):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's threads, which answer in JSON even what is no HTTP."""

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
        }
        if self._address.tls:
            options["certfile"], options["keyfile"] = map(str, self._address.tls)
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        """Build the application, in the worker process: connections and threads do not survive a fork."""
        farm = build(self._settings, self._data_dir, listens=True)
        Reaper(farm.service).start()
        app = create_app(
            farm,
            base=(self._settings.public_url or self._address.url).rstrip("/"),
            with_keys=wants_keys(self._settings, self._address.host),
            most_streams=MOST_STREAMS,
        )
        # What is there now stays; the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        return app


def serve(settings: Settings, address: Address, *, data_dir: Path) -> None:
    """Run the API until it is told to stop. Raises ConfigurationError for what would be unsafe."""
    # This process forks: it must not have the threads that a whole farm's parts bring.
    check(settings, Callers(reach(settings, data_dir)), address.host)
    Server(settings, address, data_dir=data_dir).run()


def check(settings: Settings, callers: Callers, host: str) -> None:
    """Refuse to listen beyond this machine without keys."""
    if is_loopback(host):
        return
    if settings.auth == "off":
        raise ConfigurationError(f"FARM_AUTH=off is for loopback only, not for {host}; leave it unset")
    if not callers.all():
        raise ConfigurationError(f"No API key exists, so nobody could call {host}; run `farm keys create NAME` first")


def wants_keys(settings: Settings, host: str) -> bool:
    """Keys are asked for everywhere but on loopback, unless FARM_AUTH says otherwise."""
    return settings.auth == "keys" or (settings.auth is None and not is_loopback(host))
