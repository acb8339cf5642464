"""The allocator of the embedded Redis. Libraries of glibc stand for jemalloc, which not every machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.process.embedded_redis import EmbeddedRedis

JEMALLOC, OTHER = "libanl.so.1", "libBrokenLocale.so.1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path)
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("installed", "own", "loaded"),
    [
        pytest.param(JEMALLOC, None, {JEMALLOC}, id="jemalloc"),
        pytest.param(None, None, set(), id="none"),
        pytest.param(JEMALLOC, OTHER, {OTHER}, id="the operator's own"),
    ],
)
def test_redis_is_started_with_jemalloc_where_it_is_installed(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, installed: str | None, own: str | None, loaded: set[str]
) -> None:
    monkeypatch.setattr("farm.process.embedded_redis.find_library", {"jemalloc": installed}.get)
    if own:
        monkeypatch.setenv("LD_PRELOAD", own)

    server.start()

    assert server.process is not None
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text("utf-8")
    assert {library for library in (JEMALLOC, OTHER) if library in mapped} == loaded
