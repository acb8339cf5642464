"""The append-only file (AOF) of the embedded Redis: repaired before it starts, and synced while it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from farm.concurrency.background_thread import BackgroundThread

_INTERVAL_SECONDS = 1.0
_BLOCK_BYTES = 64 * 1024
#: The file that lists the append-only files.
MANIFEST = "appendonly.aof.manifest"
#: Most bytes of a file of a server that has never held anything.
_EMPTY_BYTES = 256

_log = structlog.get_logger(__name__)


class AofSyncThread:
    """Syncs the append-only file of Redis to the disk once a second, in a thread, in place of Redis itself.

    Redis' own `appendfsync everysec` holds a write back while a sync is under way, for up to two seconds, and answers
    all the same (`flushAppendOnlyFile` in its aof.c): killed then, it has lost what it has accepted. With
    `appendfsync no` it writes before each answer, and what is written outlives it.
    """

    def __init__(self, folder: Path) -> None:
        """Watch `folder`, the data folder of Redis."""
        self._folder = folder
        self._thread = BackgroundThread("aof sync", self._sync, pause=lambda: _INTERVAL_SECONDS)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and sync a last time."""
        self._thread.close()
        self._sync()

    def _sync(self) -> None:
        try:
            sync(self._folder)
        except OSError as error:
            _log.error("append-only file of redis not synced", folder=str(self._folder), error=str(error))


def sync(folder: Path) -> None:
    """Sync the incremental append-only files to the disk; Redis syncs its other files. Raises OSError."""
    for file in _files(folder, "*.incr.aof"):
        # Redis may remove an old one at any moment.
        with suppress(FileNotFoundError):
            _sync_file(file)


def manifest(folder: Path) -> Path:
    """Return the file that lists the append-only files of a server's folder."""
    return folder / "appendonlydir" / MANIFEST


def aof_problem(folder: Path) -> str | None:
    """Return why Redis cannot start in its folder, or would start empty: files that lack the manifest that lists them.

    Files of an empty server do not count: it may have been killed before it wrote its first manifest.
    """
    if folder.exists() and not folder.is_dir():
        return f"{folder} is not a folder, and Redis keeps its files there; move it away"
    found = (*_files(folder, "*.aof"), *_files(folder, "*.rdb"))
    files = sorted(path.name for path in found if path.stat().st_size > _EMPTY_BYTES)
    if manifest(folder).exists() or not files:
        return None
    return (
        f"The manifest {manifest(folder)} is missing, without which Redis would start empty beside {', '.join(files)}; "
        "restore it from a backup, or move that folder away to start without its jobs"
    )


def truncate_trailing_zeros(folder: Path) -> None:
    """Truncate zeros at the end of the append-only files, with which Redis would not start.

    Some file systems leave zeros after a power cut, in place of bytes that were not written yet. No command ends with
    one. A command that is cut off then, Redis drops by itself.
    """
    for file in _files(folder, "*.aof"):
        _truncate_zeros(file)


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    return (folder / "appendonlydir").glob(pattern)


def _sync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _truncate_zeros(file: Path) -> None:
    with file.open("r+b") as content:
        start = end = content.seek(0, os.SEEK_END)
        while start > 0 and end == start:
            start = max(0, end - _BLOCK_BYTES)
            content.seek(start)
            end = start + len(content.read(end - start).rstrip(b"\0"))
        content.truncate(end)
