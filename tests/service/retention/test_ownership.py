"""A farm and its one storage: the first mark, whatever goes wrong with it, and storages of other farms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from structlog.testing import capture_logs

from farm.bootstrap import say_if_storage_fails
from farm.domain.errors import ConfigurationError, StorageError, StorageRefused, StorageUnavailable
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.retention.ownership import OtherStorage, Ownership
from farm.retention.sweep_state import SweepState
from farm.retention.sweeper import Sweeper
from farm.storage.local import LocalStorage
from farm.storage.owned import OwnedStorage
from farm.storage.storage import UNKNOWN_FARM, Page, Storage, new_key
from farm.storage.wrapper import StorageWrapper
from tests.service.api.calls import UNKNOWN_ID

T = TypeVar("T")

ANY_AGE = -60.0


class Faulty(LocalStorage):
    """A folder in which so many of the next marks fail, and whose listing of marks may be out of date."""

    failing_marks = 0
    lists_marks = True

    def mark(self, farm_id: str) -> None:
        if self.failing_marks > 0:
            self.failing_marks -= 1
            raise StorageUnavailable
        super().mark(farm_id)

    def marks(self) -> set[str]:
        return super().marks() if self.lists_marks else set()


@pytest.fixture
def folder(tmp_path: Path) -> Faulty:
    return Faulty(tmp_path / "images")


class Process:
    """The objects of one process of the farm that concern its storage."""

    def __init__(self, store: JobStore, client: redis.Redis, storage: Storage) -> None:
        self.ownership = Ownership(storage, store=store, sweep_state=SweepState(client))
        self.storage = OwnedStorage(storage, self.ownership.establish_once)
        self.sweeper = Sweeper(store, storage=self.storage, sweep_state=SweepState(client), ownership=self.ownership)

    def put_orphan(self) -> str:
        """Store an image whose job was deleted meanwhile, and return its key."""
        key = new_key(UNKNOWN_ID, 1, 0, "png")
        self.storage.put(key, b"content")
        return key


@pytest.fixture
def process(store: JobStore, client: redis.Redis, folder: Faulty) -> Process:
    return Process(store, client, folder)


def test_a_farm_whose_first_mark_failed_still_removes_its_orphans(process: Process, folder: Faulty) -> None:
    folder.failing_marks = 2
    with pytest.raises(StorageError):
        process.sweeper.run_once()
    with pytest.raises(StorageUnavailable):
        process.put_orphan()
    process.put_orphan()

    process.sweeper.sweep(older_than=ANY_AGE)

    assert folder.page("").entries == ()
    assert UNKNOWN_FARM not in folder.marks()


class Failing(StorageWrapper):
    """A storage of which one call fails, counted from 1: before it has its effect, or only its answer is lost."""

    def __init__(self, storage: Storage, number: int, *, answer_is_lost: bool) -> None:
        super().__init__(storage)
        self._left = number
        self._answer_is_lost = answer_is_lost

    @property
    def has_failed(self) -> bool:
        return self._left <= 0

    def _try(self, act: Callable[[], T]) -> T:
        self._left -= 1
        result = act() if self._left or self._answer_is_lost else None
        if result is None or not self._left:
            raise StorageUnavailable(detail="planted")
        return result

    def has_mark(self, farm_id: str) -> bool:
        return self._try(lambda: super(Failing, self).has_mark(farm_id))

    def marks(self) -> set[str]:
        return self._try(super().marks)

    def page(self, cursor: str) -> Page:
        return self._try(lambda: super(Failing, self).page(cursor))

    def mark(self, farm_id: str) -> None:
        self._try(lambda: super(Failing, self).mark(farm_id) or True)

    def put(self, key: str, content: bytes) -> None:
        self._try(lambda: super(Failing, self).put(key, content) or True)

    def remove(self, name: str) -> None:
        self._try(lambda: super(Failing, self).remove(name) or True)


#: The storage calls of two rounds below, of which the first marks the storage.
CALLS = range(1, 15)


@pytest.mark.parametrize("answer_is_lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", CALLS)
def test_a_farm_recovers_from_a_fault_at_any_step(
    store: JobStore, client: redis.Redis, tmp_path: Path, number: int, answer_is_lost: bool
) -> None:
    """Each step of marking, storing and sweeping is tried again, as a worker and the periodic sweep do."""
    failing = Failing(LocalStorage(tmp_path), number, answer_is_lost=answer_is_lost)
    process = Process(store, client, failing)

    for _ in range(2):
        retried(process.put_orphan)
        retried(lambda: process.sweeper.sweep(older_than=ANY_AGE))
    Process(store, client, LocalStorage(tmp_path)).sweeper.sweep(older_than=ANY_AGE)

    assert failing.has_failed
    assert LocalStorage(tmp_path).page("").entries == ()
    assert LocalStorage(tmp_path).marks() == {process.ownership.establish()}


def retried(act: Callable[[], object]) -> None:
    """Call it once more if the storage fails."""
    try:
        act()
    except StorageError:
        act()


def test_a_listing_that_is_out_of_date_makes_no_stranger_of_the_farm(
    store: JobStore, client: redis.Redis, process: Process, folder: Faulty
) -> None:
    process.put_orphan()
    folder.lists_marks = False

    Process(store, client, folder).sweeper.sweep(older_than=ANY_AGE)

    folder.lists_marks = True
    assert folder.page("").entries == ()
    assert UNKNOWN_FARM not in folder.marks()


def test_an_orphan_of_another_process_of_the_same_farm_is_no_strangers(
    store: JobStore, client: redis.Redis, tmp_path: Path
) -> None:
    """The other process marks the storage and stores its image while this one is looking at the storage."""
    other = Process(store, client, LocalStorage(tmp_path))

    class Overtaken(LocalStorage):
        def page(self, cursor: str) -> Page:
            if not cursor and not super().page(cursor).entries:
                other.put_orphan()
            return super().page(cursor)

    Process(store, client, Overtaken(tmp_path)).ownership.establish()

    assert UNKNOWN_FARM not in LocalStorage(tmp_path).marks()


def test_a_second_folder_is_refused_and_stores_nothing(
    store: JobStore, client: redis.Redis, process: Process, tmp_path: Path
) -> None:
    process.ownership.establish()
    second = Process(store, client, LocalStorage(tmp_path / "second"))

    with pytest.raises(OtherStorage, match="farm storage adopt") as refused:
        second.ownership.establish()
    with pytest.raises(StorageUnavailable):
        second.put_orphan()

    assert str(tmp_path / "images") in str(refused.value)
    assert str(tmp_path / "second") in str(refused.value)
    assert not (tmp_path / "second").exists()


def test_of_two_first_processes_one_is_refused_even_before_there_is_a_mark(
    store: JobStore, client: redis.Redis, process: Process, folder: Faulty, tmp_path: Path
) -> None:
    folder.failing_marks = 1
    with pytest.raises(StorageUnavailable):
        process.ownership.establish()
    second = Process(store, client, LocalStorage(tmp_path / "second"))
    with pytest.raises(OtherStorage):
        second.ownership.establish()
    assert 0 < client.pttl(redis_keys.STORAGE) <= 120_000

    client.delete(redis_keys.STORAGE)  # the time for the mark is over
    second.ownership.establish()

    assert client.pttl(redis_keys.STORAGE) == -1
    with pytest.raises(OtherStorage):
        process.ownership.establish()


@pytest.mark.parametrize("change", ["moved", "mounted elsewhere", "emptied"])
def test_the_same_storage_is_known_again(
    store: JobStore, client: redis.Redis, process: Process, tmp_path: Path, change: str
) -> None:
    process.ownership.establish()
    before, after = tmp_path / "images", tmp_path / "elsewhere"
    match change:
        case "moved":
            before.rename(after)
        case "mounted elsewhere":
            after.symlink_to(before)
        case "emptied":
            (mark,) = before.iterdir()
            mark.unlink()
            after = before

    Process(store, client, LocalStorage(after)).ownership.establish()

    assert LocalStorage(after).marks() == {SweepState(client).farm_id()}


def test_an_operator_who_moved_the_images_adopts_the_new_place(
    store: JobStore, client: redis.Redis, process: Process, tmp_path: Path
) -> None:
    process.ownership.establish()
    moved = Process(store, client, LocalStorage(tmp_path / "moved"))

    assert moved.ownership.adopt(alone=False) == set()

    moved.ownership.establish()
    moved.put_orphan()
    assert str(tmp_path / "moved") in str(client.get(redis_keys.STORAGE))


def test_the_only_farm_on_a_storage_gets_rid_of_the_marks_of_others(process: Process, folder: Faulty) -> None:
    folder.mark(UNKNOWN_FARM)
    folder.mark("0" * 32)
    process.put_orphan()
    process.sweeper.sweep(older_than=ANY_AGE)
    assert len(folder.page("").entries) == 1

    assert process.ownership.adopt(alone=True) == {UNKNOWN_FARM, "0" * 32}
    process.sweeper.sweep(older_than=ANY_AGE)

    assert folder.page("").entries == ()


def test_a_start_on_another_folder_is_refused(store: JobStore, client: redis.Redis, tmp_path: Path) -> None:
    for _ in range(2):
        first = Process(store, client, LocalStorage(tmp_path / "first"))
        say_if_storage_fails(first.storage, first.ownership)
    second = Process(store, client, LocalStorage(tmp_path / "second"))

    with pytest.raises(ConfigurationError, match="not the storage of this farm"):
        say_if_storage_fails(second.storage, second.ownership)


STEPS = ("put", "find", "read", "open", "page", "remove")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [StorageRefused, StorageUnavailable])
def test_a_start_names_what_the_storage_refuses_and_goes_on_where_it_only_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[StorageError]
) -> None:
    def fail(*_arguments: object) -> None:
        raise error(detail="access denied")

    monkeypatch.setattr(LocalStorage, step, fail)

    with capture_logs() as logs:
        if error is StorageRefused:
            with pytest.raises(ConfigurationError, match=r"cannot be used.*access denied") as refused:
                say_if_storage_fails(LocalStorage(tmp_path))
            assert _NAMES[step] in str(refused.value)
        else:
            say_if_storage_fails(LocalStorage(tmp_path))
            (warning,) = logs
            assert _NAMES[step] in warning["reason"]


_NAMES = {
    "put": "put:",
    "find": "head:",
    "read": "get:",
    "open": "get a range:",
    "page": "list:",
    "remove": "delete:",
}
