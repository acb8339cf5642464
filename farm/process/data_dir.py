"""The data folder of a farm: created on first use, and locked by one `farm up` at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from farm.domain.errors import ConfigurationError


class DataDir:
    """A data folder with a file lock, which the kernel releases when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Create the folder and lock it. Raises ConfigurationError, with the pid of the process that holds the lock."""
        if not self.try_acquire():
            holder = self._lock_file.read_text().strip()
            raise ConfigurationError(f"A farm already runs on {self.path} (pid {holder}); stop it, or use --data-dir")

    def try_acquire(self) -> bool:
        """Lock the folder, and return True, unless another process has locked it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"The data folder {self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        return True

    def holder(self) -> str | None:
        """Return the pid of the process that has locked the folder, or None. Creates no folder and keeps no lock."""
        with suppress(FileNotFoundError, NotADirectoryError), self._lock_file.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip()
        return None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def _lock_file(self) -> Path:
        return self.path / "lock"
