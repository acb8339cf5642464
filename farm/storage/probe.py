"""A trial of a storage: write, read and delete a small object."""

from __future__ import annotations

from farm import clock
from farm.domain.errors import StorageError
from farm.storage.storage import Storage, new_upload_key

CONTENT = b"Written to try the storage, and deleted at once."
#: Seconds after which the sweeper would remove it, if it were left behind.
_KEPT_SECONDS = 60


class Inconsistent(StorageError):
    """The storage reports success, but its content is wrong."""


def try_storage(storage: Storage) -> None:
    """Write, read and delete an object. Raises StorageError.

    It is an upload by its name: an image of an unknown job would look like another farm's.
    """
    key = new_upload_key("bin", until=clock.now_us() // 1_000_000 + _KEPT_SECONDS)
    storage.put(key, CONTENT)
    try:
        if storage.read(key) != CONTENT:
            raise Inconsistent("The storage returned other bytes than were written.")
    finally:
        storage.remove(key)
