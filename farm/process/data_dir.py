"""The data folder of a farm: created on first use, and locked by one `farm up` at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from farm.domain.errors import ConfigurationError

_ANOTHER = "choose another one with --data-dir"


class DataDir:
    """A data folder with a lock, which the kernel releases when its holder dies, however it dies.

    The lock file names the holder; the folder itself is locked, too, in case somebody removes the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._descriptors: tuple[int, ...] = ()

    def acquire(self) -> None:
        """Create the folder and lock it. Raises ConfigurationError, with the pid of the process that holds the lock."""
        if not self.try_acquire():
            holder = self._pid()
            raise ConfigurationError(f"A farm already runs on {self.path} (pid {holder}); stop it, or use --data-dir")

    def try_acquire(self) -> bool:
        """Lock the folder, and return True, unless another process has locked it."""
        self.refuse_unusable()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not (_lock(descriptor, fcntl.LOCK_EX) and _lock(folder, fcntl.LOCK_EX)):
            os.close(descriptor)
            os.close(folder)
            return False
        self._descriptors = (descriptor, folder)
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        except OSError as error:
            self.release()
            raise self._unusable(error) from error
        return True

    def refuse_unusable(self) -> None:
        """Raise ConfigurationError if no data folder can have this path."""
        # Path.exists raises for a name that is too long.
        nearest = next(path for path in (self.path, *self.path.parents) if os.path.exists(path))  # noqa: PTH110
        if not nearest.is_dir():
            raise ConfigurationError(
                f"The data folder {self.path} cannot be used: {nearest} is not a folder; {_ANOTHER}"
            )
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"The data folder {self.path} cannot be used: its name is not UTF-8; {_ANOTHER}"
            ) from error

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"The data folder {self.path} cannot be used: {error.strerror}; {_ANOTHER}")

    def holder(self) -> str | None:
        """Return the pid of the process that has locked the folder, or None. Creates no folder and keeps no lock."""
        for locked in (self._lock_file, self.path):
            with suppress(FileNotFoundError, NotADirectoryError):
                descriptor = os.open(locked, os.O_RDONLY | os.O_CLOEXEC)
                is_free = _lock(descriptor, fcntl.LOCK_SH)
                os.close(descriptor)
                if not is_free:
                    return self._pid()
        return None

    def _pid(self) -> str:
        with suppress(FileNotFoundError):
            return self._lock_file.read_text("utf-8").strip()
        return "unknown: its lock file was removed"

    def release(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()

    @property
    def _lock_file(self) -> Path:
        return self.path / "lock"


def _lock(descriptor: int, kind: int) -> bool:
    """Lock a file or folder without waiting, and return False if another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # network file systems do not lock folders
    return True


def file_systems(data_dir: Path) -> dict[Path, int]:
    """Return a folder of each file system on which parts of a data folder lie, or would lie, and its free bytes."""
    folders = (data_dir / "images", data_dir / "redis", data_dir / "uploads", data_dir)
    by_device = {existing(folder).stat().st_dev: folder for folder in folders}
    return {folder: shutil.disk_usage(existing(folder)).free for folder in by_device.values()}


def existing(path: Path) -> Path:
    """Return the path, or the nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
