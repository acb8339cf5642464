"""Fixtures: a real Redis for each run of the tests, emptied for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from farm.bootstrap import Farm, build
from farm.embedded import EmbeddedRedis
from farm.settings import Settings
from tests.farms import folder_in_memory
from tests.s3 import S3, running_s3


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("FARM_")]:
        del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def plain_tracebacks() -> None:
    """Those that structlog paints when nobody says otherwise take so long that leases run out meanwhile."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


@pytest.fixture(scope="session")
def redis_dir() -> Iterator[Path]:
    """A data folder whose embedded Redis runs."""
    with folder_in_memory() as data_dir:
        server = EmbeddedRedis(data_dir)
        server.start()
        yield data_dir
        server.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def farm(redis_dir: Path) -> Farm:
    """The parts of a farm on an empty job store, with short terms."""
    parts = build(Settings(lease_seconds=1, queue_limit=1000), redis_dir, listens=True)
    parts.redis.flushall()
    return parts
