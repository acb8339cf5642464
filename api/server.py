"""The API server: gunicorn with one process and many threads, so that waiting connections cost little."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import flask
import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer

from api.app import create_app
from api.connections import hooks
from api.connections.gthread_worker import SlowClientWorker
from farm.auth.api_keys import ApiKeyStore, refuse_without_keys, wants_keys
from farm.bootstrap import Farm, build, reach, say_if_storage_fails
from farm.concurrency.periodic import PeriodicThread
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.jobstore import redis_keys
from farm.jobstore.peers import leave
from farm.jobstore.reading import CallerReading
from farm.printable import say
from farm.process.child import EXIT_CONFIG, die_with_parent
from farm.process.listen import CHOOSE_ANOTHER, ListenAddress, listening_error
from farm.process.signals import stop_signals
from farm.process.tls import check_tls, validity_problem
from farm.settings import Settings
from farm.telemetry import port
from farm.telemetry.caller_metrics import CallerCollector
from farm.tracing import tracer

#: Most threads. They are started on demand, and cost little while they wait.
THREADS = 720
#: Streams and blocking calls at a time; the remaining threads are left for short calls.
MAX_STREAMS = 200
MAX_HELD_CALLS = 400
#: Connections at a time. When one more comes, the one that has been idle for longest is closed.
MAX_CONNECTIONS = 4000

_log = structlog.get_logger(__name__)


class SingleProcessArbiter(Arbiter):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's arbiter, without the signals that reload it or change the number of its processes.

    SIGHUP, from a terminal that was closed, drains like SIGTERM, unless it was ignored at the start (`nohup`).
    """

    APP_LOAD_ERROR = EXIT_CONFIG

    def __init__(self, app: BaseApplication) -> None:
        self._hears_hangups = signal.SIGHUP in stop_signals()
        super().__init__(app)

    def handle_hup(self) -> None:
        if self._hears_hangups:
            self.handle_term()

    def stop(self, graceful: bool = True) -> None:
        """Stop, also if the application cannot be loaded meanwhile: its reason has been logged."""
        with suppress(HaltServer):
            super().stop(graceful)

    def handle_ttin(self) -> None:
        """Do nothing: a second process would have limits, slots and streams of its own."""

    handle_ttou = handle_usr2 = handle_ttin


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn with the farm's options and without a configuration file."""

    def __init__(self, settings: Settings, address: ListenAddress, *, data_dir: Path) -> None:
        self._settings = settings
        self._address = address
        self._data_dir = data_dir
        self._farm: Farm | None = None
        super().__init__()

    def run(self) -> None:
        SingleProcessArbiter(self).run()

    def load_config(self) -> None:
        arbiter = os.getpid()
        options: dict[str, Any] = {
            "bind": str(self._address),
            "worker_class": SlowClientWorker,
            "workers": 1,
            "threads": THREADS,
            "keepalive": 75,
            "timeout": 0,  # a long wait is not a hang
            "graceful_timeout": 5,
            "proc_name": "farm-api",
            "logger_class": "api.connections.hooks.Log",
            "control_socket_disable": True,  # it lies in the user's home, and can add processes
            "post_fork": lambda _arbiter, _worker: die_with_parent(arbiter),
            "post_worker_init": hooks.leave_hangups_to_the_arbiter,
            "worker_connections": MAX_CONNECTIONS,
            "when_ready": hooks.limit_send_buffers,
            "ssl_context": hooks.TlsContexts().context,
            "pre_request": hooks.close_after_broken_body,
            "worker_exit": lambda _arbiter, _worker: self._flush(),
            "forwarded_allow_ips": "",  # FARM_PROXY_HOPS decides which proxies are trusted
        }
        if self._address.tls:
            options["certfile"], options["keyfile"] = map(str, self._address.tls)
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        """Build the application, in the worker process: connections and threads do not survive a fork."""
        try:
            return self._load()
        except ConfigurationError as error:
            raise AppImportError(f"farm api: {with_detail(error)}") from error
        except FarmError as error:  # it may pass: who started this process may start it again
            say(f"farm api: {with_detail(error)}", file=sys.stderr)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _serve_metrics(self, farm: Farm, app: flask.Flask) -> None:
        """Serve what `/metrics` has, and figures of callers if they are wanted, at a port of its own."""
        callers = [CallerCollector(partial(CallerReading.of, farm.redis))] if self._settings.metrics_callers else []
        port.serve(self._settings, port.Others(app.extensions["metrics"]), *callers)

    def _flush(self) -> None:
        """Hand in what this process has counted and traced."""
        tracer.close()
        if self._farm:
            with suppress(FarmError):  # the last counts of this process are lost then
                self._farm.tally.flush()
                leave(self._farm.redis)

    def _load(self) -> flask.Flask:
        tracer.set_up(service="api")
        farm = build(self._settings, self._data_dir, listens=True)
        say_if_storage_fails(farm.storage, farm.ownership)
        self._farm = farm
        peers = farm.peers("api")
        peers.join()
        PeriodicThread(farm.service.reap, farm.tally.flush_when_due, peers.announce_when_due).start()
        PeriodicThread(farm.sweeper.run_once).start()
        public_url, with_keys = self._settings.public_url, wants_keys(self._settings, self._address.host)
        farm.redis.set(redis_keys.PUBLIC_URL, public_url or self._address.listening_url)
        app = create_app(
            farm,
            base=(public_url or self._address.url).rstrip("/"),
            with_keys=with_keys,
            host_decides=with_keys and public_url is None,
            max_streams=MAX_STREAMS,
            max_held_calls=MAX_HELD_CALLS,
        )
        self._serve_metrics(farm, app)
        # What exists now stays: the garbage collector need not scan it again and again.
        gc.collect()
        gc.freeze()
        return app


def serve(settings: Settings, address: ListenAddress, *, data_dir: Path) -> None:
    """Run the API until it is told to stop. Raises ConfigurationError for unsafe settings and unusable TLS files."""
    if address.tls:
        check_tls(*address.tls)
        if problem := validity_problem(address.tls[0]):
            _log.warning(problem)
    tracer.check()
    error = listening_error(address.host, address.port)
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        raise ConfigurationError(f"cannot listen on {address}: {error.strerror}; {CHOOSE_ANOTHER}")
    # This process forks: it must not have the threads that building the whole farm would start.
    refuse_without_keys(settings, ApiKeyStore(reach(settings, data_dir)), address.host)
    raise_open_files_limit()
    Server(settings, address, data_dir=data_dir).run()


def raise_open_files_limit() -> None:
    """Raise the limit on open files to what is allowed: connections and threads need more than a shell's 1024."""
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
