"""Serves the API with gunicorn: one process, many threads, so that held connections cost little."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from api.app import create_app
from api.connections.gthread_worker import SlowClientWorker
from api.connections.slow_client_socket import safe
from farm.auth.api_keys import ApiKeyStore, refuse_without_keys, wants_keys
from farm.bootstrap import build, reach
from farm.concurrency.periodic import PeriodicThread
from farm.jobstore import redis_keys
from farm.process.child import die_with_parent
from farm.settings import Settings

#: Threads are made when they are needed, and cost little while they wait.
THREADS = 720
#: Streams and waiting calls held open at a time; the rest of the threads stay free for short calls.
MOST_STREAMS = 200
MOST_HELD = 400
#: Connections at a time. One more, and whoever has been silent for longest is hung up on.
CONNECTIONS = 4000

#: So much of an answer waits in the kernel until its caller takes it, in bytes.
_UNSENT_BYTES = 512 * 1024

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


def bound_what_is_unsent(arbiter: Any) -> None:
    """Have the kernel keep no more of an answer than this: for hundreds who take theirs slowly it would gigabytes.

    The connections to come inherit it.
    """
    for listener in arbiter.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT_BYTES)


def close_after_a_broken_body(_worker: Any, request: Any) -> None:
    """gunicorn closes such a connection; this has it say so, too."""
    wishes_to_close = request.should_close
    request.should_close = lambda: request.body.failed or wishes_to_close()


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
            "worker_class": SlowClientWorker,
            "workers": 1,
            "threads": THREADS,
            "keepalive": 75,
            "timeout": 0,  # held connections are no sign of a hang
            "graceful_timeout": 5,
            "proc_name": "farm-api",
            "logger_class": "api.server.Log",
            "post_fork": lambda _arbiter, _worker: die_with_parent(arbiter),
            "worker_connections": CONNECTIONS,
            "when_ready": bound_what_is_unsent,
            "ssl_context": Contexts().context,
            "pre_request": close_after_a_broken_body,
            "forwarded_allow_ips": "",  # who is believed, FARM_PROXY_HOPS says
        }
        if self._address.tls:
            options["certfile"], options["keyfile"] = map(str, self._address.tls)
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        """Build the application, in the worker process: connections and threads do not survive a fork."""
        farm = build(self._settings, self._data_dir, listens=True)
        PeriodicThread(farm.service.reap).start()
        PeriodicThread(farm.sweeper.run_once).start()
        base = (self._settings.public_url or self._address.url).rstrip("/")
        farm.redis.set(redis_keys.PUBLIC_URL, base)
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


class Contexts:
    """What connections over TLS begin with, made once: gunicorn would read the certificate for each of them.

    A renewed certificate is shown from the next connection on.
    """

    def __init__(self) -> None:
        self._made: tuple[list[int], ssl.SSLContext] | None = None

    def context(self, options: Any, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """The context for the files that `options` name; `make` reads them."""
        changed = [Path(file).stat().st_mtime_ns for file in (options.certfile, options.keyfile)]
        if self._made is None or self._made[0] != changed:
            self._made = changed, safe(make())
        return self._made[1]


def serve(settings: Settings, address: Address, *, data_dir: Path) -> None:
    """Run the API until it is told to stop. Raises ConfigurationError for what would be unsafe."""
    # This process forks: it must not have the threads that a whole farm's parts bring.
    refuse_without_keys(settings, ApiKeyStore(reach(settings, data_dir)), address.host)
    open_as_many_files_as_allowed()
    Server(settings, address, data_dir=data_dir).run()


def open_as_many_files_as_allowed() -> None:
    """A call has its socket, and its thread one to Redis: more than the 1024 files that a shell allows at first."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
