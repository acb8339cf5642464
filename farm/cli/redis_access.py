"""Access to a farm's Redis for commands that need no API, whether or not the farm runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from farm.bootstrap import redis_url
from farm.jobstore.connection import connect
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import Settings


@contextmanager
def redis_of(settings: Settings, data_dir: Path) -> Iterator[redis.Redis]:
    """Yield a connection to the farm's Redis. Start the embedded one for the time if no farm runs."""
    folder = DataDir(data_dir)
    if settings.redis_url or not folder.try_acquire():
        yield connect(redis_url(settings, folder.path))
        return
    server = EmbeddedRedis(folder.path, fsync=settings.redis_fsync)
    try:
        server.start()
        yield connect(server.url)
    finally:
        server.stop()
        folder.release()
