"""Backup and restore of the embedded Redis: a copy of its append-only files, while it runs or not.

Redis appends to these files, and replaces them only when it rewrites them. So a copy without a rewrite is all that was
written up to some moment of the copying; a last command that is cut off is dropped when the copy is loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from farm import clock
from farm.domain.errors import ConfigurationError
from farm.jobstore.connection import connect, translated
from farm.process import embedded_redis
from farm.process.data_dir import DataDir

_FILES = "appendonlydir"
_REWRITE_AT = "auto-aof-rewrite-percentage"
#: How long a rewrite that is under way may take, in seconds.
_REWRITE_SECONDS = 600.0


def back_up(data_dir: Path, folder: Path) -> None:
    """Copy the append-only files of a data folder to a new folder. Raises ConfigurationError."""
    files = data_dir / "redis" / _FILES
    if not files.is_dir():
        raise ConfigurationError(f"There is nothing to back up: {data_dir} has no embedded Redis; see --data-dir")
    if folder.exists():
        raise ConfigurationError(f"{folder} exists already; name a new folder")
    lock = DataDir(data_dir)
    if lock.try_acquire():
        try:
            _copy(files, folder / _FILES)
        finally:
            lock.release()
        return
    with _without_rewrites(data_dir):
        _copy(files, folder / _FILES)


def restore(folder: Path, data_dir: Path) -> None:
    """Copy a backup to a data folder that has no embedded Redis yet. Raises ConfigurationError."""
    if not (folder / _FILES).is_dir():
        raise ConfigurationError(f"{folder} is not a backup: it has no folder {_FILES}")
    lock = DataDir(data_dir)
    lock.acquire()
    try:
        files = lock.path / "redis" / _FILES
        if files.exists():
            raise ConfigurationError(f"{data_dir} has a Redis already; restore to another folder with --data-dir")
        _copy(folder / _FILES, files)
    finally:
        lock.release()


@contextmanager
def _without_rewrites(data_dir: Path) -> Iterator[None]:
    """Keep the running Redis of a data folder from replacing its files meanwhile."""
    url = embedded_redis.address(data_dir)
    assert url is not None, "a farm runs there"
    client = connect(url)
    with translated():
        before = str(client.config_get(_REWRITE_AT)[_REWRITE_AT])
        client.config_set(_REWRITE_AT, "0")
        try:
            _wait_for_rewrite(client)
            yield
        finally:
            client.config_set(_REWRITE_AT, before)


def _wait_for_rewrite(client: redis.Redis) -> None:
    until = clock.monotonic() + _REWRITE_SECONDS
    while clock.monotonic() < until:
        state = client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            return
        clock.pause(0.1)
    raise ConfigurationError("Redis has been rewriting its append-only file for ten minutes; try again later")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder so that it is there whole or not at all. Raises ConfigurationError."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(source, part)
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # it is not empty, or was never made
            part.parent.rmdir()
        raise ConfigurationError(f"{part.parent} cannot be written: {_reason(error)}; name another folder") from error


def _reason(error: OSError) -> str:
    """Return why a copy failed; of several files, why the first one did."""
    if not isinstance(error, shutil.Error):
        return str(error.strerror)
    _source, _target, text = error.args[0][0]
    return str(text).partition("] ")[2].partition(": ")[0]
