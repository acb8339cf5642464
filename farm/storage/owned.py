"""An image storage that stores nothing before the farm has marked it as its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from farm.domain.errors import ConfigurationError, StorageUnavailable, StoreUnavailable, with_detail
from farm.storage.storage import Chunks, Page, Storage, StoredFile


class OwnedStorage:
    """A storage, and `establish`, which is called before each put: an image implies the mark of its farm."""

    def __init__(self, storage: Storage, establish: Callable[[], None]) -> None:
        self._storage = storage
        self._establish = establish

    @property
    def place(self) -> str:
        return self._storage.place

    def put(self, key: str, content: bytes) -> None:
        self._require_mark()
        self._storage.put(key, content)

    def put_file(self, key: str, file: BinaryIO) -> None:
        self._require_mark()
        self._storage.put_file(key, file)

    def find(self, key: str) -> StoredFile | None:
        return self._storage.find(key)

    def open(self, key: str, start: int, stop: int) -> Chunks:
        return self._storage.open(key, start, stop)

    def read(self, key: str) -> bytes:
        return self._storage.read(key)

    def url(self, key: str) -> str | None:
        return self._storage.url(key)

    def delete_job(self, job_id: str) -> None:
        self._storage.delete_job(job_id)

    def page(self, cursor: str) -> Page:
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
        self._storage.remove(name)

    def close(self) -> None:
        self._storage.close()

    def _require_mark(self) -> None:
        try:
            self._establish()
        except (StoreUnavailable, ConfigurationError) as error:
            raise StorageUnavailable(detail=f"it is not known to be this farm's: {with_detail(error)}") from error
