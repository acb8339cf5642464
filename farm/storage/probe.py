"""Try everything that a farm needs of its storage, with a small object that is deleted again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from farm import clock
from farm.domain.errors import StorageError
from farm.storage.storage import Storage, StoredFile, new_upload_key

T = TypeVar("T")

CONTENT = b"Written to check the storage, and deleted at once."
#: An object that could not be deleted expires like an upload.
_EXPIRY_SECONDS = 60


class Inconsistent(StorageError):
    """The storage reports success, but its content is wrong."""


@dataclass(slots=True)
class Probe:
    """One check of a storage: the seconds of each step, the object as the storage describes it, and when it was put."""

    seconds: dict[str, float] = field(default_factory=dict)
    stored: StoredFile | None = None
    put_at: float = 0.0

    def run(
        self, storage: Storage, *, key: str | None = None, while_stored: Callable[[str], None] = lambda _key: None
    ) -> None:
        """Put, describe, read, list and delete an object. Raise StorageError, whose detail names the step.

        `while_stored` is called with the object's key before it is deleted. Without a `key` it is one that expires.
        """
        self.put_at = clock.now_us() / 1e6
        key = key or new_upload_key("bin", until=round(self.put_at) + _EXPIRY_SECONDS)
        self.step("put", lambda: storage.put(key, CONTENT))
        try:
            self._look_at(storage, key)
            while_stored(key)
        finally:
            self.step("delete", lambda: storage.remove(key))
        if self.step("head", lambda: storage.find(key)) is not None:
            raise Inconsistent("The storage still has an object that was deleted.")

    def step(self, name: str, act: Callable[[], T]) -> T:
        """Return what `act` returns, and note how long it takes. An error of the storage is told with the step."""
        began = clock.monotonic()
        try:
            result = act()
        except StorageError as error:
            error.detail = f"{name}: {error.detail}" if error.detail else name
            raise
        self.seconds[name] = clock.monotonic() - began
        return result

    def _look_at(self, storage: Storage, key: str) -> None:
        self.stored = self.step("head", lambda: storage.find(key))
        if self.stored is None or self.stored.bytes != len(CONTENT):
            raise Inconsistent("The storage does not find an object that it has accepted.")
        if self.step("get", lambda: storage.read(key)) != CONTENT:
            raise Inconsistent("The storage returned other bytes than were written.")
        if self.step("get a range", lambda: _range(storage, key)) != CONTENT[5:10]:
            raise Inconsistent("The storage returned another range of bytes than was asked for.")
        self.step("list", lambda: storage.page(""))


def _range(storage: Storage, key: str) -> bytes:
    chunks = storage.open(key, 5, 10)
    try:
        return b"".join(chunks)
    finally:
        chunks.close()
