"""`farm up`, `farm api` and `farm worker`: start the processes of a farm."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import redis
import structlog
import typer
import urllib3

from farm.bootstrap import check_values, job_store, redis_url, storage_for
from farm.doctor.start import refuse_unusable_weights
from farm.domain.errors import ConfigurationError, StoreUnavailable, with_detail
from farm.jobstore.connection import check, connect
from farm.jobstore.stats import StoreStats, Worker
from farm.printable import announce
from farm.process import child
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis
from farm.process.listen import CHOOSE_ANOTHER, ListenAddress, listening_error
from farm.process.placement import Place, buffers_kept, places
from farm.process.supervisor import API_GRACE_SECONDS, Child, Supervisor, run_worker
from farm.process.tls import check_tls
from farm.process.worker_deaths import WorkerDeaths
from farm.settings import Settings, environment, load, masked
from farm.telemetry.log import set_up_log

#: A keep-alive connection would delay the API's shutdown by two seconds.
_ONCE = {"Connection": "close"}

_log = structlog.get_logger(__name__)

Host = Annotated[str, typer.Option(help="Address to listen on. Any but loopback requires API keys.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
DataFolder = Annotated[Path, typer.Option("--data-dir", help="Folder for all data: Redis, images, uploads.")]
Certificate = Annotated[Path | None, typer.Option("--tls-cert", help="TLS certificate (PEM), to serve HTTPS.")]
PrivateKey = Annotated[Path | None, typer.Option("--tls-key", help="Private key of the certificate (PEM).")]


#: Most render workers of one `farm up`.
_MAX_WORKERS = 1024


def _number_of_workers(value: str) -> int | None:
    """Return the number that --workers names; None for `auto`."""
    if value == "auto":
        return None
    if value.isdecimal() and len(value) <= len(str(_MAX_WORKERS)) and 1 <= int(value) <= _MAX_WORKERS:
        return int(value)
    raise typer.BadParameter(f"'{value[:40]}' is neither auto nor a whole number from 1 to {_MAX_WORKERS}.")


Workers = Annotated[
    int | None,
    typer.Option(
        parser=_number_of_workers,
        metavar="[auto|N]",
        help="Number of render workers. auto (default): one per card; without a card one per core, as memory allows.",
    ),
]


def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = None,
    data_dir: DataFolder = Path(".farm"),
    tls_cert: Certificate = None,
    tls_key: PrivateKey = None,
) -> None:
    """Run a whole farm on this machine until Ctrl-C.

    Starts Redis if FARM_REDIS_URL is not set, the API, render workers and a
    webhook worker, and restarts any that dies.
    """
    settings = load()
    set_up_log(settings.log, service="supervisor")
    address = _address(host, port, tls_cert, tls_key)
    check_values(settings)
    storage_for(settings, data_dir).close()
    refuse_unusable_weights(settings)
    check_own_redis(settings)
    folder = DataDir(data_dir)
    folder.acquire()
    try:
        _supervise(settings, folder.path, address, places(settings, workers))
    finally:
        folder.release()


def _supervise(settings: Settings, data_dir: Path, address: ListenAddress, workers: Sequence[Place]) -> None:
    """Run the processes of a farm until it is told to stop. Raises ConfigurationError if one of them cannot start."""
    refuse_unusable_address(address)
    server = None if settings.redis_url else EmbeddedRedis(data_dir, fsync=settings.redis_fsync)
    url = settings.redis_url or (server.url if server else "")
    client = connect(url)
    stats, deaths = StoreStats(client), worker_deaths(settings, client)
    farm = Supervisor(
        server,
        deaths=deaths,
        api=Child("API", api_program(address, data_dir), grace_seconds=API_GRACE_SECONDS),
        workers=[
            *(
                Child(
                    place.label(number),
                    [*worker_program(data_dir), *place.options],
                    grace_seconds=settings.grace_seconds,
                    variables=place.environment | _of_rendering(settings, data_dir),
                    was_drained=lambda pid: is_dismissed(stats, pid),
                    on_death=deaths.add,
                )
                for number, place in enumerate(workers, start=1)
            ),
            Child(
                "webhook worker",
                webhook_program(data_dir),
                grace_seconds=settings.grace_seconds,
                on_death=deaths.add,
            ),
        ],
    )
    report = StartReport()
    farm.run(
        lambda: has_warm_worker(stats, report) and api_answers(address.url),
        lambda: announce(f"farm ready: {address.url}"),
    )


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
    program = api_program(_address(host, port, tls_cert, tls_key), data_dir)
    os.execv(program[0], program)


def worker(
    data_dir: DataFolder = Path(".farm"),
    webhooks: Annotated[
        bool, typer.Option("--webhooks", help="Deliver webhooks and prepare inputs instead of rendering.")
    ] = False,
) -> int:
    """Run only one render worker, or one webhook worker.

    Uses the Redis of FARM_REDIS_URL, or of the farm in --data-dir.
    """
    settings = load()
    if webhooks:
        return run_watched(settings, data_dir, webhook_program(data_dir), {})
    return run_watched(settings, data_dir, worker_program(data_dir), _of_rendering(settings, data_dir))


def run_watched(settings: Settings, data_dir: Path, program: list[str], variables: Mapping[str, str]) -> int:
    """Run one worker below this process, which sees how it ends, and return its exit status."""
    set_up_log(settings.log, service="supervisor")
    deaths = worker_deaths(settings, connect(redis_url(settings, data_dir)))
    return run_worker(
        Child(
            "worker",
            program,
            grace_seconds=settings.grace_seconds,
            variables=variables,
            on_death=deaths.add,
        ),
        deaths,
    )


def worker_deaths(settings: Settings, client: redis.Redis) -> WorkerDeaths:
    """Return what tells the job store in this Redis that a worker died."""
    return WorkerDeaths(job_store(settings, client).worker_died)


def _address(host: str, port: int, cert: Path | None, key: Path | None) -> ListenAddress:
    """Return the address to listen on. Raises ConfigurationError for a certificate or key that cannot be used."""
    check_tls(cert, key)
    return ListenAddress(host, port, (cert, key) if cert and key else None)


def check_own_redis(settings: Settings) -> None:
    """Raise ConfigurationError if the Redis of FARM_REDIS_URL cannot serve a farm; one that is away is waited for."""
    if settings.redis_url is None:
        return
    try:
        check(connect(settings.redis_url), unsafe=settings.redis_unsafe)
    except StoreUnavailable as error:
        _log.warning("waiting for Redis", reason=masked(with_detail(error)))


def api_program(address: ListenAddress, data_dir: Path) -> list[str]:
    return child.module("api", *address.options, "--data-dir", str(data_dir))


def worker_program(data_dir: Path) -> list[str]:
    return child.module("workers", "--data-dir", str(data_dir))


def _of_rendering(settings: Settings, data_dir: Path) -> dict[str, str]:
    """Return the variables of every render worker of this data folder."""
    return kernels_kept(data_dir) | buffers_kept(settings)


def kernels_kept(data_dir: Path) -> dict[str, str]:
    """Return the variable by which torch keeps compiled kernels in the data folder, if no other folder is set."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    return {name: environment().get(name) or str(data_dir.resolve() / "kernels")}


def webhook_program(data_dir: Path) -> list[str]:
    return child.module("workers.background", "--data-dir", str(data_dir))


def refuse_unusable_address(address: ListenAddress) -> None:
    """Raise ConfigurationError if nothing can listen on the address."""
    if error := listening_error(address.host, address.port):
        raise ConfigurationError(f"cannot listen on {address}: {error.strerror}; {CHOOSE_ANOTHER}") from error


def api_answers(address: str) -> bool:
    """Return True if the API is ready."""
    try:
        # Its certificate may be for another name than this address.
        return urllib3.request("GET", f"{address}/readyz", timeout=2, retries=False, headers=_ONCE).status == 200
    except urllib3.exceptions.SSLError:
        return True
    except urllib3.exceptions.HTTPError:
        return False


def is_dismissed(stats: StoreStats, pid: int) -> bool:
    """Return True if the worker of this process was drained with `farm workers drain`."""
    try:
        return stats.is_dismissed(socket.gethostname(), pid)
    except StoreUnavailable:
        return False


class StartReport:
    """Says on stderr what each worker does until the farm is ready, each thing once."""

    def __init__(self) -> None:
        self._shown_lines: set[str] = set()

    def tell(self, workers: Iterable[Worker]) -> None:
        for worker in workers:
            line = start_line(worker)
            if line not in self._shown_lines:
                self._shown_lines.add(line)
                announce(line, file=sys.stderr)


def start_line(worker: Worker) -> str:
    """Return what a worker is doing, in one line."""
    facts = worker.facts
    doing = "loading {} weights on {} …" if facts.get("state") == "loading" else "{} weights on {}: {state}"
    return f"worker {worker.id}: " + doing.format(
        facts.get("weights", "its"), facts.get("device", "its device"), state=facts.get("state")
    )


def has_warm_worker(stats: StoreStats, report: StartReport) -> bool:
    """Return True if any worker has loaded its model; tell `report` what they all do."""
    try:
        workers = stats.workers()
    except StoreUnavailable:
        return False
    report.tell(workers)
    return any(worker.facts.get("state") == "warm" for worker in workers)
