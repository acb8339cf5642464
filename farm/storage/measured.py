"""An image storage whose operations are counted and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from farm import clock
from farm.domain.errors import NotFound
from farm.storage.storage import Chunks, Page, Storage, StoredFile

#: Called with an operation, its outcome and its seconds.
Count = Callable[[str, str, float], None]


class MeasuredStorage:
    """A storage, and `count`, which is told of each operation on its files."""

    def __init__(self, storage: Storage, count: Count) -> None:
        self._storage = storage
        self._count = count

    @property
    def place(self) -> str:
        return self._storage.place

    def put(self, key: str, content: bytes) -> None:
        with self._measured("put"):
            self._storage.put(key, content)

    def put_file(self, key: str, file: BinaryIO) -> None:
        with self._measured("put"):
            self._storage.put_file(key, file)

    def find(self, key: str) -> StoredFile | None:
        with self._measured("find"):
            return self._storage.find(key)

    def open(self, key: str, start: int, stop: int) -> Chunks:
        with self._measured("read"):
            return self._storage.open(key, start, stop)

    def read(self, key: str) -> bytes:
        with self._measured("read"):
            return self._storage.read(key)

    def url(self, key: str) -> str | None:
        return self._storage.url(key)

    def delete_job(self, job_id: str) -> None:
        with self._measured("delete"):
            self._storage.delete_job(job_id)

    def page(self, cursor: str) -> Page:
        with self._measured("list"):
            return self._storage.page(cursor)

    def marks(self) -> set[str]:
        return self._storage.marks()

    def has_mark(self, farm_id: str) -> bool:
        return self._storage.has_mark(farm_id)

    def mark(self, farm_id: str) -> None:
        self._storage.mark(farm_id)

    def remove_mark(self, farm_id: str) -> None:
        self._storage.remove_mark(farm_id)

    def remove(self, name: str) -> None:
        with self._measured("delete"):
            self._storage.remove(name)

    def close(self) -> None:
        self._storage.close()

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        began, outcome = clock.monotonic(), "error"
        try:
            yield
            outcome = "ok"
        except NotFound:
            outcome = "ok"  # the storage works
            raise
        finally:
            self._count(operation, outcome, clock.monotonic() - began)
