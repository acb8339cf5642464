"""Image storage in a local folder: atomic, synced to disk before `put` returns, under unguessable names."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from farm import clock
from farm.domain.errors import NotFound, StorageError, StorageUnavailable
from farm.storage.storage import Chunks, Entry, Page, StoredFile, farm_of_mark, mark_of, parse_key

#: Transient errors: a full or faulty disk, a file server that is away. A later retry may succeed.
_TRANSIENT = {
    errno.EAGAIN,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EROFS,
    errno.ESTALE,
}
#: A temporary file: an image that is being written, or was when its writer died.
_PART = re.compile(r"\.(.+?)(?:\.[0-9a-f]{8})?\.part")


class LocalStorage:
    """Images as files in 256 folders below `root`, chosen by the first two digits of the job's id."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> str:
        return f"{socket.gethostname()}:{self._root.resolve()}"

    def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key`. On failure nothing is left under that key."""
        self.put_file(key, io.BytesIO(content))

    def put_file(self, key: str, file: BinaryIO) -> None:
        if not parse_key(key):
            raise StorageError(f"'{key}' is not a storage key.")
        path = self._path(key)
        # A temporary name of its own: a caller may send a file again while it is being stored.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with self._translated("could not be written to"):
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write_through(temporary, file)
                temporary.rename(path)
                _sync_folder(path.parent)
            except OSError:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

    def find(self, key: str) -> StoredFile | None:
        name = parse_key(key)
        if name is None or not name.is_servable(clock.now_us()):
            return None
        with self._translated("could not be looked for in"):
            path = self._path(key)
            with suppress(FileNotFoundError):  # removed meanwhile
                if path.is_file():
                    status = path.stat()
                    return StoredFile(name.content_type, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
        return None

    def open(self, key: str, start: int, stop: int) -> Chunks:
        with self._translated("could not be read from"):
            file = self._file(key)
            file.seek(start)
        return Chunks(file, stop - start)

    def read(self, key: str) -> bytes:
        with self._translated("could not be read from"), self._file(key) as file:
            return file.read()

    def url(self, key: str) -> str | None:  # noqa: ARG002  # a folder has no addresses
        return None

    def delete_job(self, job_id: str) -> None:
        with self._translated("could not be removed from"):
            for path in (self._root / job_id[:2]).glob(f"*{job_id}-*"):
                path.unlink(missing_ok=True)

    def page(self, cursor: str) -> Page:
        """Return one of the 256 folders, in the order of their names."""
        with self._translated("could not be looked through in"):
            folders = sorted(path.name for path in self._root.glob("[0-9a-f][0-9a-f]") if path.name > cursor)
            found = tuple(self._look_into(self._root / folders[0])) if folders else ()
        return Page(found, folders[0] if len(folders) > 1 else "")

    def marks(self) -> set[str]:
        with self._translated("could not be looked for in"):
            return {farm_id for path in self._root.glob(mark_of("*")) if (farm_id := farm_of_mark(path.name))}

    def has_mark(self, farm_id: str) -> bool:
        with self._translated("could not be looked for in"):
            return (self._root / mark_of(farm_id)).is_file()

    def remove_mark(self, farm_id: str) -> None:
        with self._translated("could not be removed from"):
            (self._root / mark_of(farm_id)).unlink(missing_ok=True)

    def mark(self, farm_id: str) -> None:
        with self._translated("could not be written to"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_through(self._root / mark_of(farm_id), io.BytesIO())
            _sync_folder(self._root)

    def close(self) -> None:
        pass

    def remove(self, name: str) -> None:
        with self._translated("could not be removed from"):
            (self._root / name.removeprefix(".")[:2] / name).unlink(missing_ok=True)

    def _look_into(self, folder: Path) -> Iterator[Entry]:
        now = clock.now_us() / 1e6
        for path in folder.iterdir():
            part = _PART.fullmatch(path.name)
            if parse_key(part[1] if part else path.name):
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield Entry(path.name, now - path.stat().st_mtime)

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key

    def _file(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"No file has the name '{key}'.") from error

    @contextmanager
    def _translated(self, failure: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StorageUnavailable if error.errno in _TRANSIENT else StorageError
            raise kind(detail=f"the image {failure} the images folder: {error.strerror}") from error


def _write_through(path: Path, content: BinaryIO) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Sync the folder to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
