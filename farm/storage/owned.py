"""An image storage that stores nothing before the farm has marked it as its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from farm.domain.errors import ConfigurationError, StorageUnavailable, StoreUnavailable, with_detail
from farm.storage.storage import Storage
from farm.storage.wrapper import StorageWrapper


class OwnedStorage(StorageWrapper):
    """A storage, and `establish`, which is called before each put: an image implies the mark of its farm."""

    def __init__(self, storage: Storage, establish: Callable[[], None]) -> None:
        super().__init__(storage)
        self._establish = establish

    def put(self, key: str, content: bytes) -> None:
        self._require_mark()
        super().put(key, content)

    def put_file(self, key: str, file: BinaryIO) -> None:
        self._require_mark()
        super().put_file(key, file)

    def _require_mark(self) -> None:
        try:
            self._establish()
        except (StoreUnavailable, ConfigurationError) as error:
            raise StorageUnavailable(detail=f"it is not known to be this farm's: {with_detail(error)}") from error
