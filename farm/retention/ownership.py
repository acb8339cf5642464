"""The tie between a farm and its one image storage: the farm's mark in it, and its place in the farm's Redis."""

from __future__ import annotations

from collections.abc import Iterable

from farm.domain.errors import ConfigurationError
from farm.jobstore.store import JobStore
from farm.retention.sweep_state import SweepState
from farm.storage.storage import UNKNOWN_FARM, Entry, Storage, parse_key

#: How long the first process of a farm may take to mark the storage, in seconds.
_MARK_SECONDS = 120.0
#: The way out of a storage that is not the farm's, or that other farms seem to share.
ADOPT = "farm storage adopt"


class OtherStorage(ConfigurationError):
    """The storage of this process is not the one that the farm uses."""


class Ownership:
    """Marks the farm's storage before anything is stored there, and tells it apart from every other storage.

    The farm's id is kept in its Redis, so a farm whose Redis was emptied is another farm. Its processes may reach the
    storage at different addresses: whichever has the mark is the right one. The place is recorded for the time until
    there is a mark, so that of two first processes with a storage each only one marks its own.
    """

    def __init__(self, storage: Storage, *, store: JobStore, sweep_state: SweepState) -> None:
        self.storage = storage
        self._store = store
        self._sweep_state = sweep_state
        self._is_established = False

    def establish_once(self) -> None:
        """Do what `establish` does until it has succeeded once in this process."""
        if not self._is_established:
            self.establish()

    def establish(self) -> str:
        """Mark the storage unless the farm has done so already, and return the farm's id.

        Raises OtherStorage if the farm uses another storage.
        """
        farm_id = self._sweep_state.farm_id()
        if not self.storage.has_mark(farm_id):
            self._require_own_place()
            self._mark(farm_id)
            self._sweep_state.record_storage(self.storage.place)
        self._is_established = True
        return farm_id

    def others(self, farm_id: str) -> set[str]:
        """Return the ids of other farms that have marked the storage."""
        return self.storage.marks() - {farm_id}

    def adopt(self, *, alone: bool) -> set[str]:
        """Make this storage the farm's, wherever its images were before. Return the ids whose marks were removed.

        `alone` removes all other marks. Images of jobs that this farm does not know will be deleted then.
        """
        farm_id = self._sweep_state.farm_id()
        self._sweep_state.record_storage(self.storage.place)
        self._mark(farm_id)
        removed = self.others(farm_id) if alone else set()
        for other in removed:
            self.storage.remove_mark(other)
        return removed

    def _require_own_place(self) -> None:
        place = self.storage.place
        recorded = self._sweep_state.reserve_storage(place, _MARK_SECONDS)
        if recorded != place:
            raise OtherStorage(
                f"This is not the storage of this farm: {place} lacks its mark, and its images are in {recorded}. "
                f"Use that one, or give each farm a Redis of its own; if you moved the images, run `{ADOPT}`."
            )

    def _mark(self, farm_id: str) -> None:
        """Mark the storage. Images that were there before any mark are another farm's, and get a mark, too.

        Own images are never there before the own mark. So the mark is looked for after the images: another process
        of this farm may have left both meanwhile.
        """
        if not self.storage.marks() and self._has_unknown_images() and not self.storage.has_mark(farm_id):
            self.storage.mark(UNKNOWN_FARM)
        self.storage.mark(farm_id)

    def _has_unknown_images(self) -> bool:
        """Return True if there is any image, young ones included, of a job that this farm does not know."""
        page = self.storage.page("")
        while not self._unknown_jobs(page.entries):
            if not page.cursor:
                return False
            page = self.storage.page(page.cursor)
        return True

    def _unknown_jobs(self, found: Iterable[Entry]) -> set[str]:
        ids = {name.job_id for one in found if (name := parse_key(one.name)) and name.job_id}
        return ids - self._store.records(ids).keys()
