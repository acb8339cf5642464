"""`farm up`, `farm api` and `farm worker`: start the processes of a farm."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import urllib3

from farm.domain.errors import ConfigurationError, StoreUnavailable
from farm.jobstore.connection import connect
from farm.jobstore.stats import StoreStats
from farm.printable import say
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis
from farm.process.supervisor import API_GRACE_SECONDS, Child, Supervisor
from farm.settings import load
from farm.telemetry import set_up_log

#: A keep-alive connection would delay the API's shutdown by two seconds.
_ONCE = {"Connection": "close"}

Host = Annotated[str, typer.Option(help="Address to listen on. Any but loopback requires API keys.")]
Port = Annotated[int, typer.Option(help="Port to listen on.")]
DataFolder = Annotated[Path, typer.Option("--data-dir", help="Folder for all data: Redis, images, uploads.")]
Certificate = Annotated[Path | None, typer.Option("--tls-cert", help="TLS certificate (PEM), to serve HTTPS.")]
PrivateKey = Annotated[Path | None, typer.Option("--tls-key", help="Private key of the certificate (PEM).")]


def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Number of render workers.")] = 1,
    data_dir: DataFolder = Path(".farm"),
    tls_cert: Certificate = None,
    tls_key: PrivateKey = None,
) -> None:
    """Run a whole farm on this machine until Ctrl-C.

    Starts Redis if FARM_REDIS_URL is not set, the API, render workers and a
    webhook worker, and restarts any that dies.
    """
    settings = load()
    set_up_log(settings.log)
    folder = DataDir(data_dir)
    folder.acquire()
    refuse_taken_port(host, port)
    server = None if settings.redis_url else EmbeddedRedis(folder.path, fsync=settings.redis_fsync)
    url = settings.redis_url or (server.url if server else "")
    address = f"{'https' if tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    farm = Supervisor(
        server,
        api=Child("API", api_program(host, port, folder.path, tls_cert, tls_key), grace_seconds=API_GRACE_SECONDS),
        workers=[
            *(
                Child(
                    f"worker {number}",
                    worker_program(folder.path),
                    grace_seconds=settings.grace_seconds,
                    was_drained=lambda pid: is_dismissed(url, pid),
                )
                for number in range(1, workers + 1)
            ),
            Child("webhook worker", webhook_program(folder.path), grace_seconds=settings.grace_seconds),
        ],
    )
    try:
        farm.run(
            lambda: api_answers(address) and has_warm_worker(url),
            lambda: say(f"farm ready: {address}"),
        )
    finally:
        folder.release()


def api(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: DataFolder = Path(".farm"),
    tls_cert: Certificate = None,
    tls_key: PrivateKey = None,
) -> None:
    """Run only the API.

    Uses the Redis of FARM_REDIS_URL, or of the farm in --data-dir.
    """
    program = api_program(host, port, data_dir, tls_cert, tls_key)
    os.execv(program[0], program)


def worker(
    data_dir: DataFolder = Path(".farm"),
    webhooks: Annotated[
        bool, typer.Option("--webhooks", help="Deliver webhooks and prepare inputs instead of rendering.")
    ] = False,
) -> None:
    """Run only one render worker, or one webhook worker.

    Uses the Redis of FARM_REDIS_URL, or of the farm in --data-dir.
    """
    program = webhook_program(data_dir) if webhooks else worker_program(data_dir)
    os.execv(program[0], program)


def api_program(host: str, port: int, data_dir: Path, cert: Path | None, key: Path | None) -> list[str]:
    program = [sys.executable, "-m", "api", "--host", host, "--port", str(port), "--data-dir", str(data_dir)]
    if cert and key:
        program += ["--tls-cert", str(cert), "--tls-key", str(key)]
    elif cert or key:
        raise ConfigurationError("HTTPS needs both --tls-cert and --tls-key.")
    return program


def worker_program(data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "workers", "--data-dir", str(data_dir)]


def webhook_program(data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "workers.background", "--data-dir", str(data_dir)]


def refuse_taken_port(host: str, port: int) -> None:
    """Raise ConfigurationError if the port cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"--port: cannot listen on {host}:{port} ({error.strerror}); choose another port"
            ) from error


def api_answers(address: str) -> bool:
    """Return True if the API is ready."""
    try:
        # Its certificate may be for another name than this address.
        return urllib3.request("GET", f"{address}/readyz", timeout=2, retries=False, headers=_ONCE).status == 200
    except urllib3.exceptions.SSLError:
        return True
    except urllib3.exceptions.HTTPError:
        return False


def is_dismissed(url: str, pid: int) -> bool:
    """Return True if the worker of this process was drained with `farm workers drain`."""
    try:
        return StoreStats(connect(url)).is_dismissed(socket.gethostname(), pid)
    except StoreUnavailable:
        return False


def has_warm_worker(url: str) -> bool:
    """Return True if any worker has loaded its model."""
    try:
        return any(worker.facts.get("state") == "warm" for worker in StoreStats(connect(url)).workers())
    except StoreUnavailable:
        return False
