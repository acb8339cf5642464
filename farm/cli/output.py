"""Destinations of `farm render --from`: a folder, or a prefix in a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from farm.atomic_file import write_atomically
from farm.domain.errors import FarmError, NotFound
from farm.settings import Settings

BUCKET = "s3://"


class UnusableOutput(FarmError):
    """A place that cannot be written to or read."""


class Output(Protocol):
    """Files by their names, written at once or not at all. All methods raise FarmError."""

    @property
    def place(self) -> str:
        """Its name for people."""

    def write(self, name: str, content: bytes) -> None: ...

    def read(self, name: str) -> bytes | None:
        """Return a file; None if there is none."""

    def names(self) -> set[str]:
        """Return the names of all files."""


class Folder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def place(self) -> str:
        return str(self._path)

    def write(self, name: str, content: bytes) -> None:
        path = self._path / name
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise UnusableOutput(f"--out: cannot write {path}: {error.strerror}.") from error

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnusableOutput(f"--out: cannot read {self._path / name}: {error.strerror}.") from error

    def names(self) -> set[str]:
        return {path.name for path in self._path.iterdir()} if self._path.is_dir() else set()


class BucketPrefix:
    """A prefix in an S3 bucket, with boto3's own credentials."""

    def __init__(self, url: str, settings: Settings) -> None:
        # Importing boto3 costs half a second.
        from farm.storage.s3 import Bucket
        from farm.storage.s3_files import S3Files

        self.place = url
        options = {"checksums": settings.s3_checksums, "addressing": settings.s3_addressing}
        self._files = S3Files(Bucket.at(url, **options), setting="--out")

    def write(self, name: str, content: bytes) -> None:
        self._files.write(name, content)

    def read(self, name: str) -> bytes | None:
        try:
            return self._files.read(name)
        except NotFound:
            return None

    def names(self) -> set[str]:
        return set(self._files.names())


def output_at(name: str, settings: Settings) -> Output:
    """Return the output that `--out NAME` means."""
    return BucketPrefix(name, settings) if name.startswith(BUCKET) else Folder(Path(name))
