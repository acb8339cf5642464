"""Guard of the disk under the embedded Redis, which answers a change before it learns that its file could not grow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from farm.domain.errors import StoreDiskFull, StoreUnavailable

#: Free bytes below which nothing changes a record: as many of the largest changes (24 KB) as the API has threads.
CHANGE_RESERVE = 16 * 2**20
#: Free bytes below which nothing new is accepted: what is accepted already needs some to end.
SUBMIT_RESERVE = 2 * CHANGE_RESERVE
#: Changes that accept something new.
_ACCEPTING = frozenset({"submit", "issue_ticket", "create_bulk", "add_file"})
#: Scripts that run on a full disk, too: they free space, or are repeated if they are lost.
_ALWAYS_RUN = frozenset(
    {
        *("delete", "claim_expired", "call_answered", "call_heartbeat", "renew", "renew_unprepared"),
        *("release", "release_unprepared", "remove_worker", "renew_bulk", "release_bulk"),
    }
)


#: Called before a change, with the name of its script, or what else it does; raises StoreDiskFull to refuse it.
Guard = Callable[[str], None]


def no_guard(_change: str) -> None:
    """Allow every change: the disk of an operator's own Redis cannot be seen from here."""


class DiskGuard:
    """Refuses changes while the disk of a folder has too little space left."""

    def __init__(self, folder: Path, free_bytes: Callable[[Path], int] | None = None) -> None:
        """Watch the disk of `folder`; `free_bytes` measures it."""
        self._folder = folder
        self._free_bytes = free_bytes or _free_bytes

    def __call__(self, change: str) -> None:
        """Raise StoreDiskFull if this change may not be made now."""
        if change in _ALWAYS_RUN:
            return
        if self._free_bytes(self._folder) < (SUBMIT_RESERVE if change in _ACCEPTING else CHANGE_RESERVE):
            raise StoreDiskFull(detail=f"free space for {self._folder}")


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of a folder's disk, uncached: it takes a microsecond. Raises StoreUnavailable."""
    try:
        disk = os.statvfs(folder)
    except OSError as error:  # the folder is gone
        raise StoreUnavailable(detail=str(error)) from error
    return disk.f_bavail * disk.f_frsize
