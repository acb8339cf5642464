"""The sweeper: removes expired images and records, and orphaned images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from farm.domain.errors import StorageError, with_detail
from farm.domain.job import Job, State
from farm.jobstore.store import JobStore
from farm.retention.ownership import ADOPT, Ownership
from farm.retention.sweep_state import SweepState
from farm.storage.storage import Entry, Storage, StorageKey, mark_of, parse_key

#: Younger images are left alone, in seconds: their attempt may still be in progress.
SAFE_SECONDS = 3600.0
#: Seconds between two pages of the sweep through the whole storage.
PAGE_SECONDS = 60.0
#: How to repair a storage with the marks of several farms.
REMEDY = (
    "give each farm a bucket, a prefix or a folder of its own; if this is the only farm that uses it, remove the other "
    f"marks with `{ADOPT} --alone`: images of jobs that it does not know are deleted then"
)
#: Failures in a row after which the storage counts as down; the rest waits for another round.
_MAX_FAILURES_IN_A_ROW = 3

_log = structlog.get_logger(__name__)


class Sweeper:
    """Removes what is expired, in any process, and orphans, in one process at a time.

    An image of an unknown job may belong to another farm that uses the same bucket by mistake, or to this farm, if its
    Redis lost the record. So every farm marks its storage before it stores anything there (`Ownership`), and removes
    orphans only where its mark is the only one.
    """

    def __init__(
        self, store: JobStore, *, storage: Storage, sweep_state: SweepState, ownership: Ownership | None = None
    ) -> None:
        self._store = store
        self._storage = storage
        self._sweep_state = sweep_state
        self._ownership = ownership or Ownership(storage, store=store, sweep_state=sweep_state)

    def run_once(self) -> None:
        """Sweep what is expired, and the next page of the storage if it is due: a periodic task."""
        self._delete_expired()
        cursor = self._sweep_state.acquire(PAGE_SECONDS)
        if cursor is not None:
            self._sweep_state.save_cursor(self._sweep_page(cursor, alone=self._is_alone(), older_than=SAFE_SECONDS))

    def sweep(self, *, older_than: float = SAFE_SECONDS) -> None:
        """Sweep what is expired and the whole storage."""
        self._delete_expired()
        alone = self._is_alone()
        cursor = self._sweep_page("", alone=alone, older_than=older_than)
        while cursor:
            cursor = self._sweep_page(cursor, alone=alone, older_than=older_than)

    def _delete_expired(self) -> None:
        while job_ids := self._store.claim_expired():
            if not self._remove_each(job_ids, self._delete):
                return

    def _delete(self, job_id: str) -> None:
        self._storage.delete_job(job_id)
        self._store.forget(job_id)

    def _is_alone(self) -> bool:
        """Return True if no other farm has marked the storage."""
        others = self._ownership.others(self._ownership.establish())
        if others:
            _log.warning(
                "orphaned images are kept: the storage has marks of other farms",
                marks=sorted(map(mark_of, others)),
                remedy=REMEDY,
            )
        return not others

    def _sweep_page(self, cursor: str, *, alone: bool, older_than: float) -> str:
        """Remove expired uploads on the next page, and orphans if this farm is alone. Return the next cursor.

        An upload's name tells when it expires, so uploads are removed for any farm.
        """
        page, now_us = self._storage.page(cursor), self._sweep_state.now_us()
        expired = [found.name for found in page.entries if _is_expired(found.name, now_us)]
        self._remove_each(expired, self._storage.remove)
        orphans = self._orphans([found for found in page.entries if found.age_seconds > older_than]) if alone else []
        if orphans:
            _log.info("orphaned images removed", count=len(orphans))
        self._remove_each(orphans, self._storage.remove)
        return page.cursor

    def _orphans(self, found: list[Entry]) -> list[str]:
        names = {one.name: parse_key(one.name) for one in found}
        jobs = self._store.records({name.job_id for name in names.values() if name and name.job_id})
        return [
            key
            for key, name in names.items()
            if name is None or (name.job_id and not is_wanted(key, name, jobs.get(name.job_id)))
        ]

    def _remove_each(self, names: Iterable[str], remove: Callable[[str], None]) -> bool:
        """Call `remove` for each name; a failed one comes again. Return False if the storage seems to be down."""
        failures = 0
        for name in names:
            try:
                remove(name)
                failures = 0
            except StorageError as error:
                _log.warning("not removed", name=name, error=with_detail(error))
                failures += 1
            if failures == _MAX_FAILURES_IN_A_ROW:
                return False
        return True


def _is_expired(key: str, now_us: int) -> bool:
    """Return True for an upload that expired so long ago that no accepted job can still need it."""
    name = parse_key(key)
    return name is not None and name.is_expired(now_us - round(SAFE_SECONDS * 1e6))


def is_wanted(key: str, name: StorageKey, job: Job | None) -> bool:
    """Return True if an image is, or may become, part of its job's result, or is an input of it."""
    if job is None:
        return False
    if name.fence is None:
        return job.request.needs_preparation or key in (*job.request.sources, *job.request.inputs)
    if job.state is State.FAILED:
        return False
    if job.result is not None:
        return any(image.key == key for image in job.result.images)
    return name.fence == job.fence
