"""A storage around another one. A subclass says what it does besides."""

from __future__ import annotations

from typing import BinaryIO

from farm.storage.storage import Chunks, Page, Storage, StoredFile


class StorageWrapper:
    """A storage that leaves everything to `storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def place(self) -> str:
        return self._storage.place

    def put(self, key: str, content: bytes) -> None:
        self._storage.put(key, content)

    def put_file(self, key: str, file: BinaryIO) -> None:
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
