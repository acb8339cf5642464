"""Fixtures: a real Redis for each run of the tests, emptied for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.bootstrap import Farm, build
from farm.embedded import EmbeddedRedis
from farm.settings import Settings


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("FARM_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def redis_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder whose embedded Redis runs."""
    data_dir = tmp_path_factory.mktemp("farm")
    server = EmbeddedRedis(data_dir)
    server.start()
    yield data_dir
    server.stop()


@pytest.fixture
def farm(redis_dir: Path) -> Farm:
    """The parts of a farm on an empty job store, with short terms."""
    parts = build(Settings(lease_seconds=1, queue_limit=1000), redis_dir, listens=True)
    parts.redis.flushall()
    return parts
