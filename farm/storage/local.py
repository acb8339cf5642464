"""Picture storage in a folder: whole files or none, on disk before anybody is told, under names nobody can guess."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from farm.errors import StorageError

#: A key is `{job}-{fence}-{number}-{random}.{extension}`. The fence keeps a late loser from overwriting the winner.
_KEY = re.compile(r"([0-9a-f-]{36})-\d+-\d+-[0-9a-f]{16}\.(jpeg|png)")


def new_key(job_id: str, fence: int, number: int, extension: str) -> str:
    """A new name for one picture of a job."""
    return f"{job_id}-{fence}-{number}-{secrets.token_hex(8)}.{extension}"


class LocalStorage:
    """Pictures as files in 256 folders below `root`, chosen by the first two digits of the job's id."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key`. Raises StorageError; then nothing is there under that name."""
        if not _KEY.fullmatch(key):
            raise StorageError(f"'{key}' is no name for a picture.")
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_through(temporary, content)
            temporary.rename(path)
            _sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StorageError(f"The picture could not be written to {self._root}: {error.strerror}") from error

    def find(self, key: str) -> Path | None:
        """The file under `key`, or None; also None for what is no key at all."""
        if not _KEY.fullmatch(key):
            return None
        path = self._path(key)
        return path if path.is_file() else None

    def delete_job(self, job_id: str) -> None:
        """Remove every picture of a job, those of attempts that lost included. Raises StorageError."""
        try:
            for path in (self._root / job_id[:2]).glob(f"*{job_id}-*"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"The pictures in {self._root} could not be removed: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key


def _write_through(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename in the folder last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
