"""An image storage whose operations are counted and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from farm import clock
from farm.domain.errors import NotFound
from farm.storage.storage import Chunks, Page, Storage, StoredFile
from farm.storage.wrapper import StorageWrapper

#: Called with an operation, its seconds, and the error that it ended with.
Count = Callable[[str, float, BaseException | None], None]


class MeasuredStorage(StorageWrapper):
    """A storage, and `count`, which is told of each operation on its files."""

    def __init__(self, storage: Storage, count: Count) -> None:
        super().__init__(storage)
        self._count = count

    def put(self, key: str, content: bytes) -> None:
        with self._measured("put"):
            super().put(key, content)

    def put_file(self, key: str, file: BinaryIO) -> None:
        with self._measured("put"):
            super().put_file(key, file)

    def find(self, key: str) -> StoredFile | None:
        with self._measured("find"):
            return super().find(key)

    def open(self, key: str, start: int, stop: int) -> Chunks:
        with self._measured("read"):
            return super().open(key, start, stop)

    def read(self, key: str) -> bytes:
        with self._measured("read"):
            return super().read(key)

    def delete_job(self, job_id: str) -> None:
        with self._measured("delete"):
            super().delete_job(job_id)

    def page(self, cursor: str) -> Page:
        with self._measured("list"):
            return super().page(cursor)

    def remove(self, name: str) -> None:
        with self._measured("delete"):
            super().remove(name)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        began, failure = clock.monotonic(), None
        try:
            yield
        except NotFound:  # the storage works
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            self._count(operation, clock.monotonic() - began, failure)
