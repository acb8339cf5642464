"""Fixtures: a real Redis for each run of the tests, emptied for each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trustme

from farm.bootstrap import Farm, build
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import Settings
from tests.farms import Certificate, empty, folder_in_memory
from tests.library_caches import library_caches
from tests.s3 import S3, running_s3

#: Seconds for a long test that names no limit of its own.
_LONG = 1200


def pytest_configure() -> None:
    """Have farms of tests end by the signals that `nohup` and shells in the background have their children ignore."""
    for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_chaos.py")  # the longest one goes first
    for item in items:
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_LONG))


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("FARM_")]:
        del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def plain_tracebacks() -> None:
    """Log plain tracebacks: structlog's rich ones take so long to render that leases run out meanwhile."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


@pytest.fixture(autouse=True, scope="session")
def cached_libraries() -> Iterator[None]:
    with library_caches():
        yield


@pytest.fixture(autouse=True)
def log_of_this_test(plain_tracebacks: None) -> Iterator[None]:
    """Set up the log again after a test that ran a command, which leaves out what is no warning."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def redis_dir() -> Iterator[Path]:
    """Yield a data folder whose embedded Redis runs."""
    with folder_in_memory() as data_dir:
        server = EmbeddedRedis(data_dir)
        server.start()
        yield data_dir
        server.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """Yield a real S3 server."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def farm(redis_dir: Path) -> Farm:
    """Return the parts of a farm on an empty job store, with short terms."""
    parts = build(Settings(lease_seconds=1, queue_limit=1000), redis_dir, listens=True)
    empty(parts.redis)
    return parts


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Return the certificate of a farm over HTTPS."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate = Certificate(folder / "chain.pem", folder / "key.pem", folder / "authority.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate.chain, append=number > 0)
    issued.private_key_pem.write_to_path(certificate.key)
    authority.cert_pem.write_to_path(certificate.authority)
    return certificate


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread, as the miniature does: threads that wait for each other make tests slow on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
